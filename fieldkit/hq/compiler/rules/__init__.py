"""One table: ATen operator -> the rule that compiles it, forward and backward.

A rule is one function in the file of its subject; ``call.py`` says what it takes and returns.
"""

from fieldkit.hq.compiler.rules import (
    convolution,
    elementwise,
    linear,
    normalisation,
    pooling,
    reduction,
    sampling,
    shaping,
)
from fieldkit.hq.compiler.rules.call import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **shaping.RULES,
    **reduction.RULES,
    **linear.RULES,
    **convolution.RULES,
    **normalisation.RULES,
    **pooling.RULES,
    **sampling.RULES,
}
