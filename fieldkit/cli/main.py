"""The command ``fieldkit``: finds the sub-command, and turns errors into a message and an exit code.

Sub-commands are imported when they are called, so that help is quick and only ``build`` ever needs torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from fieldkit import __version__
from fieldkit.cli import faces
from fieldkit.errors import INSTALL_HQ, FieldkitError, Interrupted, ResourceError, UsageError

# name: (module, what the list of commands says); the command is the attribute that is called like it.
COMMANDS = {
    "build": ("fieldkit.cli.build", "Distil a data set and pack it with its recipes into a bundle (HQ)."),
    "train": ("fieldkit.cli.train", "Train a model from a bundle."),
    "select": ("fieldkit.cli.select", "Find the recipe of a bundle that suits this device best."),
    "learn": ("fieldkit.cli.learn", "Learn task after task into one model, and forget none."),
    "adapt": ("fieldkit.cli.adapt", "Adapt a trained model to samples of your own."),
    "test": ("fieldkit.cli.test", "Score a trained model on a labelled data set."),
    "predict": ("fieldkit.cli.predict", "Classify image files with a trained model."),
    "export": ("fieldkit.cli.export", "Write a smaller copy of a model, of 8 or 16 bits."),
    "bench": ("fieldkit.cli.bench", "Measure how fast a bundle's recipes are on this device."),
    "doctor": ("fieldkit.cli.doctor", "Tell what this device is, how fast, and which recipes fit it."),
    "inspect": ("fieldkit.cli.inspect", "Show what a bundle holds."),
    "diff": ("fieldkit.cli.diff", "Write what changed from one issue of a bundle to the next as a patch."),
    "patch": ("fieldkit.cli.patch", "Turn a bundle into its next issue with a patch."),
    "keygen": ("fieldkit.cli.keygen", "Make a key pair of a person or a device."),
    "sign": ("fieldkit.cli.sign", "Sign a bundle."),
    "verify": ("fieldkit.cli.verify", "Tell whether a bundle is whole, and signed by keys that are trusted."),
    "trust": ("fieldkit.cli.trust", "Say whose bundles this device takes."),
    "encrypt": ("fieldkit.cli.encrypt", "Encrypt a bundle for chosen devices."),
    "decrypt": ("fieldkit.cli.decrypt", "Write the bundle inside an encrypted one to a file."),
}
# What click 8.2 and newer raise to show a group's help; older ones show it and leave.
NO_ARGUMENTS: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
HQ_MODULES = ("torch", "onnx", "sklearn", "zopfli")


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  fieldkit train bundles/mnist-10.h5 -o model.onnx\n  fieldkit predict model.onnx digits/",
)
@click.version_option(__version__, prog_name="fieldkit")
def fieldkit() -> None:
    """Distil a data set at headquarters, train from it in the field: no PyTorch, no network, no raw data."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code of its outcome (see ``fieldkit.errors``)."""
    try:
        fieldkit.main(arguments, prog_name="fieldkit", standalone_mode=False)
        sys.stdout.flush()
        code = 0
    except FieldkitError as error:
        code = _report(error)
    except NO_ARGUMENTS as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _report(_wrong_call(error))
    except (KeyboardInterrupt, click.Abort):
        code = _report(Interrupted("interrupted", remedy="run the same command again"))
    except MemoryError:
        code = _report(ResourceError("not enough memory", remedy="free memory, or use a smaller bundle or data set"))
    except ModuleNotFoundError as error:
        code = _report(_lacking(error))
    except SystemExit:
        # click leaves so, and only so, when the reader of our output has left.
        code = 0
    except OSError as error:
        place = error.filename or "the output"
        code = _report(
            ResourceError(f"the system refused: {error.strerror or error}", where=place, remedy="check the disk")
        )
    sys.exit(code)


def _report(error: FieldkitError) -> int:
    faces.print_error(str(error))
    return error.exit_code


def _wrong_call(error: click.ClickException) -> FieldkitError:
    """click's complaint about the command line, told as we tell ours."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        remedy = "fieldkit COMMAND --help lists the options"
    else:
        usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
        remedy = f"call it as {usage}; {context.command_path} --help says more"
    return UsageError(message[:1].lower() + message[1:], remedy=remedy)


def _lacking(error: ModuleNotFoundError) -> FieldkitError:
    """HQ's libraries are not installed on a device; any other missing module is a bug."""
    if (error.name or "").partition(".")[0] not in HQ_MODULES:
        raise error
    return UsageError(
        "this command is HQ's and needs libraries that are not installed",
        found=f"no {error.name}",
        expected="the extra fieldkit[hq]",
        remedy=INSTALL_HQ,
    )
