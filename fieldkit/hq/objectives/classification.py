"""Classification: soft-label cross-entropy for training, softmax for prediction."""

from __future__ import annotations

import torch

# Added to the logit of a class that is off: far below any real logit, far above float32's lowest value.
OFF = 1e9


def loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, class_mask: torch.Tensor) -> torch.Tensor:
    """Weighted soft-label cross-entropy sum(w * ce) / sum(w), a float32 scalar.

    logits: float32 [b, k].  targets: float32 [b, k], rows sum to 1 and are 0 where ``class_mask`` is 0.
    weights: float32 [b], not all zero.  class_mask: float32 [k], 1 for a class in use and 0 for one that is off.
    """
    masked = logits + (class_mask - 1.0) * OFF
    entropy = -(targets * torch.log_softmax(masked, dim=1)).sum(dim=1)
    return (entropy * weights).sum() / weights.sum()


def unlabelled_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, class_mask: torch.Tensor
) -> torch.Tensor:
    """As ``loss``, but a row of ``targets`` that is all 0 counts by the entropy of its prediction (Wang et al. 2021).

    An entropy is the cross-entropy with the prediction itself, so a row of targets and what it lacks of 1 are one sum.
    """
    masked = logits + (class_mask - 1.0) * OFF
    lacking = 1.0 - targets.sum(dim=1, keepdim=True)
    wanted = targets + torch.softmax(masked, dim=1) * lacking
    entropy = -(wanted * torch.log_softmax(masked, dim=1)).sum(dim=1)
    return (entropy * weights).sum() / weights.sum()


def smoothed(targets: torch.Tensor, class_mask: torch.Tensor, share: float) -> torch.Tensor:
    """Soft labels float32 [b, k] with ``share`` of each row spread evenly over the classes in use."""
    return targets * (1.0 - share) + class_mask * (share / class_mask.sum())


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """float32 [n, k] logits -> float32 [n, k] whose rows sum to 1."""
    return torch.softmax(logits, dim=1)
