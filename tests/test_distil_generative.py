"""Generative distillation: the autoencoder, the flow and its guides against plain computations, and the phases."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged, UsageError
from fieldkit.hq.distil import check_settings, siamese
from fieldkit.hq.distil.generative import Generative, Settings
from fieldkit.hq.distil.problem import Problem
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.generators.autoencoder import Autoencoder, autoencoder_loss
from fieldkit.hq.generators.coder import Coder, named_coder
from fieldkit.hq.generators.flow import Flow, away_from_average, flow_loss, follow
from fieldkit.hq.generators.modes import noised, towards
from fieldkit.hq.models import build_model
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.seeding import seeded

pytestmark = pytest.mark.hq

quick = settings(max_examples=6, deadline=None, derandomize=True)
TINY = Settings(width=4, channels=2, batch=8, per_class=4, steps=4)


def problem(workers: Workers | None = None, start: str | None = None) -> Problem:
    """Two classes of 12x10 images with a bright band above or below, of one of two widths."""
    rng = np.random.default_rng(0)
    targets = np.arange(40) % 2
    images = rng.integers(0, 30, (40, 1, 12, 10))
    for index, target in enumerate(targets):
        images[index, :, 6 * target : 6 * target + 2 + index % 3] += 200
    images = images.astype(np.uint8)
    return Problem(
        real=Samples(images, targets.astype(np.int64)),
        module=build_model("convnet", {"depth": 2, "width": 4}, (1, 12, 10), 2),
        normalise=Normalise(Radiometry.measure(images)),
        ipc=2,
        class_count=2,
        schedule=Schedule(4, 4),
        start=start,
        workers=workers or Workers(),
    )


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


class TestAutoencoder:
    @pytest.mark.parametrize(("size", "latents"), [(28, 7), (32, 8), (64, 8), (128, 8), (8, 4), (3, 2)])
    def test_latents_follow_from_the_image(self, size: int, latents: int) -> None:
        assert Autoencoder((3, size, size), 4, 2).latent_shape == (2, latents, latents)

    @quick
    @given(bands=st.integers(1, 13), height=st.integers(1, 70), width=st.integers(1, 70), channels=st.integers(1, 6))
    def test_pixels_come_back_in_their_shape(self, bands: int, height: int, width: int, channels: int) -> None:
        module = Autoencoder((bands, height, width), 4, channels)
        latents = module.encode(normal(2, bands, height, width))
        assert latents.shape == (2, *module.latent_shape)
        assert module.decode(latents).shape == (2, bands, height, width)

    def test_loss_equals_torchs_divergence_image_by_image(self) -> None:
        module = seeded(lambda: Autoencoder((2, 9, 8), 4, 3), 1)
        pixels, noise = normal(4, 2, 9, 8), normal(4, *module.latent_shape, seed=1)
        found = autoencoder_loss(module, pixels, noise, 0.3)
        for index in range(4):
            mean, log_variance = module.encoder(pixels[index : index + 1])[0].chunk(2)
            posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
            divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
            decoded = module.decode((mean + posterior.scale * noise[index])[None])[0]
            expected = ((decoded - pixels[index]) ** 2).mean() + 0.3 * divergence / (2 * 9 * 8)
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-5)

    def test_first_weights_follow_from_the_seed_alone(self) -> None:
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        one, other = (seeded(lambda: Autoencoder((1, 8, 8), 4, 2), seed) for seed in (5, 5))
        torch.testing.assert_close(torch.rand(2), expected)
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)


class TestFlow:
    def test_loss_equals_a_loop_over_samples(self) -> None:
        module = seeded(lambda: Flow((2, 3, 3), 2, 8), 1)
        torch.nn.init.normal_(module.last.weight, generator=torch.Generator().manual_seed(2))
        latents, noise = normal(5, 2, 3, 3), normal(5, 2, 3, 3, seed=1)
        times, classes = torch.rand(5, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 1, 0])
        found = flow_loss(module, latents, classes, noise, times)
        for index in range(5):
            time = float(times[index])
            on_the_way = noise[index] + time * (latents[index] - noise[index])
            one = slice(index, index + 1)
            error = module(on_the_way[None], times[one], classes[one])[0] - (latents[index] - noise[index])
            torch.testing.assert_close(found[index], (error**2).mean(), rtol=1e-4, atol=1e-5)

    def test_following_is_eulers_method(self) -> None:
        latents = normal(3, 1, 2, 2)
        grown = follow(lambda z, t, c: 0.5 * z, latents, torch.zeros(3), steps=10)
        torch.testing.assert_close(grown, latents * (1 + 0.05) ** 10)
        assert follow(lambda z, t, c: 2.0 * t[:, None, None, None] + 0.0 * z, latents, torch.zeros(3), begin=0.5)[
            0, 0, 0, 0
        ] == pytest.approx(float(latents[0, 0, 0, 0]) + 0.75, abs=0.02)

    def test_samples_are_of_their_class(self) -> None:
        """Class 0 is at +1.5 or +2.5, class 1 at their opposites."""
        module = seeded(lambda: Flow((1, 2, 2), 2, 16), 0)
        optimiser = torch.optim.Adam(module.parameters(), 5e-3)
        rng = np.random.default_rng(0)
        for _ in range(100):
            classes = torch.from_numpy(rng.integers(2, size=64))
            centres = torch.from_numpy(rng.integers(2, size=64)).float() + 1.5
            latents = (centres * (1 - 2 * classes))[:, None, None, None].expand(64, 1, 2, 2)
            noise = torch.from_numpy(rng.standard_normal((64, 1, 2, 2), dtype=np.float32))
            loss = flow_loss(module, latents, classes, noise, torch.from_numpy(rng.random(64, dtype=np.float32)))
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
        with torch.no_grad():
            drawn = follow(module, normal(40, 1, 2, 2, seed=9), torch.arange(40) % 2).mean(dim=(1, 2, 3))
        assert drawn[0::2].min() > 0.5
        assert drawn[1::2].max() < -0.5
        assert drawn.abs().mean() == pytest.approx(2.0, abs=0.25)

    def test_guidance_without_a_classifier(self) -> None:
        module = seeded(lambda: Flow((1, 2, 2), 3, 8), 0)
        torch.nn.init.normal_(module.last.weight, generator=torch.Generator().manual_seed(2))
        latents, times = normal(2, 1, 2, 2), torch.full((2,), 0.25)
        own, average = (module(latents, times, torch.tensor(each)) for each in ([0, 1], [3, 3]))
        found = away_from_average(module, 1.5)(latents, own, 0.25)
        torch.testing.assert_close(found, 2.5 * own - 1.5 * average)


class TestModes:
    @quick
    @given(strength=st.floats(0.0, 1.0), now=st.floats(0.0, 0.59))
    def test_guidance_moves_the_end_towards_the_mode(self, strength: float, now: float) -> None:
        latents, velocity, modes = (normal(3, 1, 2, 2, seed=each) for each in range(3))
        end = latents + (1 - now) * velocity
        guided = latents + (1 - now) * towards(modes, strength, 0.6)(latents, velocity, now)
        torch.testing.assert_close(guided, (1 - strength) * end + strength * modes, rtol=1e-4, atol=1e-5)

    def test_after_the_stop_the_flow_is_alone(self) -> None:
        latents, velocity, modes = (normal(3, 1, 2, 2, seed=each) for each in range(3))
        assert towards(modes, 0.5, 0.6)(latents, velocity, 0.6) is velocity

    def test_full_guidance_to_the_end_arrives_at_the_modes(self) -> None:
        module = seeded(lambda: Flow((1, 2, 2), 2, 8), 0)
        modes = normal(4, 1, 2, 2, seed=1)
        with torch.no_grad():
            found = follow(module, normal(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), (towards(modes, 1.0, 1.0),))
        torch.testing.assert_close(found, modes, rtol=1e-4, atol=1e-5)

    def test_noised_prototypes_lie_on_the_flows_path(self) -> None:
        modes, noise = normal(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1)
        found, begin = noised(modes, noise, 0.7)
        assert begin == pytest.approx(0.3)
        torch.testing.assert_close(found, 0.7 * noise + 0.3 * modes)


class Halving(torch.nn.Module):
    """An autoencoder with one weight, for images of even sides."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.gain * torch.nn.functional.avg_pool2d(pixels, 2) + 1.0

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate((latents - 1.0) / self.gain, scale_factor=2.0)


