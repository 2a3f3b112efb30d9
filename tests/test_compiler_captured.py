"""What torch captures apart from plain calls: gradients turned off, tensors of several names, equal calls."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from test_compiler import compile_by_hand
from test_compiler_rules import check, tensors
from torch import nn
from torch.nn import functional

from fieldkit.errors import ProgramError

pytestmark = pytest.mark.hq


class Flat(nn.Module):
    """Two layers of equal sizes between flattened images and three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(144, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.tanh(self.first(images.flatten(1)))
        return self.head(self.third(torch.tanh(self.second(inner))))


class WithoutGradients(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.tanh(self.first(images.flatten(1)))
        with torch.no_grad():
            scale = self.second(inner).abs().mean(dim=1, keepdim=True) + self.third(inner).square()
        return self.head(self.third(self.second(inner)) / (scale + 1.0))


class Tied(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.third.weight = self.second.weight


class Twice(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.third = self.second


class Counter(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1.0
        return super().forward(images)


class Doubtful(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training, "never in training"
        return super().forward(images)


@pytest.mark.parametrize("model", [WithoutGradients, Tied, Twice])
def test_a_model_compiles_with_parity(model: type[nn.Module]) -> None:
    assert compile_by_hand(model()).parity.step_error > 0


def test_a_buffer_that_is_not_saved_and_changes_is_refused_by_name() -> None:
    with pytest.raises(ProgramError, match="seen: the model changes a buffer while it trains"):
        compile_by_hand(Counter())


def test_what_a_model_says_of_itself_while_it_is_traced_is_told() -> None:
    with pytest.raises(ProgramError, match="never in training"):
        compile_by_hand(Doubtful())


def test_functions_that_agree_but_at_their_ends_keep_their_own_gradients() -> None:
    (ends,) = tensors((2, 3))
    ends[0] = torch.tensor([-1.0, 1.0, 0.5])
    check(lambda x: torch.clamp(x, -1, 1) * 2 + functional.hardtanh(x), [ends])
    check(lambda x: functional.hardtanh(x) * 2 + torch.clamp(x, -1, 1), [ends])
