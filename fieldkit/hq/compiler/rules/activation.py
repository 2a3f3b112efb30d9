"""Rules of activation functions, by the passes over the tensor that onnxruntime is fast at.

Its ``Softplus``, ``PRelu``, ``Log`` and ``Pow`` take 10 to 80 times as long as ``Mul``; ``Sigmoid``, ``Tanh``, ``Exp``
and ``HardSigmoid`` once or twice as long.
"""

from __future__ import annotations

import math

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, unbroadcast
from fieldkit.hq.compiler.rules.masks import above, between
from fieldkit.hq.compiler.rules.standardisation import line

Made = tuple[Value, Pullback | None]

# Above this, log(1 + exp(x)) is x in float32.
LINEAR = 17.0
# exp(x)^2 is finite in float32 up to here, and tanh(softplus(x)) is 1 from well below.
LARGEST = 40.0


def relu(call: Call, x: Value) -> Made:
    """max(x, 0), of slope 0 at 0 itself."""
    graph = call.graph
    y = graph.op("Relu", x)
    return y, lambda dy: (graph.op("Mul", dy, above(graph, y, 0.0)),)


def hardtanh(call: Call, x: Value, low: float = -1.0, high: float = 1.0) -> Made:
    """x cut to [low, high]; unlike ``clamp`` without a gradient at the ends themselves."""
    graph = call.graph
    y = graph.op("Clip", x, call.tensor(low), call.tensor(high))
    return y, lambda dy: (graph.op("Mul", dy, between(graph, y, low, high)),)


def relu6(call: Call, x: Value) -> Made:
    """x cut to [0, 6]."""
    return hardtanh(call, x, 0.0, 6.0)


def leaky_relu(call: Call, x: Value, negative: float = 0.01) -> Made:
    """x where it is positive, ``negative`` * x elsewhere."""
    graph = call.graph
    y = graph.op("LeakyRelu", x, alpha=float(negative))

    def pullback(dy: Value) -> tuple[Value]:
        rise = graph.op("Mul", above(graph, x, 0.0), call.tensor(1.0 - negative))
        return (graph.op("Mul", dy, graph.op("Add", rise, call.tensor(negative))),)

    return y, pullback


def prelu(call: Call, x: Value, weight: Value) -> Made:
    """x [n, c, ...] where it is positive, times ``weight`` [c] or [1] elsewhere."""
    graph = call.graph
    slope = graph.reshape(weight, (weight.size(0), *(1 for _ in x.shape[2:]))) if x.rank > 1 else weight
    negative = graph.op("Clip", x, None, call.tensor(0.0))
    y = graph.op("Add", graph.op("Relu", x), graph.op("Mul", negative, slope))

    def pullback(dy: Value) -> tuple[Value, Value]:
        positive = above(graph, x, 0.0)
        rise = graph.op("Mul", positive, graph.op("Sub", call.tensor(1.0), slope))
        dx = graph.op("Mul", dy, graph.op("Add", rise, slope))
        dslope = unbroadcast(graph, graph.op("Mul", dy, negative), slope)
        return dx, graph.reshape(dslope, weight.shape)

    return y, pullback


