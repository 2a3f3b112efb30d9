"""Two tables: ATen operator -> the rule that compiles it, forward and backward; and pairs that are compiled as one.

A rule is one function in the file of its subject; ``call.py`` says what it takes and returns.
"""

from fieldkit.hq.compiler.rules import (
    activation,
    arithmetic,
    attention,
    batch_norm,
    casting,
    choices,
    convolution,
    directions,
    dropout,
    einsum,
    filling,
    functions,
    indexing,
    layer_norm,
    limits,
    linear,
    normalisation,
    pooling,
    powers,
    rearranging,
    reduction,
    resizing,
    sampling,
    shaping,
    stem,
    thresholds,
    variance,
)
from fieldkit.hq.compiler.rules.call import Fusion, Rule

RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **functions.RULES,
    **powers.RULES,
    **limits.RULES,
    **choices.RULES,
    **casting.RULES,
    **activation.RULES,
    **thresholds.RULES,
    **shaping.RULES,
    **rearranging.RULES,
    **indexing.RULES,
    **filling.RULES,
    **einsum.RULES,
    **reduction.RULES,
    **linear.RULES,
    **directions.RULES,
    **attention.RULES,
    **convolution.RULES,
    **normalisation.RULES,
    **batch_norm.RULES,
    **layer_norm.RULES,
    **variance.RULES,
    **dropout.RULES,
    **pooling.RULES,
    **resizing.RULES,
    **sampling.RULES,
}

FUSIONS: dict[tuple[str, str], Fusion] = {
    ("aten.conv2d.default", "aten.group_norm.default"): Fusion(stem.applies, stem.convolution_and_norm),
}
