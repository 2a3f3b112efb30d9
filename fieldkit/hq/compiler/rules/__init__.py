"""Two tables: ATen operator -> the rule that compiles it, forward and backward; and pairs that are compiled as one.

A rule is one function in the file of its subject; ``call.py`` says what it takes and returns.
"""

from fieldkit.hq.compiler.rules import (
    activation,
    attention,
    batch_norm,
    convolution,
    dropout,
    einsum,
    elementwise,
    filling,
    indexing,
    layer_norm,
    linear,
    normalisation,
    pooling,
    rearranging,
    reduction,
    resizing,
    sampling,
    shaping,
    stem,
    variance,
)
from fieldkit.hq.compiler.rules.call import Fusion, Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **activation.RULES,
    **shaping.RULES,
    **rearranging.RULES,
    **indexing.RULES,
    **filling.RULES,
    **einsum.RULES,
    **reduction.RULES,
    **linear.RULES,
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