def elu(call: Call, x: Value, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> Made:
    """scale * x where x > 0, else scale * alpha * (exp(inner * x) - 1)."""
    graph = call.graph
    negative = graph.op("Clip", x, None, call.tensor(0.0))
    curve = graph.op("Exp", graph.op("Mul", negative, call.tensor(inner)))
    below = graph.op("Mul", graph.op("Sub", curve, call.tensor(1.0)), call.tensor(scale * alpha))
    y = graph.op("Add", graph.op("Mul", graph.op("Relu", x), call.tensor(scale)), below)

    def pullback(dy: Value) -> tuple[Value]:
        # The curve is 1 for all x >= 0; what its slope lacks there is added where x > 0.
        steep = scale * alpha * inner
        slope = graph.op("Mul", curve, call.tensor(steep))
        if steep != scale:
            slope = graph.op("Add", slope, graph.op("Mul", above(graph, x, 0.0), call.tensor(scale - steep)))
        return (graph.op("Mul", dy, slope),)

    return y, pullback


def selu(call: Call, x: Value) -> Made:
    """Klambauer et al. 2017, section 2: the constants that keep mean 0 and variance 1."""
    return elu(call, x, alpha=1.6732632423543772, scale=1.0507009873554805)


def celu(call: Call, x: Value, alpha: float = 1.0) -> Made:
    """max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    return elu(call, x, alpha=alpha, inner=1.0 / alpha)


def sigmoid(call: Call, x: Value) -> Made:
    """1 / (1 + exp(-x))."""
    graph = call.graph
    y = graph.op("Sigmoid", call.tensor(x))

    def pullback(dy: Value) -> tuple[Value]:
        return (graph.op("Mul", dy, graph.op("Mul", y, graph.op("Sub", call.tensor(1.0), y))),)

    return y, pullback


def tanh(call: Call, x: Value) -> Made:
    """The hyperbolic tangent."""
    graph = call.graph
    y = graph.op("Tanh", call.tensor(x))

    def pullback(dy: Value) -> tuple[Value]:
        return (graph.op("Mul", dy, graph.op("Sub", call.tensor(1.0), graph.op("Mul", y, y))),)

    return y, pullback


def silu(call: Call, x: Value) -> Made:
    """x * sigmoid(x), of slope s + y (1 - s)."""
    graph = call.graph
    gate = graph.op("Sigmoid", x)
    y = graph.op("Mul", x, gate)

    def pullback(dy: Value) -> tuple[Value]:
        rest = graph.op("Mul", y, graph.op("Sub", call.tensor(1.0), gate))
        return (graph.op("Mul", dy, graph.op("Add", gate, rest)),)

    return y, pullback


def mish(call: Call, x: Value) -> Made:
    """x * tanh(softplus(x)); with e = exp(x) the gate is n / (n + 2) for n = e (e + 2)."""
    graph = call.graph
    e = graph.op("Exp", graph.op("Clip", x, None, call.tensor(LARGEST)))
    n = graph.op("Mul", e, graph.op("Add", e, call.tensor(2.0)))
    gate = graph.op("Div", n, graph.op("Add", n, call.tensor(2.0)))
    y = graph.op("Mul", x, gate)

    def pullback(dy: Value) -> tuple[Value]:
        rest = graph.op("Sub", call.tensor(1.0), graph.op("Mul", gate, gate))
        bend = graph.op("Mul", x, graph.op("Mul", rest, graph.op("Sigmoid", x)))
        return (graph.op("Mul", dy, graph.op("Add", gate, bend)),)

    return y, pullback


def gelu(call: Call, x: Value, approximate: str = "none") -> Made:
    """x times the normal distribution's chance of a value below x, or the approximation of it by tanh."""
    graph = call.graph
    if not x.trains:
        return graph.op("Gelu", x, approximate=approximate), None
    return _gelu_by_tanh(call, x) if approximate == "tanh" else _gelu(call, x)


def _gelu(call: Call, x: Value) -> Made:
    graph = call.graph
    u = graph.op("Mul", x, call.tensor(math.sqrt(0.5)))
    chance = graph.op("HardSigmoid", graph.op("Erf", u), alpha=0.5, beta=0.5)

    def pullback(dy: Value) -> tuple[Value]:
        # x times the density at x is u exp(-u^2) / sqrt(pi).
        exponent = graph.op("Sub", call.tensor(-0.5 * math.log(math.pi)), graph.op("Mul", u, u))
        bend = graph.op("Mul", u, graph.op("Exp", exponent))
        return (graph.op("Mul", dy, graph.op("Add", chance, bend)),)

    return graph.op("Mul", x, chance), pullback


def _gelu_by_tanh(call: Call, x: Value) -> Made:
    """0.5 x (1 + tanh(z)), which is x sigmoid(2 z)."""
    graph = call.graph
    linear = 2.0 * math.sqrt(2.0 / math.pi)
    cubic = 0.044715 * linear
    square = graph.op("Mul", x, x)
    factor = graph.op("Add", graph.op("Mul", square, call.tensor(cubic)), call.tensor(linear))
    gate = graph.op("Sigmoid", graph.op("Mul", x, factor))
    y = graph.op("Mul", x, gate)

    def pullback(dy: Value) -> tuple[Value]:
        steep = graph.op("Add", graph.op("Mul", square, call.tensor(3.0 * cubic)), call.tensor(linear))
        rest = graph.op("Mul", y, graph.op("Sub", call.tensor(1.0), gate))
        return (graph.op("Mul", dy, graph.op("Add", gate, graph.op("Mul", rest, steep))),)

    return y, pullback


def hard_sigmoid(call: Call, x: Value) -> Made:
    """x / 6 + 1/2 cut to [0, 1]."""
    graph = call.graph
    y = graph.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)

    def pullback(dy: Value) -> tuple[Value]:
        slope = graph.op("Mul", between(graph, x, -3.0, 3.0), call.tensor(1.0 / 6.0))
        return (graph.op("Mul", dy, slope),)

    return y, pullback


