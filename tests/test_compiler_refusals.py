"""What cannot be compiled is refused: with its place in the model, the operator, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from test_compiler import compile_by_hand

from fieldkit.errors import ProgramError

pytestmark = pytest.mark.hq


class Inner(torch.nn.Module):
    """A function as a part of a model, after a layer that trains."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(144, 8)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x.flatten(1)))


class Around(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = Inner(function)
        self.head = torch.nn.LazyLinear(3)
        self(torch.zeros(2, 2, 8, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x))


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x.unflatten(1, (2, 4)))[0].flatten(1)


def branched(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("forward", "operator", "instead"),
    [
        (lambda x: torch.sort(x, dim=1)[0], "aten.sort.default", "amax"),
        (lambda x: torch.fft.rfft(x, dim=1).abs(), "aten.fft_rfft.default", "sines and cosines"),
        (lambda x: torch.zeros_like(x).scatter_(1, x.long(), x), "aten.scatter.src", "torch.where"),
        (lambda x: x * x.sum().item(), "aten.item.default", "keep it a tensor"),
        (lambda x: torch.special.bessel_j0(x), "aten.special_bessel_j0.default", "add a rule"),
        (Recurrent(), "aten.lstm.input", "nn.MultiheadAttention"),
    ],
)
def test_an_operator_without_a_rule_says_what_to_use_instead(forward, operator, instead):
    with pytest.raises(ProgramError) as caught:
        compile_by_hand(Around(forward))
    assert str(caught.value).startswith("model.inner")
    assert operator in str(caught.value)
    assert instead in caught.value.remedy


@pytest.mark.parametrize(
    ("forward", "line"),
    [(branched, "return x if x.sum() > 0 else -x"), (lambda x: torch.from_numpy(x.detach().numpy()), "x.detach()")],
)
def test_a_model_that_torch_cannot_trace_names_the_place_and_nothing_else(forward, line, capfd):
    with pytest.raises(ProgramError, match=r"model\.inner: torch cannot trace this model") as caught:
        compile_by_hand(Around(forward))
    assert line in str(caught.value)
    assert "torch.where" in caught.value.remedy
    assert capfd.readouterr() == ("", "")
