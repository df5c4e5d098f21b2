"""What all verbs share: the application, their common flags, the data, and how errors and remarks are shown."""

import importlib.metadata
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cifar import __version__
from cifar.cli import display
from cifar.cli.terminal import Ended, drop_results, exit_code, show_whatever_encoding, until_signal
from cifar.errors import InputError, Remark, WorldError
from cifar.machine import is_out_of_memory, plain_matplotlib
from cifar.training.launch import LostError, first_to_fail, refuse_several

if TYPE_CHECKING:
    from cifar.data.cifar10 import Dataset

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended; others are given by `exit_code`
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print the version of this package and of PyTorch, without waiting for it, and end."""
    if wanted:
        display.result_text(f"cifar {__version__}, PyTorch {importlib.metadata.version('torch')}")
        raise typer.Exit


@app.callback()
def cifar(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, test, understand and use an image classifier on CIFAR-10."""
    if context.invoked_subcommand != "train":
        refuse_several(f"cifar {context.invoked_subcommand}")


Device = Annotated[
    str, typer.Option("-d", "--device", help="cpu, mps or cuda (cuda:1 is the second GPU); default the best there is.")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import and run the network's own code, where the run's recipe names some.")
]
Data = Annotated[
    str,
    typer.Option("--data", help="A folder or archive of CIFAR-10, or `sample`; default the cache, else a download."),
]


def check_data_flag(data: str) -> None:
    """Refuse a --data that names nothing, without waiting for PyTorch.

    Raises:
        InputError: no such file or folder.
    """
    from cifar.data import data_path

    if data not in ("", "sample"):
        data_path(data)


def open_data(data: str, *, source: str = "") -> "Dataset":
    """The data set, fetched with a progress bar if it is not in the cache.

    Args:
        data: of --data.
        source: cache, path, npm or official; "" tries them in this order.

    Raises:
        InputError, WorldError: as `open_dataset`.
    """
    from cifar.data.cifar10 import open_dataset

    with display.byte_progress() as progress:
        dataset = open_dataset(data, source=source, say=display.say, progress=progress)
    if dataset.is_sample:
        display.say(dataset.note)
    return dataset


def check_split(split: str) -> None:
    """Refuse a --split that is none.

    Raises:
        InputError: names those that there are.
    """
    if split not in ("test", "validation"):
        raise InputError(f"There is no split {split!r}: choose test or validation.")


def check_views(views: str) -> None:
    """Refuse a --tta that is none; "" is the recipe's.

    Raises:
        InputError: names those that there are.
    """
    from cifar.evaluation.predict import VIEWS

    if views and views not in VIEWS:
        raise InputError(f"There is no TTA {views!r}: choose --tta {', '.join(VIEWS)}.")


def run_app(app: typer.Typer, arguments: Sequence[str], *, program: str) -> int:
    """Run a command; every error that a person can cause becomes one sentence on standard error and an exit code.

    Args:
        app: the application.
        arguments: what was typed after the program's name.
        program: its name, for errors.

    Returns:
        the exit code, as `cifar.cli.terminal` has them.
    """
    show_whatever_encoding()
    plain_matplotlib()
    with warnings.catch_warnings():
        warnings.showwarning = show_remark
        return until_signal(lambda: run_command(app, arguments, program=program))


def say_once(sentence: str, *, code: int, fatal: bool = True) -> None:
    """Print why the program ends, unless another process of its training has said so already.

    Args:
        sentence: to print.
        code: of the exit.
        fatal: whether it would end in the same way if it were started again.
    """
    if first_to_fail(code, fatal=fatal):
        display.speak()
        display.say(sentence)


def raise_once(error: Exception) -> None:
    """Raise an error that nobody expected, unless another process of its training has failed before."""
    if first_to_fail(1, fatal=False):
        raise error


def check_current_folder() -> None:
    """Refuse a current folder that was removed, in which libraries end the process without a word.

    Raises:
        WorldError: says what to do.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise WorldError(f"The current folder cannot be used ({error.strerror}): go to another, with cd.") from None


def show_remark(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  (as Python calls it)
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Print a remark of ours as its sentence, and any other warning as Python does."""
    if issubclass(category, Remark):
        display.say(str(message))
    elif not display.is_silent():
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def run_command(app: typer.Typer, arguments: Sequence[str], *, program: str) -> int:
    """See `run_app`."""
    try:
        check_current_folder()
        code: int = app(list(arguments), prog_name=program, obj=list(arguments), standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except (typer.TyperException, InputError) as error:
        sentence = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if sentence:  # empty where the help was printed instead
            say_once(f"{program}: {sentence}", code=2)
        return 2
    except (KeyboardInterrupt, Ended, typer.Abort) as interrupt:
        display.say("Interrupted.")
        return exit_code(interrupt)
    except BrokenPipeError:
        drop_results()  # the reader has gone; nothing more can be told
        return 1
    except WorldError as error:
        say_once(f"{program}: {error}", code=1, fatal=not isinstance(error, LostError))
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise_once(error)
            return 1
        say_once(f"{program}: there is not enough memory: take fewer images at a time or a smaller network.", code=1)
        return 1
    except OSError as error:
        where = "standard output" if drop_results() else error.filename
        say_once(f"{program}: {f'{where}: ' if where else ''}{error.strerror or error}.", code=1)
        return 1
