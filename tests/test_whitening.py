"""Whitening against the ZCA of whole images, through the compiler, and from the command line to the device."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle import read_bundle
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.compiler import Data, Sgd, compile_recipe, network
from fieldkit.hq.compiler.scopes import trained_parameters
from fieldkit.hq.models.features import features_of
from fieldkit.hq.models.whitening import RIDGE, Whitened, whitening_kernel

pytestmark = pytest.mark.hq


def smooth(count: int = 400, channels: int = 2, side: int = 12) -> torch.Tensor:
    """Normalised images whose neighbours, and whose bands, are alike."""
    noise = torch.randn(count, 1, side + 2, side + 2, generator=torch.Generator().manual_seed(0))
    shared = torch.nn.functional.avg_pool2d(noise, 3, stride=1)
    own = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))
    images = shared + 0.1 * own
    return images / images.std(dim=(0, 2, 3), keepdim=True)


def correlation(images: torch.Tensor) -> np.ndarray:
    """Between neighbours in a row, and between the first two bands."""
    inner = images[:, :, 3:-3, 3:-3]
    pairs = (inner[..., 1:], inner[..., :-1]), (inner[:, 0], inner[:, 1])
    return np.array([float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) for a, b in pairs])


def test_what_was_alike_no_longer_is() -> None:
    images = smooth()
    kernel = whitening_kernel(images, 5)
    white = Whitened(torch.nn.Identity(), kernel)(images)
    assert (correlation(images) > 0.6).all()
    # The ridge leaves some of it.
    assert (np.abs(correlation(white)) < 0.35).all()
    np.testing.assert_allclose(white[:, :, 2:-2, 2:-2].std(dim=(0, 2, 3)), 1.0, atol=0.05)


@given(channels=st.integers(1, 3), side=st.sampled_from((3, 5)))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_of_images_as_large_as_a_patch_it_is_their_own_zca(channels: int, side: int) -> None:
    images = smooth(300, channels, side).double()
    flat = images.reshape(len(images), -1).numpy()
    left, values, _ = np.linalg.svd(flat.T @ flat / len(flat))
    zca = left @ np.diag((values + RIDGE * values.mean()) ** -0.5) @ left.T
    expected = (flat @ zca).reshape(images.shape)[:, :, side // 2, side // 2]
    kernel = whitening_kernel(images.float(), side)
    found = Whitened(torch.nn.Identity(), kernel)(images.float())[:, :, side // 2, side // 2].numpy()
    np.testing.assert_allclose(found, expected / expected.std(axis=0, ddof=1), atol=1e-3)


def test_a_band_that_is_the_same_everywhere_stays_finite() -> None:
    images = smooth()
    images[:, 1] = 0.0
    assert torch.isfinite(whitening_kernel(images, 3)).all()


@pytest.mark.parametrize("size", [2, 13, 0])
def test_sizes_that_do_not_fit(size: int) -> None:
    with pytest.raises(UsageError, match="odd number from 1 to 12"):
        whitening_kernel(smooth(4), size)


def test_every_architecture_compiles_behind_it() -> None:
    data = Data(
        (2, 12, 12), 3, Radiometry(("a", "b"), "uint8", (100.0, 90.0), (50.0, 40.0)), kernel=torch.ones(2, 2, 3, 3)
    )
    made = compile_recipe(
        "convnet",
        {"depth": 2, "width": 4},
        data,
        optimiser=Sgd(),
        schedule=Schedule(3, 4, rate=0.05),
        scopes=("full", "head", "last-1", "norm-bias"),
    )
    assert made.recipe.architecture["whiten"] == 3
    names = {each.name for each in made.recipe.parameters}
    assert "model.head.weight" in names
    assert "kernel" not in names
    model = network("convnet", {"depth": 2, "width": 4}, data)
    assert trained_parameters(model, "last-1") == {name for name in names if not name.startswith("model.blocks.0.")}
    x = torch.randn(2, 2, 12, 12)
    plain = features_of(model.model)(model.whiten(x))
    torch.testing.assert_close(features_of(model)(x), plain)
    torch.testing.assert_close(model.model.head(plain), model(x))


def test_from_the_command_line_to_the_device(run: Run, tmp_path: Path) -> None:
    samples = handmade.images(120)
    np.savez(tmp_path / "data.npz", x_train=samples.images[:, 0], y_train=samples.targets)
    arguments = ["--ipc", 2, "--method", "ridge", "--iterations", 2, "--threads", 1, "--quiet"]
    arguments += ["--recipe", "convnet:depth=1,width=4", "--steps", 20, "--whiten", 3]
    assert run("build", "data.npz", "-o", "set.h5", *arguments).returncode == 0
    assert read_bundle(tmp_path / "set.h5").recipes["convnet"].architecture["whiten"] == 3
    told = json.loads(run("train", "set.h5", "--threads", 1, "--json", "--quiet").stdout)
    assert told["loss"]["last"] < told["loss"]["first"]
    refused = run("build", "data.npz", "-o", "set.h5", *arguments[:-1], 4)
    assert refused.returncode == 2
    assert "odd number" in refused.stderr
