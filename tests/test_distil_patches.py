"""RDED: which crops are taken, how they are tiled, and that memory does not grow with the classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distil import problem
from watched import many_classes, passes

from fieldkit.bundle.pixels import Pixels
from fieldkit.errors import UsageError
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.experts import Lessons, train_expert
from fieldkit.hq.distil.patches import Boxes, Patches, Settings, best_crops, crop, tiled
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq

QUICK = Settings(candidates=20, crops=3, epochs=6, learning_rate=0.1)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(2, 4))
def test_a_crop_of_whole_pixels_is_that_part_of_the_image_enlarged(top: int, left: int, side: int) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, 2, 8, 8)).astype(np.float32))
    box = Boxes(*(np.array([each / 8]) for each in (top, left, side)))
    # Bilinear sampling next to a part's edge reads the pixels beyond it, which `interpolate` does not have: compare
    # where both read the same ones.
    part = image[:, :, top : top + side, left : left + side]
    expected = torch.nn.functional.interpolate(part, size=(8, 8), mode="bilinear", align_corners=False)
    inner = slice(-(-4 // side), 8 - (-(-4 // side)))
    torch.testing.assert_close(crop(image, box)[:, :, inner, inner], expected[:, :, inner, inner], atol=1e-5, rtol=1e-5)


def test_the_whole_image_is_a_crop_of_itself() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 8, 6)).astype(np.float32))
    whole = Boxes.draw(3, 1.0, np.random.default_rng(1))
    torch.testing.assert_close(crop(pixels, whole), pixels, atol=1e-5, rtol=1e-5)


def test_boxes_lie_inside_and_have_the_areas_asked_for() -> None:
    boxes = Boxes.draw(2000, 0.25, np.random.default_rng(0))
    areas = boxes.side**2
    assert boxes.top.min() >= 0
    assert (boxes.top + boxes.side).max() <= 1
    assert (boxes.left + boxes.side).max() <= 1
    assert areas.min() >= 0.25
    assert areas.mean() == pytest.approx(0.625, abs=0.02)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_best_crops_are_those_that_a_loop_finds(seed: int, needed: int) -> None:
    """The authors' structure: class by class, the best crop of each image, then the best images."""
    losses = np.random.default_rng(seed).random((3, 6, 4)).astype(np.float32)
    expected = []
    for index, of_class in enumerate(losses):
        best = [(min(row), position, int(np.argmin(row))) for position, row in enumerate(of_class)]
        expected += [(index * 6 + position) * 4 + place for _, position, place in sorted(best)[:needed]]
    assert best_crops(losses, needed).tolist() == expected


def test_tiles_spread_the_best_crops_over_the_images() -> None:
    cells = torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, 1, 2, 2)
    images = tiled(cells, 2, per_class=2)
    corners = images[:, 0, ::2, ::2].reshape(4, 4)
    assert corners.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]
    assert images.shape == (4, 1, 4, 4)


def test_what_is_taken_is_what_the_teacher_is_surest_of() -> None:
    """Every candidate scored on its own by the expert, as a device will see it; the set is made of the best."""
    posed = problem(formation=2)
    made = Patches(posed, QUICK)
    loss = made.step(0.0)
    weights = train_expert(posed, Lessons(epochs=6, rate=0.1), 0)
    rng = posed.rng(1)
    positions = np.repeat(posed.pick(20, rng), 3)
    boxes = Boxes.draw(len(positions), QUICK.smallest, rng)
    scores, crops = [], []
    for index, position in enumerate(positions):
        small = posed.reduced(crop(posed.pixels(positions[index : index + 1]), boxes[index : index + 1]))
        logits = posed.answers(weights, posed.enlarged(small))
        target = torch.from_numpy(posed.real.targets[[position]])
        scores.append(float(torch.nn.functional.cross_entropy(logits, target)))
        crops.append(small)
    table = np.array(scores).reshape(3, 20, 3)
    chosen = best_crops(table, posed.per_class)
    stored = posed.normalise(torch.from_numpy(made.snapshot().images))
    assert loss == pytest.approx(np.array(scores)[chosen].mean(), rel=1e-3)
    torch.testing.assert_close(stored, torch.cat([crops[each] for each in chosen]), atol=1e-4, rtol=1e-4)


def test_labels_are_the_teachers_mean_over_augmented_copies_and_the_own_class() -> None:
    posed = problem(augmentation=replace(problem().augmentation, shift=0.1))
    made = Patches(posed, replace(QUICK, views=2, teachers=2, own=0.25))
    snapshot = made.snapshot()
    stored = Pixels.encode(snapshot.images, "uint8").decode()
    seen = posed.enlarged(posed.normalise(torch.from_numpy(stored)))
    rng, found = posed.rng(0), 0.0
    for _ in range(2):
        uniforms = torch.from_numpy(rng.random((6, 2), dtype=np.float32))
        for seed in range(2):
            weights = train_expert(posed, Lessons(epochs=6, rate=0.1), seed)
            found = found + torch.softmax(posed.answers(weights, augment(seen, uniforms, posed.augmentation)), 1) / 4
    expected = 0.75 * found.numpy() + 0.25 * np.eye(3)[posed.targets]
    np.testing.assert_allclose(snapshot.labels, expected, atol=1e-4)


def test_tiled_images_are_of_the_stored_size() -> None:
    made = Patches(problem(), replace(QUICK, tile=2))
    made.step(0.0)
    snapshot = made.snapshot()
    assert snapshot.images.shape == (6, 1, 8, 8)
    assert snapshot.labels.shape == (6, 3)


@pytest.mark.parametrize(("name", "value"), [("tile", 3), ("smallest", 0.0), ("smallest", 1.5), ("own", 1.5)])
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        Patches(problem(), replace(QUICK, **{name: value}))


def test_memory_does_not_grow_with_the_classes() -> None:
    posed = many_classes(50)
    made = Patches(posed, Settings(candidates=4, crops=2, batch=16, epochs=1, views=1))
    assert made.teachers.members
    with passes(posed.module) as images:
        made.step(0.0)
    assert sum(images) == 50 * 4 * 2
    assert max(images) == 16
    assert len(made.snapshot().labels) == 50


def test_two_workers_make_the_set_of_one() -> None:
    def work(workers: Workers) -> tuple[float, np.ndarray]:
        made = Patches(replace(problem(), workers=workers), replace(QUICK, batch=7))
        return made.step(0.0), made.snapshot().images

    loss, images = work(Workers())
    for others in together(2, work):
        assert others[0] == pytest.approx(loss, rel=1e-4)
        np.testing.assert_array_equal(others[1], images)
