"""What a scope trains, decided when its program is compiled: what is frozen carries no way back at all."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from fieldkit.bundle.recipe import LAST, SCOPES, UNLABELLED, is_scope
from fieldkit.errors import ProgramError, UsageError
from fieldkit.hq.models.whitening import Whitened

# Layers whose parameters scale and offset what they have normalised, as far as torch has a name for them all.
NORMS = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "LocalResponseNorm")

HEADS = {"head", "fc", "classifier"}
# What torch's layers call a bias; attention holds three in one.
BIASES = {"bias", "in_proj_bias"}


def trained_parameters(model: nn.Module, scope: str) -> frozenset[str]:
    """Names of the parameters that ``scope`` trains.

    full: all.  head: those of the last layer.  norm-bias: scales and offsets of normalisation layers, and every bias
    (TinyTL, Cai et al. 2020, says why: they need no stored activations).  unlabelled: scales and offsets of
    normalisation layers alone (Wang et al. 2021).  last-K: the last K of ``model.blocks``, and what comes after them.

    Raises UsageError for a scope that does not exist or that this model does not offer.
    """
    if not is_scope(scope):
        raise UsageError(
            "unknown scope", where="scope", found=scope, expected=f"{', '.join(SCOPES)}, or last-K with K from 1 to 99"
        )
    names = [name for name, each in model.named_parameters() if each.requires_grad]
    if scope == "head":
        names = [name for name in names if name.startswith(f"{head_path(model)}.")]
    elif scope in ("norm-bias", UNLABELLED):
        norms = tuple(f"{path}." for path, layer in model.named_modules() if is_norm(layer))
        biases = BIASES if scope == "norm-bias" else set()
        names = [name for name in names if name.rpartition(".")[2] in biases or name.startswith(norms or ("\n",))]
    elif scope != "full":
        kept = set(_before_the_last(model, int(scope.removeprefix(LAST))))
        names = [name for name in names if name not in kept]
    if not names:
        raise UsageError("the model has nothing that this scope trains", where="scope", found=scope, expected="full")
    return frozenset(names)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises; third-party ones (``LayerNorm2d``, ``BatchNormAct2d``) are known by their names."""
    return any(norm in base.__name__ for base in type(layer).__mro__ for norm in NORMS)


def head_path(model: nn.Module) -> str:
    """Where the last layer stands: the layer with a weight matrix that bears a head's name, or the last in the model.

    Raises ProgramError for a model without such a layer.
    """
    paths = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d) and path]
    named = [path for path in paths if HEADS.intersection(path.split("."))]
    if not paths:
        raise ProgramError(
            "no last layer is found",
            where=type(model).__name__,
            expected="a Linear or Conv2d",
            remedy="compile scope full only",
        )
    return str((named or paths)[-1])


def _before_the_last(model: nn.Module, count: int) -> Iterator[str]:
    """The parameters up to the last ``count`` blocks."""
    if isinstance(model, Whitened):
        yield from (f"model.{name}" for name in _before_the_last(model.model, count))
        return
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        raise UsageError(
            "the model does not name its blocks",
            where="scope last-K",
            found=type(model).__name__,
            expected="a Sequential or ModuleList called blocks",
            remedy="use scope head or norm-bias",
        )
    if count > len(blocks):
        expected = f"at most last-{len(blocks)}"
        raise UsageError("the model has fewer blocks", where="scope", found=f"{LAST}{count}", expected=expected)
    trained = {f"blocks.{index}" for index in range(len(blocks) - count, len(blocks))}
    children = [path for path, _ in model.named_children()]
    after = set(children[children.index("blocks") + 1 :])
    for name, _ in model.named_parameters():
        if ".".join(name.split(".")[:2]) not in trained and name.partition(".")[0] not in after:
            yield name


def set_modes(model: nn.Module, trained: frozenset[str]) -> None:
    """Train mode where something trains, and evaluation where all is frozen: statistics stand, nothing drops out."""
    model.train()
    _freeze(model, "", trained)


def _freeze(module: nn.Module, path: str, trained: frozenset[str]) -> None:
    for name, child in module.named_children():
        own = f"{path}{name}."
        if any(True for _ in child.parameters()) and not any(each.startswith(own) for each in trained):
            child.eval()
        else:
            _freeze(child, own, trained)
