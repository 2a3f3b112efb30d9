"""SRe2L: the layers' statistics against torch's own, the loss against a plain loop, and bounded memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from test_distil import problem
from torch import nn
from torch.nn import functional
from watched import many_classes, passes

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.images import rounded
from fieldkit.hq.distil.inversion import Inversion, Settings, apportioned, mixed_batches, total_variation
from fieldkit.hq.distil.moments import distance, running, watched_layers, watching
from fieldkit.hq.distil.problem import Problem
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

QUICK = Settings(batch=6, epochs=6, learning_rate=0.1, views=1)


def of(architecture: str, **options: object) -> Problem:
    """The small problem for another network, trained with shifts."""
    module = build_model(architecture, options, (1, 8, 8), 3)
    return replace(problem(augmentation=Augmentation(shift=0.1)), module=module)


class TestMoments:
    def test_batch_normalisation_s_own_statistics_are_what_enters_it(self) -> None:
        """With a momentum of 1, torch's running statistics are those of the last batch."""
        module = build_model("convnet", {"depth": 2, "width": 4, "norm": "batch"}, (1, 8, 8), 3)
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.momentum = 1.0
        pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32))
        with watching(module) as found, torch.no_grad():
            module(pixels)
        kept = running(module, module.state_dict())
        assert found.keys() == kept.keys() == {"blocks.0.norm", "blocks.1.norm"}
        for name, moments in found.items():
            # Torch keeps the unbiased variance.
            torch.testing.assert_close(moments, kept[name], atol=1e-2, rtol=1e-2)
        assert float(distance(found, kept)) < 0.01

    @pytest.mark.parametrize(
        ("architecture", "options", "shape"),
        [
            ("convnet", {"depth": 1, "width": 4, "norm": "group"}, (4,)),
            ("mlp", {"depth": 1, "width": 6, "norm": "layer"}, (6,)),
            ("vit", {"depth": 1, "width": 16}, None),
        ],
    )
    def test_channels_are_what_a_layer_normalises(
        self, architecture: str, options: dict[str, object], shape: tuple[int, ...] | None
    ) -> None:
        module = build_model(architecture, options, (1, 8, 8), 3)
        with watching(module) as found:
            module(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert found.keys() == watched_layers(module).keys()
        for name, moments in found.items():
            layer = module.get_submodule(name)
            assert moments.shape == (2, *(shape or layer.normalized_shape))

    def test_a_network_that_normalises_nothing_is_watched_behind_its_first_layer(self) -> None:
        module = build_model("convnet", {"depth": 2, "width": 4, "norm": "none"}, (1, 8, 8), 3)
        assert list(watched_layers(module)) == ["blocks.1.conv", "head"]
        assert not watched_layers(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))

    def test_distance_is_in_units_of_the_wanted_deviations(self) -> None:
        wanted = {"a": torch.tensor([[1.0, 2.0], [1.0 + 4.0, 4.0 + 9.0]])}
        found = {"a": torch.tensor([[2.0, 2.0], [4.0 + 4.0, 4.0 + 18.0]])}
        expected = np.sqrt((0.5**2 + 0) / 2) + np.sqrt((0 + 1.0) / 2)
        assert float(distance(found, wanted)) == pytest.approx(expected)
        assert float(distance(wanted, wanted)) == 0.0
        assert float(distance({}, {})) == 0.0

    def test_a_layer_that_runs_twice_counts_both_times(self) -> None:
        norm = nn.LayerNorm(2)
        module = nn.Sequential(norm, nn.Tanh(), norm)
        values = torch.tensor([[1.0, 2.0], [3.0, 8.0]])
        with watching(module) as found:
            module(values)
        rows = torch.cat((values, torch.tanh(norm(values))))
        torch.testing.assert_close(found, {"0": torch.stack((rows.mean(0), (rows**2).mean(0)))})


