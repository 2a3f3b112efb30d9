"""Learning task after task, class-incremental with one head: a device that does not forget.

Each task is trained together with the memory of all earlier ones, every class having the same share of every step
(replay.py).  What the memory holds of a bundle is its distilled set; of the device's own samples, exemplars.  Part of a
remembered image's label may be the answer that the model gave to it when it had just learnt it, as in DER++ (Buzzega,
Boschini, Porrello, Abati & Calderara, "Dark Experience for General Continual Learning", NeurIPS 2020, arXiv
2004.07211).  Differs in that the authors add the squared distance of logits to the cross-entropy, where here one
cross-entropy takes a mixture of the label and the remembered probabilities, since that is what a compiled training step
reads; and in that an answer is remembered once a task is learnt, not while it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Initial
from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field.datasets import Dataset
from fieldkit.field.endurance.mission import Job, Mission
from fieldkit.field.engine.replay import Joined, balanced
from fieldkit.field.engine.training import Progress, Trained, choose_recipe, stretched
from fieldkit.field.learning import lessons
from fieldkit.field.learning.exemplars import CHOICES
from fieldkit.field.learning.lessons import Lesson
from fieldkit.field.learning.memory import Memory, Part
from fieldkit.field.learning.state import State, Task
from fieldkit.field.models import exporting
from fieldkit.field.models.confidence import calibrate_on
from fieldkit.field.models.features import features
from fieldkit.field.models.prediction import Predictor
from fieldkit.tasks import classification

MEMORY = 256_000
"""Bytes of a memory where nobody says how many."""


@dataclass(frozen=True)
class Options:
    """How to learn a task.

    seed: of first weights, order, augmentation, and of what is held out and kept.
    steps: None takes the recipe's own number.
    answers: how much of a remembered label is the model's own earlier answer, 0-1; above 0 answers are kept too.
    choice: how exemplars of the device's own samples are chosen: "herding" or "reservoir".
    anew: train from the recipe's first weights on everything, in place of going on from the model.
    threads: for what is measured; the training's are the mission's.
    """

    seed: int = 0
    steps: int | None = None
    answers: float = 0.0
    choice: str = CHOICES[0]
    anew: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.answers <= 1:
            raise UsageError("a share out of range", where="answers", found=self.answers, expected="0 to 1")
        if self.choice not in CHOICES:
            raise UsageError("unknown choice", where="choice", found=self.choice, expected=" or ".join(CHOICES))


def first_state(bundle: Bundle, recipe: str | None = None, *, limit: int = MEMORY) -> State:
    """The state of a device that has learnt nothing yet, with the model of one recipe of ``bundle``.

    limit: bytes that its memory may hold.  Raises UsageError for an unknown recipe or a limit below 1.
    """
    if limit < 1:
        raise UsageError("too small", where="memory", found=limit, expected="at least 1 byte")
    chosen = choose_recipe(bundle, recipe)
    return State(bundle.manifest, bundle.digest, chosen, {}, Memory(limit), spared=bundle.manifest.spare_classes > 0)


def with_limit(state: State, limit: int) -> State:
    """The state with a memory of another size; a smaller one gives up what does not fit."""
    return replace(state, memory=replace(state.memory, limit=limit, parts=()).with_parts(state.memory.parts))


def learn(
    state: State,
    source: Bundle | Dataset,
    options: Options = Options(),
    *,
    mission: Mission | None = None,
    progress: Progress | None = None,
) -> State:
    """The state after one more task: a bundle's distilled set, or labelled samples of the device's own.

    What was learnt already, by its digest, is not learnt again: the same state is returned.
    mission: keeps the training through a loss of power; entered by the caller.  None keeps nothing.

    Raises IncompatibleBundle or DataError for what the model cannot learn from, UsageError if there are not enough
    spare classes, ResourceError if the memory is too small for so many classes, and what a training raises.
    """
    lesson = _lesson(state, source, options)
    if lesson.task.digest in {each.digest for each in state.tasks}:
        return state
    _check_room(lesson, options)
    trained = (mission or Mission(None)).train(_job(lesson, options), progress)
    learnt = replace(lesson.state, weights=trained.weights, seed=trained.seed, steps=trained.steps)
    model = _model(learnt)
    part = _answered(_remembered(lesson, model, options), model, learnt, options)
    memory = learnt.memory.with_parts([part])
    return _scored(replace(learnt, memory=memory, tasks=(*learnt.tasks, lesson.task)), model, options.threads)


def export_state(state: State, threads: int | None = None) -> bytes:
    """The complete ONNX model of what has been learnt, with the classes in use and calibrated on all tasks' probes.

    Raises UsageError if nothing has been learnt.
    """
    model, probe = _model(state), state.probe()
    return model if probe is None else calibrate_on(model, probe, threads)


def _model(state: State) -> bytes:
    """The model of what has been learnt.  Raises UsageError if nothing has been."""
    if not state.weights:
        raise UsageError("nothing has been learnt yet", remedy="learn a bundle: fieldkit learn STATE --bundle FILE")
    trained = Trained(state.recipe, state.weights, np.zeros(0, np.float32), state.seed, state.steps)
    metadata = exporting.describe(trained, state.manifest, state.bundle)
    used = state.width if state.spared else None
    return exporting.complete_model(state.recipe.programs["predict"], state.weights, metadata, used)


def _lesson(state: State, source: Bundle | Dataset, options: Options) -> Lesson:
    if isinstance(source, Bundle):
        return lessons.from_bundle(state, source)
    return lessons.from_data(state, source, options.seed)


def _job(lesson: Lesson, options: Options) -> Job:
    """The training of one task beside the memory.

    The first bundle is trained on as ``fieldkit train`` does it, so that both make the same model.
    """
    state, size = lesson.state, lesson.state.manifest.input_shape[1:]
    samples, feeding = lesson.samples, None
    if len(state.memory):
        old = state.memory.samples(size, state.width, options.answers)
        classes = np.concatenate([lesson.classes, *(each.classes for each in state.memory.parts)])
        samples = Samples(Joined.of(samples.images, old.images), np.concatenate([samples.targets, old.targets]))
        feeding = balanced([np.flatnonzero(classes == slot) for slot in np.unique(classes)])
    schedule = state.recipe.schedule
    return Job(
        state.recipe,
        samples,
        seed=options.seed,
        schedule=schedule if options.steps is None else stretched(schedule, options.steps),
        initial=_first(state, options),
        feeding=feeding,
        about={"task": lesson.task.digest, "balanced": feeding is not None},
    )


def _first(state: State, options: Options) -> Initial | None:
    """The weights that a training begins with; None for the recipe's own."""
    return Initial(weights=state.weights) if state.weights and not options.anew else None


