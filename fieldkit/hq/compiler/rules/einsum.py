"""Einstein sums of one or two tensors, as products of matrices.

A term is a string with a letter for each axis.  The gradient of a factor is the sum of the result's gradient and the
other factor, with this factor's term as the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.free_batch import product

Made = tuple[Value, Pullback | None]
Term = tuple[Value, str]


def einsum(call: Call, equation: str, operands: Sequence[Value], *_settings: object) -> Made:
    """Each letter is an axis; those that the result does not name are summed."""
    graph = call.graph
    terms, result = _terms(call, equation, len(operands))
    sizes: dict[str, Dim] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, n in zip(term, operand.shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                raise call.refuse(f"sizes {sizes[letter]} and {n} of {letter}", "one size", "expand the smaller tensor")
    if len(operands) == 1:
        y = _arranged(graph, operands[0], terms[0], result)
        return y, lambda dy: (None, [_spread(graph, (dy, result), terms[0], sizes)])
    (a, b), (first, second) = operands, terms
    y = _contracted(graph, (a, first), (b, second), result)

    def back(dy: Value, other: Term, wanted: str) -> Value:
        known = "".join(letter for letter in wanted if letter in result + other[1])
        return _spread(graph, (_contracted(graph, (dy, result), other, known), known), wanted, sizes)

    def pullback(dy: Value) -> tuple[None, list[Value | None]]:
        da = back(dy, (b, second), first) if a.trains else None
        return None, [da, back(dy, (a, first), second) if b.trains else None]

    return y, pullback


def _terms(call: Call, equation: str, count: int) -> tuple[list[str], str]:
    """The operands' terms and the result's, which torch completes by the letters that occur once, in their order."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or count > 2 or any(len(set(term)) < len(term) for term in terms):
        expected = "one or two tensors, each axis with a letter of its own"
        raise call.refuse(equation, expected, "write it as several sums")
    if not arrow:
        result = "".join(letter for letter in sorted(set(left) - {","}) if left.count(letter) == 1)
    return terms, result


def _arranged(graph: Graph, x: Value, term: str, wanted: str) -> Value:
    """The axes of x in another order, and the sum over those that are not wanted."""
    spare = [axis for axis, letter in enumerate(term) if letter not in wanted]
    kept = [letter for letter in term if letter in wanted]
    return graph.transpose(graph.sum(x, spare, keep=False), [kept.index(letter) for letter in wanted])


def _contracted(graph: Graph, a: Term, b: Term, result: str) -> Value:
    """The sum of the products of two tensors, over all letters that the result does not name."""
    sizes = {letter: n for value, term in (a, b) for letter, n in zip(term, value.shape, strict=True)}
    both = [letter for letter in a[1] if letter in b[1]]
    batch = "".join(letter for letter in result if letter in both)
    inner = "".join(letter for letter in both if letter not in result)
    rows, columns = (
        "".join(letter for letter in result if letter in term and letter not in both) for term in (a[1], b[1])
    )

    def matrices(term: Term, first: str, second: str) -> Value:
        value = _arranged(graph, *term, batch + first + second)
        shape = [
            *(sizes[letter] for letter in batch),
            *(product([sizes[each] for each in part]) for part in (first, second)),
        ]
        return graph.reshape(value, shape)

    # Without anything to sum it is a product of numbers, by broadcasting.
    left, right = matrices(a, rows, inner), matrices(b, inner, columns)
    y = graph.op("MatMul" if inner else "Mul", left, right)
    order = batch + rows + columns
    return _arranged(graph, graph.reshape(y, [sizes[letter] for letter in order]), order, result)


def _spread(graph: Graph, x: Term, wanted: str, sizes: Mapping[str, Dim]) -> Value:
    """A gradient repeated along the axes that were summed away."""
    value, term = x
    if len(term) == len(wanted):
        return _arranged(graph, value, term, wanted)
    kept = "".join(letter for letter in wanted if letter in term)
    apart = graph.reshape(_arranged(graph, value, term, kept), [sizes[n] if n in term else 1 for n in wanted])
    return graph.op("Expand", apart, graph.constant([sizes[letter] for letter in wanted], "int64"))


RULES: dict[str, Rule] = {
    "aten.einsum.default": einsum,
}