class Flat(Halving):
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().encode(pixels).flatten(1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents.unflatten(1, (1, 4, 4)))


class Broken(Halving):
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise ValueError("no way back")


HERE = f"{__name__}:"


class TestCoder:
    def test_latents_have_unit_variance_and_decode_as_the_autoencoder_does(self) -> None:
        module, pixels = Halving(), normal(300, 3, 4, 6) * 3 + 1
        coder = Coder(module, (3, 2, 3), "cpu")
        coder.measure(pixels)
        latents = coder.encode(pixels)
        torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(3), rtol=1e-4, atol=0)
        torch.testing.assert_close(coder.decode(latents), module.decode(module.encode(pixels)), rtol=1e-4, atol=1e-5)
        assert not latents.requires_grad

    def test_a_constant_channel_is_no_division_by_zero(self) -> None:
        coder = Coder(Halving(), (1, 2, 2), "cpu")
        coder.measure(torch.zeros(8, 1, 4, 4))
        assert torch.isfinite(coder.encode(torch.zeros(2, 1, 4, 4))).all()

    def test_weights_are_read_from_a_file(self, tmp_path: Path) -> None:
        torch.save({"gain": torch.tensor(5.0)}, tmp_path / "weights.pt")
        coder = named_coder(HERE + "Halving", str(tmp_path / "weights.pt"), (1, 8, 8), 2, "cpu")
        assert coder.latent_shape == (1, 4, 4)
        assert float(coder.module.gain) == 5.0
        assert not coder.module.gain.requires_grad

    def test_a_file_of_weights_brings_no_code(self, tmp_path: Path) -> None:
        torch.save({"gain": Path("x")}, tmp_path / "weights.pt")
        with pytest.raises(UsageError, match=r"not a file of weights.*tensors alone"):
            named_coder(HERE + "Halving", str(tmp_path / "weights.pt"), (1, 8, 8), 2, "cpu")

    @pytest.mark.parametrize("content", [b"", b"nonsense"])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(UsageError, match="not a file of weights"):
            named_coder(HERE + "Halving", str(tmp_path / "weights.pt"), (1, 8, 8), 2, "cpu")

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            named_coder(HERE + "Halving", str(tmp_path / "none.pt"), (1, 8, 8), 2, "cpu")
        torch.save({"loss": torch.tensor(5.0)}, tmp_path / "weights.pt")
        with pytest.raises(UsageError, match=r"(?s)do not fit the autoencoder.*loss"):
            named_coder(HERE + "Halving", str(tmp_path / "weights.pt"), (1, 8, 8), 2, "cpu")
        with pytest.raises(UsageError, match="not an autoencoder of these images"):
            named_coder(HERE + "Halving", "", (1, 9, 8), 2, "cpu")
        with pytest.raises(UsageError, match="not an autoencoder of these images"):
            named_coder(HERE + "Flat", "", (1, 8, 8), 2, "cpu")
        with pytest.raises(UsageError, match=r"fails on images.*no way back"):
            named_coder(HERE + "Broken", "", (1, 8, 8), 2, "cpu")


