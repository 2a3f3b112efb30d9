"""The command line as a whole: help, exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import Run

from fieldkit import __version__
from fieldkit.cli import faces, main
from fieldkit.errors import INSTALL_HQ, DataError, FieldkitError, UsageError

FIELD_COMMANDS = ("train", "test", "predict", "bench", "doctor", "inspect")
HEAVY = ("torch", "onnx", "sklearn", "onnxruntime", "h5py", "numpy", "PIL")


def test_help_lists_the_commands_and_shows_an_example(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"\n  {name}" in done.stdout for name in main.COMMANDS)
    assert "Example:" in done.stdout


@pytest.mark.parametrize("command", FIELD_COMMANDS)
def test_each_command_has_help_with_an_example(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert re.search(rf"Examples?:\n    fieldkit {command}", done.stdout)


def every_command() -> Iterator[tuple[str, click.Command]]:
    """All commands and sub-commands by what the user types."""
    for name in main.COMMANDS:
        command = main.fieldkit.get_command(click.Context(main.fieldkit), name)
        yield name, command
        for under, each in getattr(command, "commands", {}).items():
            yield f"{name} {under}", each


def test_every_command_and_sub_command_shows_an_example_of_itself() -> None:
    for name, command in every_command():
        shown = command.get_help(click.Context(command))
        assert f"\n    fieldkit {name}" in shown.partition("\n  Example")[2], name
        assert isinstance(command, click.Group) or "--json" in shown, name


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").stdout == f"fieldkit, version {__version__}\n"


@pytest.mark.parametrize("arguments", [("dance",), ("train",), ("train", "b.h5", "--dance"), ("test", "m.onnx")])
def test_a_wrong_call_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "\n  remedy: call it as fieldkit" in done.stderr


def test_a_wrong_option_reads_like_any_other_error(run: Run) -> None:
    lines = run("train", "b.h5", "--seed", "x").stderr.splitlines()
    assert lines[0].startswith("error: invalid value for '--seed': 'x'")
    assert not lines[0].endswith(".")
    assert lines[1:] == ["  remedy: call it as fieldkit train [OPTIONS] BUNDLE; fieldkit train --help says more"]


def test_without_a_command_there_is_help(run: Run) -> None:
    done = run()
    assert "Commands:" in done.stdout + done.stderr
    assert "error" not in done.stderr


def test_build_says_how_to_install_what_it_lacks() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom fieldkit.cli.main import main\n"
        "main(['build', 'digits', '-o', 'x.h5'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: this command is HQ's and needs libraries that are not installed; found no torch"
    )
    assert INSTALL_HQ in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fieldkit.cli.main import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_training_imports_neither_torch_nor_onnx(bundle_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fieldkit.cli.main import main\n"
        f"try:\n    main(['train', {str(bundle_file)!r}, '--threads', '1'])\n"
        "except SystemExit as end:\n    print(end.code)\n"
        "print([name for name in ('torch', 'onnx', 'sklearn', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]


def leave(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code after a command raised ``error``."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.fieldkit, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main([])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("wrong", where="here", remedy="do it right"), 2, "error: here: wrong\n  remedy: do it right"),
        (DataError("x", ["one", "two"]), 7, "x: 2 faults in the data\n  - one\n  - two"),
        (FieldkitError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 6, "interrupted"),
        (MemoryError(), 5, "not enough memory"),
        (OSError(28, "No space left on device", "/x"), 5, "/x: the system refused: No space left"),
        (ModuleNotFoundError("no torch", name="torch"), 2, "in a clone: pip install '.[hq]'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(error, monkeypatch) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


def test_a_missing_module_that_is_not_hqs_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("no zebra", name="zebra")

    monkeypatch.setattr(main.fieldkit, "main", fail)
    with pytest.raises(ModuleNotFoundError):
        main.main([])


def test_a_reader_that_leaves_early_is_no_error(bundle_file: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fieldkit", "inspect", str(bundle_file)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_output_is_told(bundle_file: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fieldkit", "inspect", str(bundle_file)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on, stderr is a terminal; a fixture's would not last, since pytest puts its own back before it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is 6 seconds further at each look, from 6."""
    looks = iter(range(6, 4000, 6))
    monkeypatch.setattr(faces.time, "monotonic", lambda: float(next(looks)))


def drawn(terminal: Terminal) -> list[str]:
    """Every line that was drawn over the one before."""
    return terminal.text.replace("\x1b[K", "").rstrip("\n").split("\r")[1:]


def test_off_a_terminal_a_short_run_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with faces.Progress("training", "steps") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr().err == ""


def test_progress_moves_on_a_terminal(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    terminal = on_a_terminal(monkeypatch)
    with faces.Progress("training", "steps") as progress:
        progress(1, 4, "loss 0.9")
        progress(2, 4, "loss 0.5")
        progress(4, 4, "loss 0.2")
    # The first call starts the watch, so that it knows no pace.
    assert drawn(terminal) == [
        "training [######..................] 1/4  loss 0.9",
        "training [############............] 2/4  0.2 steps/s, 12 s left  loss 0.5",
        "training [########################] 4/4  0.2 steps/s, took 12 s  loss 0.2",
    ]
    assert terminal.text.endswith("\n")


def test_progress_of_a_share_reckons_with_what_was_done_since_it_was_resumed(
    monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    terminal = on_a_terminal(monkeypatch)
    with faces.Progress("distilling", "iterations") as progress:
        progress.show("50 %", 1000, 0.5)
        progress.show("75 %", 1060, 0.75, "best 91.0 %")
        progress.show("100 %", 1120, 1.0)
    # 60 iterations and a quarter of the work in 6 seconds: not 1060 iterations, not three quarters.
    assert drawn(terminal) == [
        "distilling [############............] 50 %",
        "distilling [##################......] 75 %  10.0 iterations/s, 6.0 s left  best 91.0 %",
        "distilling [########################] 100 %  10.0 iterations/s, took 12 s",
    ]


def test_progress_is_drawn_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces.time, "monotonic", lambda: 100.0)
    terminal = on_a_terminal(monkeypatch)
    with faces.Progress("training", "steps") as progress:
        for step in range(1, 6):
            progress(step, 5)
    assert [line.split("] ")[1] for line in drawn(terminal)] == ["1/5", "5/5"]


def test_quiet_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with faces.Progress("training", "steps", quiet=True) as progress:
        progress(1, 2)
    assert terminal.text == ""


def test_a_long_run_writes_a_line_now_and_then(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    with faces.Progress("training", "steps") as progress:
        for step in range(1, 11):
            progress(step, 10)
    assert capsys.readouterr().err.splitlines() == [
        "training 3/10  0.2 steps/s, 42 s left",
        "training 6/10  0.2 steps/s, 24 s left",
        "training 9/10  0.2 steps/s, 6.0 s left",
    ]


def test_no_color_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert faces.styled("x", True, fg="red") != "x"
    assert faces.styled("x", False, fg="red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert faces.styled("x", True, fg="red") == "x"


def test_control_characters_of_a_file_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    faces.print_error("a\x1b[31m\tb\nc")
    assert capsys.readouterr().err == "error: a\\x1b[31m\tb\nc\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, said: str) -> None:
    assert faces.duration(seconds) == said


def test_json_documents_name_their_schema(capsys: pytest.CaptureFixture[str]) -> None:
    faces.print_json("train", {"name": "\u00e9"})
    assert json.loads(capsys.readouterr().out) == {"schema": "fieldkit.train/1", "name": "\u00e9"}
