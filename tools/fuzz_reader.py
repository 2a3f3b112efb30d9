"""Feed the reader of bundles and the check of programs what nobody should send them, and count what becomes of it.

    python tools/fuzz_reader.py corpus FOLDER [--json FILE]
    python tools/fuzz_reader.py mutate BUNDLE... --minutes 30 [--seed 0] [--only reader:17] [--keep FOLDER]

corpus: every file of a folder, such as a published collection of files that crash HDF5's tools.  A file that is not a
bundle is also read as the payload of one, rightly sealed, so that HDF5 gets to see it; .onnx files go to the programs'
checks and to onnxruntime.
mutate: valid bundles, changed and sealed anew, and their training programs, for so many minutes.  Case number i of a
seed is always the same; --only runs one of them in this process, without limits, for a debugger.

Each case has a child process, 5 s of processor time and 512 MiB beyond what an idle reader has.  Outcomes: accepted,
refused (one of fieldkit's errors), failed (another exception, a bug), crashed (a signal), hung (beyond its time).  The
exit status is 1 if any failed, crashed or hung.  Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import ordeal

from fieldkit.bundle.files import MAX_FILE, read_bytes
from fieldkit.bundle.logical import logical_digest
from fieldkit.bundle.reader import parse_file
from fieldkit.bundle.seal import MAGIC, seal
from fieldkit.errors import ProgramError
from fieldkit.field.engine.session import open_session, run_session
from fieldkit.field.inspection.document import describe
from fieldkit.field.programs.program import check_program

BAD = (ordeal.FAILED, ordeal.CRASHED, ordeal.HUNG)
_RESULTS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16}


@dataclass(frozen=True)
class Case:
    """Something to try: a name that finds it again, its bytes, and what is done with them."""

    name: str
    data: bytes
    work: Callable[[bytes], object]


def read(data: bytes) -> None:
    """All that ``fieldkit inspect`` does with a bundle's bytes."""
    parsed = parse_file(data, "case")
    describe(parsed.bundle)
    logical_digest(parsed.arrays)


def run(program: bytes) -> None:
    """Check a program, open it, and run it once on zeros."""
    session = open_session(program, "case", threads=1)
    feeds = {
        each.name: np.zeros([length if isinstance(length, int) else 1 for length in each.shape], _RESULTS[each.type])
        for each in session.get_inputs()
        if each.type in _RESULTS
    }
    run_session(session, feeds, "case")


def found(folder: Path) -> Iterator[Case]:
    """The cases that the files of a folder make."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        data, name = read_bytes(path, what="file"), str(path.relative_to(folder))
        if path.suffix == ".onnx":
            yield Case(name, data, run)
            continue
        yield Case(name, data, read)
        if not data.startswith(MAGIC) and len(data) < MAX_FILE - 4096:
            yield Case(f"{name} (sealed)", seal("case", data) + data, read)


def _is_program(data: bytes) -> bool:
    try:
        check_program(data, "case")
    except ProgramError:
        return False
    return True


class Mutations:
    """Cases by kind and number."""

    def __init__(self, bundles: Sequence[Path], seed: int) -> None:
        self.seed = seed
        parsed = [parse_file(read_bytes(path), path) for path in bundles]
        self.names = [each.bundle.manifest.name for each in parsed]
        self.arrays = [each.arrays for each in parsed]
        self.payloads = [list(mutations.forms(arrays).values()) for arrays in self.arrays]
        self.programs = [
            program
            for each in parsed
            for recipe in each.bundle.recipes.values()
            for name, program in recipe.programs.items()
            if name != "predict" and _is_program(program)
        ]
        self.kinds: dict[str, Callable[[str, random.Random], Case]] = {
            "reader": self._payload,
            "reader 2": self._payload,
            "document": partial(self._parts, mutations.mutate_document),
            "shape": partial(self._parts, mutations.mutate_shape),
        }
        if self.programs:
            self.kinds["program"] = self._program

    def __iter__(self) -> Iterator[Case]:
        """Without end: one of each kind in turn."""
        number = 0
        while True:
            yield from (self.case(kind, number) for kind in self.kinds)
            number += 1

    def case(self, kind: str, number: int) -> Case:
        """The case of this kind and number; the same for the same bundles and seed."""
        chance = random.Random(f"{self.seed} {kind} {number}")
        return self.kinds[kind](f"{kind}:{number}", chance)

    def _payload(self, name: str, chance: random.Random) -> Case:
        which = chance.randrange(len(self.names))
        payload = mutations.mutate_payload(chance.choice(self.payloads[which]), chance)
        return Case(name, seal(self.names[which], payload) + payload, read)

    def _parts(self, mutate: Callable[..., dict[str, np.ndarray]], name: str, chance: random.Random) -> Case:
        which = chance.randrange(len(self.names))
        payload = mutations.packed(mutate(self.arrays[which], chance))
        return Case(name, seal(self.names[which], payload) + payload, read)

    def _program(self, name: str, chance: random.Random) -> Case:
        return Case(name, mutations.mutate_program(chance.choice(self.programs), chance), run)


def examine(cases: Iterator[Case], until: Callable[[], bool], keep: Path | None) -> list[dict[str, Any]]:
    """The outcome of each case, until it is time to stop; the bytes of bad ones are kept in a folder."""
    results: list[dict[str, Any]] = []
    for case in cases:
        if until():
            break
        outcome = ordeal.undergo(partial(case.work, case.data))
        results.append({"case": case.name, "bytes": len(case.data), **asdict(outcome)})
        if outcome.kind in BAD:
            print(f"{case.name}: {outcome.kind}, {outcome.message}", file=sys.stderr)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / case.name.replace("/", "_").replace(":", "-")).write_bytes(case.data)
    return results


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by outcome, and the largest time and memory of any case."""
    counts = Counter(str(each["kind"]) for each in results)
    kinds = (ordeal.ACCEPTED, ordeal.REFUSED, *BAD)
    return {
        "cases": len(results),
        **{kind: counts[kind] for kind in kinds},
        **{f"most_{what}": max((each[what] for each in results), default=0.0) for what in ("seconds", "mebibytes")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    corpus, mutate = verbs.add_parser("corpus"), verbs.add_parser("mutate")
    corpus.add_argument("folder", type=Path)
    mutate.add_argument("bundles", type=Path, nargs="+")
    mutate.add_argument("--minutes", type=float, default=1.0)
    mutate.add_argument("--seed", type=int, default=0)
    mutate.add_argument("--only", help="a kind and a number, such as reader:17")
    for verb in (corpus, mutate):
        verb.add_argument("--json", type=Path, help="write every outcome there")
        verb.add_argument("--keep", type=Path, help="keep the bytes of bad cases in this folder")
    chosen = parser.parse_args()
    if chosen.verb == "corpus":
        results = examine(found(chosen.folder), lambda: False, chosen.keep)
        for each in results:
            print(f"{each['case']}: {each['kind']}  {each['message']}")
    else:
        cases = Mutations(chosen.bundles, chosen.seed)
        if chosen.only:
            kind, _, number = chosen.only.partition(":")
            case = cases.case(kind, int(number))
            case.work(case.data)
            return
        end = time.monotonic() + 60 * chosen.minutes
        results = examine(iter(cases), lambda: time.monotonic() > end, chosen.keep)
        by_kind = {kind: [each for each in results if str(each["case"]).startswith(f"{kind}:")] for kind in cases.kinds}
        for kind, own in by_kind.items():
            print(f"{kind}: {summary(own)}")
    print(json.dumps(summary(results)))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(each["kind"] in BAD for each in results))


if __name__ == "__main__":
    main()