@dataclass(frozen=True)
class Recording(Workers):
    """One of two workers, whose parts are kept instead of being sent."""

    sent: list[torch.Tensor] = field(default_factory=list)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        self.sent.extend(each.detach().clone() for each in tensors)


def weights(made: Generative) -> dict[str, list[torch.Tensor]]:
    parts: dict[str, Any] = {"autoencoder": made.coder.module.parameters(), "flow": made.flow.parameters()}
    parts["set"] = [] if made.distilled is None else [made.distilled.pixels]
    return {name: [each.detach().clone() for each in tensors] for name, tensors in parts.items()}


class TestGenerative:
    def test_each_phase_moves_its_own_part(self) -> None:
        made = Generative(problem(), TINY)
        for done, phase in ((0.0, "autoencoder"), (0.29, "autoencoder"), (0.3, "flow"), (0.59, "flow"), (0.7, "set")):
            if phase == "set":
                made.step(0.6)
            before = weights(made)
            made.step(done)
            after = weights(made)
            for name in before:
                same = all(torch.equal(old, new) for old, new in zip(before[name], after[name], strict=True))
                assert same == (name != phase), (name, done)

    def test_a_named_autoencoder_leaves_its_phase_out(self, tmp_path: Path) -> None:
        torch.save({"gain": torch.tensor(5.0)}, tmp_path / "weights.pt")
        own = replace(TINY, autoencoder=HERE + "Halving", weights=str(tmp_path / "weights.pt"))
        made = Generative(problem(), own)
        before = weights(made)
        made.step(0.0)
        after = weights(made)
        assert torch.equal(before["autoencoder"][0], after["autoencoder"][0])
        assert not torch.equal(before["flow"][-1], after["flow"][-1])
        made.step(0.3)
        assert made.distilled is not None
        assert made.snapshot().images.shape == (4, 1, 12, 10)

    def test_every_network_learns(self) -> None:
        made = Generative(problem(), replace(TINY, width=8, batch=32, rate=5e-3))
        coding = [made.step(0.0) for _ in range(40)]
        flowing = [made.step(0.3) for _ in range(40)]
        assert np.mean(coding[-10:]) < 0.5 * np.mean(coding[:10])
        assert np.mean(flowing[-10:]) < 0.8 * np.mean(flowing[:10])
        images = made.snapshot().images
        first, second = images[:2].mean(axis=(0, 1, 3)), images[2:].mean(axis=(0, 1, 3))
        assert first[:2].mean() > 2 * first[6:8].mean()
        assert second[6:8].mean() > 2 * second[:2].mean()

    def test_an_autoencoder_that_diverged_says_so(self) -> None:
        made = Generative(problem(), replace(TINY, rate=1e30))
        for _ in range(2):
            made.step(0.0)
        for work in (made.snapshot, lambda: made.step(0.3)):
            with pytest.raises(Diverged, match="autoencoder diverged"):
                work()

    def test_matching_through_the_decoder_equals_a_loop_over_classes(self) -> None:
        """GLaD's structure: the images of each class are decoded, and matched, on their own."""
        posed = problem()
        made = Generative(posed, replace(TINY, latent_rate=0.0))
        made.step(0.0)
        made.step(0.3)
        made.step(0.6)
        loss = made.step(0.7)
        rng = posed.rng(made.iteration)
        drawn = posed.fresh_model(int(rng.integers(1 << 62)))
        positions = posed.pick(4, rng)
        uniforms = rng.random((2, siamese.SIAMESE.width), dtype=np.float32)
        stored = Pixels.encode(made.snapshot().images, "uint8").decode()
        expected = 0.0
        for index in range(2):
            sides = posed.pixels(positions[4 * index :][:4]), posed.normalise(torch.from_numpy(stored[2 * index :][:2]))
            row = uniforms[index : index + 1]
            real, distilled = (
                posed.features(drawn, siamese.augmented(each, row, siamese.SIAMESE)).mean(dim=0) for each in sides
            )
            expected += float(((real - distilled) ** 2).sum())
        assert loss == pytest.approx(expected, rel=1e-3)

    def test_matching_lowers_its_loss(self) -> None:
        made = Generative(problem(), replace(TINY, per_class=20, latent_rate=0.1))
        for done in (0.0, 0.3):
            made.step(done)
        losses = [made.step(0.6) for _ in range(40)]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])

    def test_without_matching_each_iteration_draws_anew(self) -> None:
        made = Generative(problem(), replace(TINY, matching="none"))
        for done in (0.0, 0.3, 0.6):
            made.step(done)
        before = made.snapshot().images
        assert made.step(0.7) == 0.0
        assert (made.snapshot().images != before).any()

    @pytest.mark.parametrize("draw", ["modes", "prototypes", "free"])
    def test_draws(self, draw: str) -> None:
        """At the strongest, guidance and denoising both end in the modes; a free drawing does not."""
        made = Generative(problem(), replace(TINY, draw=draw, guidance=1.0, stop=1.0, strength=0.0, latent_rate=0.0))
        for done in (0.0, 0.3):
            made.step(done)
        decoded = made.snapshot().images
        made.step(0.6)
        close = np.allclose(made.snapshot().images, decoded, rtol=1e-3, atol=0.1)
        assert close == (draw != "free")

    def test_guidance_away_from_the_average_class_changes_a_drawing(self) -> None:
        drawn = []
        for strength in (0.0, 2.0):
            made = Generative(problem(), replace(TINY, draw="free", class_guidance=strength, latent_rate=0.0))
            for done in (0.0, 0.3, 0.3, 0.3, 0.6):
                made.step(done)
            drawn.append(made.snapshot().images)
        assert (drawn[0] != drawn[1]).any()

    def test_a_start_that_the_problem_names_is_encoded(self) -> None:
        made = Generative(problem(start="means"), replace(TINY, latent_rate=0.0))
        for done in (0.0, 0.3, 0.6):
            made.step(done)
        images = made.snapshot().images
        np.testing.assert_allclose(images[0], images[1], rtol=1e-3, atol=0.1)
        assert not np.allclose(images[0], images[2], rtol=1e-3, atol=0.1)

    @pytest.mark.parametrize("phases", [(0.0,), (0.0, 0.3), (0.0, 0.3, 0.6)])
    def test_a_restored_state_goes_on_from_any_phase(self, phases: tuple[float, ...]) -> None:
        whole = Generative(problem(), TINY)
        for done in phases:
            whole.step(done)
        file = io.BytesIO()
        torch.save(whole.state(), file)
        file.seek(0)
        resumed = Generative(problem(), TINY)
        resumed.restore(torch.load(file, weights_only=True))
        for done in (*phases[-1:], 0.3, 0.6, 0.7):
            assert whole.step(done) == resumed.step(done)
        np.testing.assert_array_equal(whole.snapshot().images, resumed.snapshot().images)

    @pytest.mark.parametrize("phase", [0.0, 0.3, 0.6])
    def test_gradients_of_two_workers_add_up_to_those_of_one(self, phase: float) -> None:
        sent = []
        for rank, size in ((0, 1), (0, 2), (1, 2)):
            workers = Recording(rank, size)
            made = Generative(problem(workers), TINY)
            made.step(phase)
            sent.append(workers.sent)
        for whole, *parts in zip(*sent, strict=True):
            torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("draw", "magic"),
            ("matching", "magic"),
            ("width", 6),
            ("guidance", 1.5),
            ("stop", 1.5),
            ("strength", 1.5),
            ("autoencoder_share", 0.7),
            ("flow_share", 0.0),
            ("weights", "file.pt"),
            ("channels", 0),
        ],
    )
    def test_settings_out_of_range(self, name: str, value: object) -> None:
        with pytest.raises(UsageError, match=name.partition("_")[0]):
            check_settings("generative", {name: value})

    def test_defaults_are_within_their_ranges(self) -> None:
        assert math.isclose(Settings().autoencoder_share + Settings().flow_share, 0.6)
