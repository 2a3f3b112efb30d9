"""Generative distillation: an autoencoder and a flow learn the data, and the set is made of their latents.

Three phases share the budget.  (1) A convolutional autoencoder learns the real images (``hq.generators.autoencoder``).
(2) A class-conditional flow learns its latents (``hq.generators.flow``), whose modes are the k-means centres of each
class.  (3) The distilled set is drawn through the flow: with guidance towards each mode and a stop of the guidance
(MGD3: Chan-Santiago et al., ICML 2025, arXiv 2505.18963), by denoising from each mode (D4M: Su et al., CVPR 2024,
arXiv 2407.15138), or freely; then its latents move through the decoder down a matching loss (GLaD: Cazenavette et al.,
"Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023, arXiv 2305.01649), here of distribution
matching.

Differs in that no network comes from elsewhere: autoencoder and flow are small and learn the user's own images, where
the authors use Stable Diffusion, DiT or StyleGAN-XL; that labels are hard; and that the latents are those of an
autoencoder, of which there is one layer, where GLaD moves the features of a generator's layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import Diverged, UsageError
from fieldkit.hq.distil import siamese
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.distribution import matched
from fieldkit.hq.distil.images import centres, first_pixels
from fieldkit.hq.distil.movement import Movement
from fieldkit.hq.distil.problem import Problem, Snapshot, State
from fieldkit.hq.generators.autoencoder import Autoencoder, autoencoder_loss
from fieldkit.hq.generators.blocks import GROUPS
from fieldkit.hq.generators.coder import Coder, named_coder
from fieldkit.hq.generators.flow import CLASSLESS, Flow, away_from_average, flow_loss, follow
from fieldkit.hq.generators.modes import noised, towards
from fieldkit.hq.seeding import seeded

DRAWS = ("modes", "prototypes", "free")
MATCHINGS = ("distribution", "none")
# Real images by which latents are scaled.
MEASURED = 512


@dataclass(frozen=True)
class Settings:
    """How to generate.

    autoencoder: "package.module:factory" of one to use in place of training one; weights: the file of its weights.
    width: channels of the networks, a multiple of 4.  channels: of the latents.
    divergence: weight of the KL divergence in the autoencoder's loss.
    batch: real images in a step of either network.  rate: Adam's step size for them.
    autoencoder_share, flow_share: of the budget; the rest is the set's own.
    draw: "modes" guides towards each mode, "prototypes" denoises from each, "free" does neither.
    steps: of a drawing.  guidance: towards a mode, 1 being all of the way; stop: the time in 0-1 at which it ends.
    strength: share of noise from which prototypes are denoised.  class_guidance: away from the average class.
    matching: the loss that moves the latents, "distribution"; "none" draws anew at each iteration instead.
    per_class: real images of each class in an iteration of matching.  latent_rate: Adam's step size for latents.
    augmentation: that both sides of the matching share.
    """

    autoencoder: str = ""
    weights: str = ""
    width: int = 32
    channels: int = 4
    divergence: float = 0.05
    batch: int = 64
    rate: float = 2e-3
    autoencoder_share: float = 0.3
    flow_share: float = 0.3
    draw: str = "modes"
    steps: int = 25
    guidance: float = 0.8
    stop: float = 0.8
    strength: float = 0.7
    class_guidance: float = 0.0
    matching: str = "distribution"
    per_class: int = 64
    latent_rate: float = 0.1
    augmentation: Augmentation = siamese.SIAMESE

    def __post_init__(self) -> None:
        for name, value, valid in (("draw", self.draw, DRAWS), ("matching", self.matching, MATCHINGS)):
            if value not in valid:
                raise UsageError("unknown kind", where=f"generative {name}", found=value, expected=" or ".join(valid))
        if self.width % GROUPS:
            expected = f"a multiple of {GROUPS}"
            raise UsageError("out of range", where="generative width", found=self.width, expected=expected)
        for name in ("guidance", "stop", "strength"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UsageError("out of range", where=f"generative {name}", found=value, expected="0 to 1")
        shares = self.autoencoder_share, self.flow_share
        if min(shares) <= 0.0 or sum(shares) >= 1.0:
            expected = "more than 0 each, less than 1 together: the rest is for the set"
            where = "generative autoencoder_share, flow_share"
            raise UsageError("out of range", where=where, found=f"{shares[0]}, {shares[1]}", expected=expected)
        if self.weights and not self.autoencoder:
            remedy = "name its factory too: --set autoencoder=package.module:factory"
            raise UsageError("weights of no autoencoder", where="generative weights", found=self.weights, remedy=remedy)


class Generative:
    """Until the set is drawn, its place is taken by the decoded modes, as far as the autoencoder has come."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        rng = problem.rng(0)
        seeds = [int(rng.integers(1 << 62)) for _ in range(2)]
        input_shape = problem.real.images.shape[1:]
        self._learnt: Autoencoder | None = None
        if settings.autoencoder:
            self.coder = named_coder(
                settings.autoencoder, settings.weights, input_shape, problem.class_count, problem.device
            )
        else:
            module = seeded(lambda: Autoencoder(input_shape, settings.width, settings.channels), seeds[0])
            self._learnt = module
            self.coder = Coder(module, module.latent_shape, problem.device)
            self._coding = self._movement(module)
        width = 2 * settings.width
        self.flow = seeded(lambda: Flow(self.coder.latent_shape, problem.class_count, width), seeds[1])
        self.flow.to(problem.device)
        self._flowing = self._movement(self.flow)
        self.modes: torch.Tensor | None = None
        self.distilled: DistilledSet | None = None

    def _movement(self, module: torch.nn.Module) -> Movement:
        moved = [(each, self.settings.rate) for each in module.parameters()]
        return Movement(self.problem.workers, moved, betas=(0.9, 0.999), clip=True)

    def step(self, done: float) -> float:
        """One step of the autoencoder, of the flow, or of the set, by the share of the budget that is used up."""
        self.iteration += 1
        rng = self.problem.rng(self.iteration)
        first = 0.0 if self._learnt is None else self.settings.autoencoder_share
        second = first + self.settings.flow_share
        if self._learnt is not None and done < first:
            return self._learn_code(self._learnt, done / first, rng)
        if self.modes is None:
            self._find_modes(rng)
        if done < second:
            return self._learn_flow((done - first) / self.settings.flow_share, rng)
        if self.distilled is None or self.settings.matching == "none":
            self.distilled = self._set(self._draw(rng))
        if self.settings.matching == "none":
            return 0.0
        return self._match(self.distilled, (done - second) / (1.0 - second), rng)

    def _learn_code(self, module: Autoencoder, done: float, rng: np.random.Generator) -> float:
        positions, noise = self._batch(rng)
        loss = autoencoder_loss(module, self.problem.pixels(positions), noise, self.settings.divergence)
        return self._learn(self._coding, loss, done)

    def _learn_flow(self, done: float, rng: np.random.Generator) -> float:
        positions, noise = self._batch(rng)
        size = self.settings.batch
        draws = rng.standard_normal(size, dtype=np.float32), rng.random(size)
        times, without = (torch.from_numpy(self.problem.workers.mine(each)).to(noise.device) for each in draws)
        classes = self.problem.classes(positions).masked_fill(without < CLASSLESS, self.problem.class_count)
        latents = self.coder.encode(self.problem.pixels(positions))
        loss = flow_loss(self.flow, latents, classes, noise, torch.sigmoid(times))
        return self._learn(self._flowing, loss, done)

    def _batch(self, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        """This worker's share of an iteration's real images: their positions, and noise like their latents."""
        size, workers = self.settings.batch, self.problem.workers
        positions = rng.integers(len(self.problem.real), size=size)
        noise = rng.standard_normal((size, *self.coder.latent_shape), dtype=np.float32)
        return workers.mine(positions), torch.from_numpy(workers.mine(noise)).to(self.problem.device)

    def _learn(self, movement: Movement, losses: torch.Tensor, done: float) -> float:
        part = losses.sum() / self.settings.batch
        movement.step(part, done)
        return self.problem.workers.total(part)

    def _find_modes(self, rng: np.random.Generator) -> None:
        """Close the autoencoder's phase: scale its latents, and cluster those of each class."""
        if self._learnt is not None:
            self._learnt.requires_grad_(False)
        self.coder.measure(self.problem.pixels(rng.permutation(len(self.problem.real))[:MEASURED]))
        self.modes = centres(self.problem, rng, self._latents)

    def _latents(self, pixels: torch.Tensor) -> torch.Tensor:
        latents = self.coder.encode(pixels)
        if not torch.isfinite(latents).all():
            found = "latents that are no numbers"
            raise Diverged("the autoencoder diverged", where="generative", found=found, remedy="choose a smaller rate")
        return latents

    def _draw(self, rng: np.random.Generator) -> torch.Tensor:
        """Latents of a set, float32 [per_class * k, ...], class 0 first."""
        problem, settings = self.problem, self.settings
        assert self.modes is not None
        if problem.start is not None:
            pixels = first_pixels(problem, problem.start, 0.0, rng)
            return self.coder.encode(problem.enlarged(pixels))
        noise = torch.from_numpy(rng.standard_normal(self.modes.shape, dtype=np.float32)).to(problem.device)
        latents, begin, guides = noise, 0.0, []
        if settings.class_guidance:
            guides.append(away_from_average(self.flow, settings.class_guidance))
        if settings.draw == "modes":
            guides.append(towards(self.modes, settings.guidance, settings.stop))
        elif settings.draw == "prototypes":
            latents, begin = noised(self.modes, noise, settings.strength)
        classes = torch.from_numpy(problem.targets).to(problem.device)
        with torch.no_grad():
            return follow(self.flow, latents, classes, tuple(guides), begin=begin, steps=settings.steps)

    def _set(self, latents: torch.Tensor) -> DistilledSet:
        moves = Moves(rate=self.settings.latent_rate)
        return DistilledSet(self.problem, self.problem.rng(0), moves, latents=(latents, self._pixels))

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        return self.problem.reduced(self.coder.decode(latents))

    def _match(self, distilled: DistilledSet, done: float, rng: np.random.Generator) -> float:
        """Move the latents towards the real images' mean features under one freshly drawn network."""
        problem, settings = self.problem, self.settings
        weights = problem.fresh_model(int(rng.integers(1 << 62)))
        share = siamese.own_share(problem, distilled, settings.per_class, settings.augmentation, rng)
        loss = matched(problem, distilled, settings.augmentation, weights, share)
        distilled.move(loss, done)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        if self.distilled is not None:
            return self.distilled.snapshot()
        modes = self.modes
        if modes is None:
            modes = centres(self.problem, self.problem.rng(self.iteration), self._latents)
        return self._set(modes).snapshot()

    def state(self) -> State:
        return {
            "iteration": self.iteration,
            "coder": self.coder.state(),
            "coding": None if self._learnt is None else self._coding.state(),
            "flowing": self._flowing.state(),
            "modes": self.modes,
            "distilled": None if self.distilled is None else self.distilled.state(),
        }

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.coder.restore(state["coder"])
        if self._learnt is not None:
            self._coding.restore(state["coding"])
        self._flowing.restore(state["flowing"])
        if state["modes"] is None:
            return
        self.modes = state["modes"].to(self.problem.device)
        if self._learnt is not None:
            self._learnt.requires_grad_(False)
        if state["distilled"] is not None:
            self.distilled = self._set(torch.empty_like(state["modes"], device=self.problem.device))
            self.distilled.restore(state["distilled"])
