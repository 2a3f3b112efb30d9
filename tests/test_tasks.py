"""Classification: scores against a slow count, groups, and what is said of bad labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.bundle.manifest import TASKS as TASKS_OF_THE_FORMAT
from fieldkit.errors import DataError, ProgramError, UsageError
from fieldkit.tasks import TASKS, classification, task


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count, classes = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    guesses = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return np.eye(classes)[guesses], np.array(targets)


@given(predictions())
def test_scores_are_plain_counts(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = case
    scores = classification.score(probabilities, targets)
    pairs = [(int(row.argmax()), int(target)) for row, target in zip(probabilities, targets, strict=True)]
    assert scores.accuracy == sum(guess == target for guess, target in pairs) / len(pairs)
    for index, each in enumerate(scores.classes):
        assert each.support == sum(target == index for _, target in pairs)
        assert each.predicted == sum(guess == index for guess, _ in pairs)
        assert each.correct == sum(guess == target == index for guess, target in pairs)
    assert scores.count == len(pairs)


def test_scores_as_json() -> None:
    scores = classification.score(np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]]), np.array([0, 1]))
    document = json.loads(json.dumps(scores.to_json(["a", "b", "c"])))
    assert document["accuracy"] == 0.5
    assert document["classes"][0] == {
        "name": "a", "support": 1, "predicted": 2, "correct": 1, "recall": 1.0, "precision": 0.5,
    }  # fmt: skip
    assert document["classes"][1]["precision"] is None
    assert document["classes"][2]["recall"] is None


def test_labels_must_be_classes_of_the_model() -> None:
    with pytest.raises(DataError, match=r"2 labels out of range 0 to 1: \[1\] = 2, \[2\] = -1"):
        classification.score(np.full((3, 2), 0.5), np.array([0, 2, -1]))


def test_there_must_be_one_label_for_each_prediction() -> None:
    with pytest.raises(DataError, match="one for each"):
        classification.score(np.full((3, 2), 0.5), np.array([0, 1]))
    with pytest.raises(DataError, match="one for each"):
        classification.score(np.zeros((0, 2)), np.array([], np.int64))


def test_a_model_that_gives_no_numbers_is_no_tie() -> None:
    with pytest.raises(ProgramError, match="NaN"):
        classification.score(np.full((1, 2), np.nan), np.array([0]))


@given(st.lists(st.integers(0, 3), max_size=20))
def test_groups_part_the_positions(targets: list[int]) -> None:
    groups = classification.group(np.array(targets, np.int64), 4)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(targets)))
    assert all(targets[position] == index for index, group in enumerate(groups) for position in group)


def test_class_faults() -> None:
    assert list(classification.class_faults(np.array([0, 1]), ["a", "b"], "train")) == []
    faults = list(classification.class_faults(np.array([0, 0]), ["a", "b", "c"], "train"))
    assert faults == ["train: class 'b' has no samples", "train: class 'c' has no samples"]
    assert "only one class, a" in next(iter(classification.class_faults(np.array([0]), ["a"], "train")))


def test_an_unknown_task_lists_the_known() -> None:
    assert task("classification") is classification
    with pytest.raises(UsageError, match="classification"):
        task("telepathy")


def test_the_format_names_the_tasks_there_are() -> None:
    assert set(TASKS) == set(TASKS_OF_THE_FORMAT)
