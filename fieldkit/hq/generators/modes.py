"""How the modes of a class steer a flow: guidance towards each, with a stop, or denoising from each."""

from __future__ import annotations

import torch

from fieldkit.hq.generators.flow import Guide


def towards(modes: torch.Tensor, strength: float, stop: float) -> Guide:
    """Guidance of each sample towards its mode until time ``stop``.

    Chan-Santiago et al., "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML 2025 (arXiv 2505.18963):
    at each step, the sample's predicted end is compared with its mode and the difference, times a strength and the
    noise level, is added; after the stop the flow alone finds an image near the mode.

    Differs in that this is the velocity of a flow, whose noise level at time t is 1 - t: the predicted end moves by
    ``strength`` times its distance from the mode, all of it at strength 1.

    modes: float32 [n, ...], as the latents.
    """

    def guide(latents: torch.Tensor, velocity: torch.Tensor, now: float) -> torch.Tensor:
        if now >= stop:
            return velocity
        end = latents + (1.0 - now) * velocity
        return velocity + strength * (modes - end) / (1.0 - now)

    return guide


def noised(modes: torch.Tensor, noise: torch.Tensor, strength: float) -> tuple[torch.Tensor, float]:
    """Modes with noise, and the time at which a flow has this much: float32 [n, ...], 0-1.

    Su et al., "D4M: Dataset Distillation via Disentangled Diffusion Model", CVPR 2024 (arXiv 2407.15138): the k-means
    prototypes of a class are noised to a share ``strength`` of the way and denoised again, as images of their class.

    noise: standard normal, as the modes.
    """
    begin = 1.0 - strength
    return (1.0 - begin) * noise + begin * modes, begin