def plain_loss(made: Inversion, pixels: torch.Tensor) -> torch.Tensor:
    """The batch's loss, term by term, with torch's own batch normalisation statistics as the authors take them."""
    posed, settings = made.problem, made.settings
    weights = made.teachers.members[0]
    rows = made.batches[0]
    uniforms = torch.from_numpy(posed.rng(1).random((len(rows), posed.augmentation.width), dtype=np.float32))
    inputs: list[torch.Tensor] = []
    norms = [each for each in posed.module.modules() if isinstance(each, nn.BatchNorm2d)]
    hooks = [each.register_forward_hook(lambda _m, given, _out: inputs.append(given[0])) for each in norms]
    posed.module.eval()
    logits = posed.logits(weights, augment(rounded(pixels, 256), uniforms, posed.augmentation))
    posed.module.train()
    for hook in hooks:
        hook.remove()
    loss = functional.cross_entropy(logits, torch.from_numpy(posed.targets[rows]))
    far = torch.zeros(())
    for index, values in enumerate(inputs):
        mean = weights[f"blocks.{index}.norm.running_mean"]
        variance = weights[f"blocks.{index}.norm.running_var"]
        for channel in range(values.shape[1]):
            assert variance[channel] > 1e-3 * variance.mean()
        means = [(values[:, c].mean() - mean[c]) / variance[c].sqrt() for c in range(values.shape[1])]
        spreads = [values[:, c].var(correction=0) / variance[c] - 1 for c in range(values.shape[1])]
        far = far + torch.stack(means).square().mean().sqrt() + torch.stack(spreads).square().mean().sqrt()
    held = rounded(pixels, 256)
    squares = ((held[:, :, 1:] - held[:, :, :-1]) ** 2).sum() + ((held[..., 1:] - held[..., :-1]) ** 2).sum()
    priors = settings.variation * squares / held.numel() + settings.size * (held**2).mean()
    return loss + priors + settings.statistics * far / len(inputs)


class TestInversion:
    def test_loss_and_gradient_equal_a_plain_computation(self) -> None:
        posed = of("convnet", depth=2, width=4, norm="batch")
        made = Inversion(posed, replace(QUICK, rate=0.0, variation=0.3, size=0.2))
        pixels = made._movement.tensors[0].detach().clone().requires_grad_(True)
        expected = plain_loss(made, pixels)
        (gradient,) = torch.autograd.grad(expected, pixels)
        assert made.step(0.0) == pytest.approx(float(expected.detach()), rel=1e-4)
        torch.testing.assert_close(made._movement.tensors[0].grad, gradient, atol=1e-5, rtol=1e-3)

    @pytest.mark.parametrize(
        ("architecture", "options"),
        [
            ("convnet", {"depth": 2, "width": 4}),
            ("convnet", {"norm": "none", "width": 4}),
            ("vit", {"depth": 1, "width": 16}),
        ],
    )
    def test_iterations_bring_any_network_s_statistics_closer(
        self, architecture: str, options: dict[str, object]
    ) -> None:
        posed = replace(of(architecture, **options), start="noise", augmentation=Augmentation())
        made = Inversion(posed, replace(QUICK, epochs=2, rate=0.1, statistics=3.0))
        losses = [made.step(index / 30) for index in range(30)]
        assert losses[-1] < 0.7 * losses[0]

    def test_two_workers_make_the_set_of_one(self) -> None:
        def work(workers: Workers) -> tuple[list[float], np.ndarray]:
            posed = replace(of("convnet", depth=2, width=4), workers=workers)
            made = Inversion(posed, replace(QUICK, batch=5, epochs=2))
            losses = [made.step(index / 6) for index in range(6)]
            return losses, made.snapshot().images

        losses, images = work(Workers())
        for others in together(2, work):
            np.testing.assert_allclose(others[0], losses, rtol=1e-4)
            np.testing.assert_allclose(others[1], images, atol=0.05)

    def test_a_worker_without_images_has_no_part(self) -> None:
        posed = problem()
        wanted = {"a": torch.ones(2, 3)}
        far, part = apportioned({}, wanted, posed)
        assert np.isfinite(far)
        assert float(part) == 0.0

    def test_each_batch_has_all_classes_and_its_share_of_what_the_teachers_leave(self) -> None:
        posed = problem(ipc=4)
        assert [sorted(posed.targets[rows].tolist()) for rows in mixed_batches(posed, 6)] == [[0, 0, 1, 1, 2, 2]] * 2
        made = Inversion(posed, QUICK)
        first = made.snapshot().images
        for done in (0.0, 0.2, 0.55):
            made.step(done)
        between = made.snapshot().images
        made.step(0.65)
        last = made.snapshot().images
        early, late = made.batches
        assert (between[early] != first[early]).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(between[late], first[late])
        assert (last[late] != between[late]).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(last[early], between[early])

    def test_total_variation_counts_both_directions(self) -> None:
        pixels = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
        assert float(total_variation(pixels)) == pytest.approx((9 + 4 + 1 + 0) / 4)
        assert float(total_variation(torch.ones(2, 1, 1, 1))) == 0.0

    def test_memory_does_not_grow_with_the_classes(self) -> None:
        posed = many_classes(50)
        made = Inversion(posed, Settings(batch=16, epochs=1, views=1))
        assert made.teachers.members
        with passes(posed.module) as images:
            for index in range(8):
                made.step(index / 8)
        assert max(images) <= 16
        assert max(len(rows) for rows in made.batches) <= 16
        moved = made.state()["movement"]["optimiser"]["state"]
        assert [each["exp_avg"].shape[0] for each in moved.values()] == [len(made.batches[-1])]
        assert len(made.snapshot().labels) == 50