def hard_swish(call: Call, x: Value) -> Made:
    """x times its hard sigmoid, of slope x / 3 + 1/2 between -3 and 3, 0 below and 1 above."""
    graph = call.graph
    gate = graph.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)

    def pullback(dy: Value) -> tuple[Value]:
        # What the line lacks to 1 falls from 3/2 to -1/2 and is cut to 0 beyond; then so is what that lacks to 1.
        lacking = graph.op("ThresholdedRelu", line(graph, x, -1.0 / 3.0, 0.5), alpha=-0.5)
        slope = graph.op("ThresholdedRelu", graph.op("Sub", call.tensor(1.0), lacking), alpha=-0.5)
        return (graph.op("Mul", dy, slope),)

    return graph.op("Mul", x, gate), pullback


def softplus(call: Call, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Made:
    """log(1 + exp(beta x)) / beta; torch's threshold for the linear part is one that rounding sets anyway."""
    if threshold < LINEAR:
        raise call.refuse(f"threshold {threshold}", f"at least {LINEAR}", "leave the threshold at 20")
    graph = call.graph
    scaled = graph.op("Mul", x, call.tensor(beta))
    # max(x, 0) - log(sigmoid(|x|)) has no large exponentials.
    log = graph.op("Log", graph.op("Sigmoid", graph.op("Abs", scaled)))
    y = graph.op("Div", graph.op("Sub", graph.op("Relu", scaled), log), call.tensor(beta))
    return y, lambda dy: (graph.op("Mul", dy, graph.op("Sigmoid", scaled)),)


def log_sigmoid(call: Call, x: Value) -> Made:
    """log(sigmoid(x)), without large exponentials."""
    graph = call.graph
    log = graph.op("Log", graph.op("Sigmoid", graph.op("Abs", x)))
    y = graph.op("Add", graph.op("Clip", x, None, call.tensor(0.0)), log)
    return y, lambda dy: (graph.op("Mul", dy, graph.op("Sigmoid", graph.op("Neg", x))),)


def glu(call: Call, x: Value, axis: int = -1) -> Made:
    """The first half of an axis times the sigmoid of the second."""
    graph = call.graph
    axis %= x.rank
    half = x.size(axis) // 2
    value, other = graph.ops("Split", x, graph.constant([half, half], "int64"), axis=axis, count=2)
    gate = graph.op("Sigmoid", other)
    y = graph.op("Mul", value, gate)

    def pullback(dy: Value) -> tuple[Value]:
        rest = graph.op("Mul", y, graph.op("Sub", call.tensor(1.0), gate))
        return (graph.op("Concat", graph.op("Mul", dy, gate), graph.op("Mul", dy, rest), axis=axis),)

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.relu.default": relu,
    "aten.relu6.default": relu6,
    "aten.hardtanh.default": hardtanh,
    "aten.leaky_relu.default": leaky_relu,
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu,
    "aten.elu.default": elu,
    "aten.selu.default": selu,
    "aten.celu.default": celu,
    "aten.sigmoid.default": sigmoid,
    "aten.tanh.default": tanh,
    "aten.silu.default": silu,
    "aten.mish.default": mish,
    "aten.gelu.default": gelu,
    "aten.hardsigmoid.default": hard_sigmoid,
    "aten.hardswish.default": hard_swish,
    "aten.softplus.default": softplus,
    "aten.log_sigmoid.default": log_sigmoid,
    "aten.glu.default": glu,
}
