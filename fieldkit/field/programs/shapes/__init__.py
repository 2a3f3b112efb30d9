"""The shape that each allowed operator gives, from its inputs' shapes (ONNX operator specifications up to opset 20).

A rule takes a node, the shapes of its inputs (None for one that is left out) and the values of those that are small
constants, and returns the shapes of the outputs.  A shape that follows from values which are no constants is Unknown.
What does not fit together raises ValueError, IndexError or TypeError.
"""

from fieldkit.field.programs.shapes import arranging, making, windows
from fieldkit.field.programs.shapes.arguments import Rule

RULES: dict[str, Rule] = {**arranging.RULES, **making.RULES, **windows.RULES}
"""One for each of ``program.ALLOWED_OPERATORS``."""