def _check_room(lesson: Lesson, options: Options) -> None:
    """Before a long training: the memory can hold an image of each class.  Raises ResourceError."""
    if lesson.stored is None:
        part = lessons.exemplar_part(lesson, np.zeros((len(lesson.samples), 1), np.float32), CHOICES[1], 0)
    else:
        part = lesson.stored
    answers = np.zeros((len(part), lesson.state.width), np.float16) if options.answers else None
    lesson.state.memory.with_parts([replace(part, answers=answers)])


def _remembered(lesson: Lesson, model: bytes, options: Options) -> Part:
    """What the memory takes of a task, as much of it as could ever fit."""
    if lesson.stored is not None:
        return lesson.stored
    seen = features(model, lesson.samples.images, options.threads)
    return lessons.exemplar_part(lesson, seen, options.choice, options.seed)


def _answered(part: Part, model: bytes, state: State, options: Options) -> Part:
    """The part with the model's answers to its images, if they are wanted."""
    if not options.answers:
        return part
    shown = part.samples(state.manifest.input_shape[1:], state.width).images
    top = np.iinfo(state.manifest.radiometry.dtype).max
    counts = np.clip(np.rint(shown), 0, top).astype(state.manifest.radiometry.dtype)
    said = Predictor.open(model, options.threads).predict(counts)
    return replace(part, answers=said.astype(np.float16))


def _scored(state: State, model: bytes, threads: int | None) -> State:
    """The state whose tasks each have one score more: what the new model makes of their probes."""
    predictor = Predictor.open(model, threads)

    def score(task: Task) -> float | None:
        if task.probe is None:
            return None
        return classification.score(predictor.predict(task.probe.images), task.probe.targets).accuracy

    return replace(state, tasks=tuple(replace(each, scores=(*each.scores, score(each))) for each in state.tasks))


@dataclass(frozen=True)
class Report:
    """How well a state does.

    accuracy: the mean over tasks of the accuracy on their probes, 0-1; None if no task has one.
    forgetting: the mean over all tasks but the last of the best earlier accuracy minus today's (Chaudhry, Dokania,
    Ajanthan & Torr, "Riemannian Walk for Incremental Learning", ECCV 2018, arXiv 1801.10112, section 3.1); None before
    the second task.
    """

    state: State
    accuracy: float | None
    forgetting: float | None

    def to_json(self) -> dict[str, Any]:
        state, counts = self.state, self.state.memory.counts(self.state.width)
        names = state.manifest.classes
        return {
            "bundle": {"name": state.manifest.name, "digest": state.bundle},
            "recipe": state.recipe.name,
            "classes": [{"name": name, "remembered": int(n)} for name, n in zip(names, counts, strict=True)],
            "spare_classes": state.manifest.spare_classes,
            "memory": {"bytes": state.memory.bytes, "limit": state.memory.limit, "images": len(state.memory)},
            "probe_bytes": state.probe_bytes,
            "tasks": [
                {
                    "kind": task.kind,
                    "source": task.source,
                    "digest": task.digest,
                    "classes": [names[slot] for slot in task.slots],
                    "remembered": state.memory.held(task.digest),
                    "probe": 0 if task.probe is None else len(task.probe),
                    "scores": list(task.scores),
                }
                for task in state.tasks
            ],
            "accuracy": self.accuracy,
            "forgetting": self.forgetting,
        }


def report_state(state: State) -> Report:
    """How well ``state`` does on every task so far."""
    measured = [[score for score in each.scores if score is not None] for each in state.tasks]
    return Report(
        state,
        _mean([scores[-1] for scores in measured if scores]),
        _mean([max(scores[:-1]) - scores[-1] for scores in measured if len(scores) > 1]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
