"""A device's state file and what one call does to it: read, learn, write; whole or not at all, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import check_apart, check_writable
from fieldkit.bundle.contents import Bundle
from fieldkit.errors import UsageError
from fieldkit.field.datasets import Dataset, load_dataset
from fieldkit.field.endurance.checkpoint import state_folder
from fieldkit.field.endurance.mission import Conditions, Mission
from fieldkit.field.engine.training import Progress
from fieldkit.field.learning import continual, state
from fieldkit.field.learning.continual import MEMORY, Options, Report
from fieldkit.field.learning.state import State
from fieldkit.field.trust.admission import Sealer, open_bundle


@dataclass(frozen=True)
class Request:
    """What is to be done with a state file.

    bundle, data: what to learn, at most one of them: a bundle's file, or a data set (``load_dataset``).
    recipe: of the first bundle, whose model is trained; None takes its first.
    limit: bytes that the memory may hold; None leaves it as it is.
    output: where to write the model; None writes none.
    opening: how a bundle is opened, as ``admission.open_bundle`` takes it.
    """

    bundle: Path | None = None
    data: Path | None = None
    recipe: str | None = None
    limit: int | None = None
    output: Path | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a call came to.

    learnt: whether there was something new to learn.
    size: bytes of the state file.  model_size: of the model, or None.
    """

    report: Report
    learnt: bool
    size: int
    model_size: int | None

    def to_json(self) -> dict[str, Any]:
        return {"learnt": self.learnt, "bytes": self.size, "model_bytes": self.model_size, **self.report.to_json()}


def keep(
    path: Path,
    request: Request,
    options: Options,
    conditions: Conditions,
    progress: Progress | None = None,
) -> Outcome:
    """Do with the state in file ``path`` what ``request`` says; the first bundle makes the file.

    The same call after a loss of power goes on where it was; after the file was written it learns nothing, since a
    bundle or data set is learnt once.  A state that holds anything of an encrypted bundle is closed with the device's
    key.

    Raises UsageError where the request does not fit the file, and what ``continual.learn`` raises.
    """
    _check(path, request, conditions.log)
    admitted = None if request.bundle is None else open_bundle(request.bundle, **request.opening)
    source: Bundle | Dataset | None = None if admitted is None else admitted.bundle
    if request.data is not None:
        source = load_dataset(request.data, for_training=False)
    changes = source is not None or request.limit is not None
    secret = state.is_closed(path) or (admitted is not None and admitted.sealer is not None)
    sealer = state.device_sealer(**_key(request)) if secret else None
    with Mission(state_folder(path) if changes else None, replace(conditions, sealer=sealer)) as mission:
        before = _opened(path, request, source, sealer)
        after = before if request.limit is None else continual.with_limit(before, request.limit)
        if source is not None:
            after = continual.learn(after, source, options, mission=mission, progress=progress)
        if after is not before:
            mission.write(path, state.closed(after, sealer))
        model = b"" if request.output is None else continual.export_state(after, options.threads)
        if request.output is not None:
            mission.write(request.output, model)
        mission.finish()
    learnt = len(after.tasks) > len(before.tasks)
    return Outcome(continual.report_state(after), learnt, path.stat().st_size, len(model) or None)


def _check(path: Path, request: Request, log: Path | None) -> None:
    """Raise UsageError for a request that cannot be met, before anything is done."""
    if request.bundle is not None and request.data is not None:
        raise UsageError("two things to learn", where=path, remedy="name --bundle or --data, and call it twice")
    for target in (path, request.output):
        if target is not None and (target is not path or request.bundle or request.data or request.limit):
            check_writable(target)
    check_apart({"state": path, "model": request.output, "log": log}, {"bundle": request.bundle, "data": request.data})


def _opened(path: Path, request: Request, source: Bundle | Dataset | None, sealer: Sealer | None) -> State:
    """The state in the file; where there is none, a new one with the model of the bundle that is to be learnt."""
    if path.exists():
        found = state.read_state(path, sealer)
        if request.recipe not in (None, found.recipe.name):
            raise UsageError(
                "the state's model has another recipe",
                where=path,
                found=request.recipe,
                expected=found.recipe.name,
                remedy="leave --recipe out, or begin another STATE with it",
            )
        return found
    if not isinstance(source, Bundle):
        begin = "begin it with a bundle: fieldkit learn STATE --bundle FILE; or check the path"
        raise UsageError("no such state", where=path, remedy=begin)
    return continual.first_state(source, request.recipe, limit=request.limit or MEMORY)


def _key(request: Request) -> dict[str, Any]:
    return {name: request.opening.get(name) for name in ("key", "passphrase")}
