"""What is random in a model, from uniforms that somebody else drew: the convention, and torch's side of it.

A program's randoms are its inputs ``random.0``, ``random.1``, ... .  ``replayed`` makes torch take the same numbers, so
that an eager step and a compiled one can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fieldkit.errors import ProgramError


def threshold(chance: float) -> float:
    """What has a ``chance`` to be 1 is 1 where its uniform is not below this number, a float32.

    So dropout by p keeps where u >= p, whether torch writes it as dropout or as ``bernoulli`` of 1 - p, which differs
    with what else the model contains, and timm's ``floor(keep + u)`` keeps the same.
    """
    return float(np.float32(1.0 - chance))


@contextmanager
def replayed(randoms: Iterable[np.ndarray[Any, Any]]) -> Iterator[None]:
    """Let torch's random calls take these uniforms in [0, 1), one float32 array a call, in the order of the calls.

    An array has the shape of what it decides: for ``Dropout2d`` (n, c, 1, 1).  Dropout by 0 or 1 takes none, as in
    eager torch.  Autograd works as usual.  Raises ProgramError for an array of another shape, for too few or too many
    of them, and for other random calls than dropout, Bernoulli and uniform numbers.
    """
    replay = _Replay(randoms)
    with replay:
        yield
    replay.finish()


class _Replay(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Below autograd, where whatever draws is one of a few calls."""

    def __init__(self, randoms: Iterable[np.ndarray[Any, Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = iter(randoms)
        self._taken = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(str(function))
        if replacement is not None:
            return replacement(self, function, *args, **(kwargs or {}))
        if _draws(function, args, kwargs or {}):
            raise ProgramError(
                "this random call cannot be replayed",
                where=str(function),
                expected=", ".join(_REPLACEMENTS),
                remedy="make the randoms of uniform ones",
            )
        return function(*args, **(kwargs or {}))

    def take(self, function: Any, like: torch.Tensor) -> torch.Tensor:
        """The next array, in the dtype of the tensor that it decides."""
        array = next(self._left, None)
        if array is None or tuple(array.shape) != tuple(like.shape):
            raise ProgramError(
                "the randoms do not fit the model's random calls",
                where=f"{function}, random {self._taken}",
                found="no more arrays" if array is None else f"shape {tuple(array.shape)}",
                expected=f"shape {tuple(like.shape)}",
                remedy="pass one array for each random call of the training step, in order",
            )
        self._taken += 1
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(like.dtype)

    def finish(self) -> None:
        left = sum(1 for _ in self._left)
        if left:
            raise ProgramError(
                "the model drew fewer randoms than were given",
                found=f"{self._taken} random calls",
                expected=f"{self._taken + left}",
                remedy="pass one array for each random call of the training step, in order",
            )


def _draws(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call is random: torch's attention says so of itself even where nothing drops out."""
    if torch.Tag.nondeterministic_seeded not in function.tags:
        return False
    names = [each.name for each in function._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return "dropout_p" not in names or given.get("dropout_p", 0.0) != 0


def _bernoulli(
    replay: _Replay, function: Any, x: torch.Tensor, chance: float | torch.Tensor = 0.5, **_generator: Any
) -> torch.Tensor:
    """1 with the given chance; torch leaves out the schema's default, 0.5."""
    limit = 1.0 - chance.detach() if isinstance(chance, torch.Tensor) else threshold(chance)
    return (replay.take(function, x) >= limit).to(x.dtype)


def _bernoulli_of_chances(replay: _Replay, function: Any, x: torch.Tensor, **_generator: Any) -> torch.Tensor:
    return _bernoulli(replay, function, x, x)


def _uniform(
    replay: _Replay, function: Any, x: torch.Tensor, low: float = 0.0, high: float = 1.0, **_generator: Any
) -> torch.Tensor:
    return replay.take(function, x) * (high - low) + low


def _rand(replay: _Replay, function: Any, size: Sequence[int], **options: Any) -> torch.Tensor:
    return replay.take(function, torch.empty(size, dtype=options.get("dtype")))


def _rand_like(replay: _Replay, function: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return replay.take(function, torch.empty(x.shape, dtype=options.get("dtype") or x.dtype))


def _native_dropout(
    replay: _Replay, function: Any, x: torch.Tensor, probability: float, train: bool | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if train is False or probability in (0.0, 1.0):
        result: tuple[torch.Tensor, torch.Tensor] = function(x, probability, train)
        return result
    mask = replay.take(function, x) >= threshold(1.0 - probability)
    return x * mask * (1.0 / (1.0 - probability)), mask


def _in_place(made: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def replacement(replay: _Replay, function: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return x.copy_(made(replay, function, x, *args, **kwargs))

    return replacement


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "aten.bernoulli.default": _bernoulli_of_chances,
    "aten.bernoulli.p": _bernoulli,
    "aten.bernoulli.Tensor": _bernoulli,
    "aten.bernoulli_.float": _in_place(_bernoulli),
    "aten.bernoulli_.Tensor": _in_place(_bernoulli),
    "aten.native_dropout.default": _native_dropout,
    "aten.rand.default": _rand,
    "aten.rand_like.default": _rand_like,
    "aten.uniform.default": _uniform,
    "aten.uniform_.default": _in_place(_uniform),
}
