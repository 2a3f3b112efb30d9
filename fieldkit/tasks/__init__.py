"""What is being learnt.  One file per task: check, group, score; a new task is one file and one line in this table."""

from types import ModuleType

from fieldkit.errors import UsageError
from fieldkit.tasks import classification

TASKS = {"classification": classification}


def task(name: str) -> ModuleType:
    """The task of that name.  Raises UsageError that lists the names there are."""
    if name not in TASKS:
        raise UsageError("unknown task", found=name, expected=" or ".join(sorted(TASKS)))
    return TASKS[name]
