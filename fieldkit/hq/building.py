"""From a spec to a bundle: the whole story."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import zopfli.zlib

from fieldkit.bundle import save_bundle
from fieldkit.bundle.atomic import check_writable
from fieldkit.bundle.contents import Bundle
from fieldkit.errors import ResourceError
from fieldkit.field.engine.heap import keep_memory
from fieldkit.hq.compiler import Compiled
from fieldkit.hq.distil import start
from fieldkit.hq.distil.checkpoint import Checkpoint
from fieldkit.hq.distil.driver import Judge, Outcome, Report, drive
from fieldkit.hq.distil.labels import labelled
from fieldkit.hq.distil.problem import Snapshot, silent
from fieldkit.hq.distil.workers import Workers, hardware, joined
from fieldkit.hq.earlier import judge_among_all
from fieldkit.hq.evidence.accuracy import FieldScores
from fieldkit.hq.evidence.card import evidence, measured, note_disagreement, unrounded
from fieldkit.hq.packing import Packing
from fieldkit.hq.preparation import Material, compile_all, decided, pose, read, stored
from fieldkit.hq.provenance import attested, fingerprint, manifest
from fieldkit.hq.spec import AUTO, Spec, bundle_name, check

# Seeds of the trainings that select are not those of the trainings that are reported.
SELECTION_SEEDS = (1001, 1002)


@dataclass(frozen=True)
class Built:
    """The bundle as written, and how its distillation ended."""

    bundle: Bundle
    outcome: Outcome


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn torch's complaints about memory, which are of no class of their own on a processor, into ours."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ResourceError("not enough memory", remedy="choose a smaller --recipe, --batch or --ipc") from error


@_memory_named()
def build(
    spec: Spec,
    output: Path,
    *,
    resume: bool = False,
    report: Report = lambda status: None,
    note: Callable[[str], None] = lambda text: None,
) -> Built | None:
    """Distil, compile, measure and pack; under torchrun several processes distil together, and only the first goes on.

    report: called after each iteration; note: with a line on what goes on.  Ctrl-C ends the distillation early; the
    best set so far is packed and ``built.outcome.interrupted`` says so.  None: another process makes the bundle.

    Raises UsageError for options that do not fit, DataError for data that cannot be distilled, ProgramError for a
    recipe that cannot be compiled, ResourceError if disk or memory are full.
    """
    check(spec, output)
    check_writable(output)
    keep_memory()
    with joined() as workers, stored(output, workers.rank) as storage:
        material = read(spec, storage)
        if workers.first:
            return _build(spec, material, output, workers, resume=resume, report=report, note=note)
        return _build(spec, material, output, workers, resume=resume, report=lambda status: None, note=silent)


def _build(
    spec: Spec,
    material: Material,
    output: Path,
    workers: Workers,
    *,
    resume: bool,
    report: Report,
    note: Callable[[str], None],
) -> Built | None:
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    real, held_out = material.splits.real, material.splits.held_out
    note(f"{material.dataset.name}: {len(real):,} images to distil, {len(held_out):,} held out to select by")
    spec = workers.told(lambda: _decided(spec, material, output, resume, note))
    check(spec, output)
    recipes = workers.told(lambda: compile_all(spec, material.data))
    primary = next(iter(recipes))
    problem = replace(pose(spec, material, recipes[primary].recipe, output, note), workers=workers)
    packing, scores = _packing(spec, material, recipes, bundle_name(spec, output)), FieldScores(spec.threads)
    beside = () if material.tasks is None else material.tasks.bundles
    judge = _judge(spec, material, packing, scores)
    distillation = labelled(start(spec.method, problem, spec.settings), problem, spec.labels)
    checkpoint = Checkpoint(checkpoint_file(output), fingerprint(spec, material.dataset, beside), note)
    if not resume and checkpoint_file(output).exists():
        note(f"starting anew: {checkpoint_file(output)} of a stopped job is replaced; --resume would go on from it")
    note(f"distilling with method {spec.method}")
    outcome = drive(distillation, spec.limits, judge, checkpoint, resume=resume, report=report, workers=workers)
    if not workers.first:
        return None
    note("measuring the best set as a device will train it")
    bundle = measured(packing.pack(outcome.best), material.splits, scores)
    in_torch = unrounded(spec, bundle, problem, outcome.best, held_out)
    machine = None if spec.limits.seconds is None else hardware(problem.device, workers)
    card = evidence(recipes, outcome, bundle.manifest.expectations[primary]["held-out"], in_torch, machine)
    note_disagreement(card["held_out"], note)
    complete = attested(replace(bundle, card=card), spec, material.dataset, beside)
    written = save_bundle(complete, output, zopfli.zlib.compress)
    if not outcome.interrupted:
        checkpoint.remove()
    return Built(written, outcome)


def _decided(spec: Spec, material: Material, output: Path, resume: bool, note: Callable[[str], None]) -> Spec:
    """The spec with a method; a job that goes on keeps its own and its precision, however fast the machine is now."""
    if not resume:
        return decided(spec, material, note)
    begun = Checkpoint(checkpoint_file(output), {}).begun()
    method = begun.get("method") if spec.method == AUTO else spec.method
    return replace(spec, method=str(method), precision=spec.precision or begun.get("precision"))


def checkpoint_file(output: Path) -> Path:
    """Where a build of ``output`` keeps what --resume needs."""
    return output.with_name(output.name + ".resume")


def _judge(spec: Spec, material: Material, packing: Packing, scores: FieldScores) -> Judge:
    """What a snapshot is worth: its accuracy on the held-out split, among the earlier tasks' classes too."""
    seeds, held_out = SELECTION_SEEDS[:1] if spec.init == "fixed" else SELECTION_SEEDS, material.splits.held_out
    primary = next(iter(packing.recipes))
    if material.tasks is not None:
        batch = packing.recipes[primary].schedule.batch
        alone = replace(spec, recipes=spec.recipes[:1], scopes=("full",), batch=batch)
        recipe = compile_all(alone, material.of_all)[primary].recipe
        return judge_among_all(material.tasks, packing, recipe, held_out, seeds, spec.threads)

    def judge(snapshot: Snapshot) -> float:
        return float(np.mean(scores.accuracies(packing.pack(snapshot), primary, seeds, [held_out])[0]))

    return judge


def _packing(spec: Spec, material: Material, recipes: Mapping[str, Compiled], name: str) -> Packing:
    beside = () if material.tasks is None else material.tasks.bundles
    described = manifest(spec, material.dataset, material.data, name=name, recipes=tuple(recipes), beside=beside)
    return Packing(
        manifest=described,
        recipes={recipe: each.recipe for recipe, each in recipes.items()},
        probe=material.splits.probe,
        levels=spec.levels,
        serial=spec.serial,
    )
