"""What all verbs share: the application, their common flags, the data, and how errors end."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar import show
from cifar.errors import InputError, WorldError

if TYPE_CHECKING:
    from cifar.data.cifar10 import Dataset

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended
app = typer.Typer(
    help="Train, test, understand and use an image classifier on CIFAR-10.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option("-d", "--device", help="cpu, mps or cuda; default the best present.")]
Data = Annotated[
    str,
    typer.Option("--data", help="A folder or archive of CIFAR-10, or `sample`; default the cache, else a download."),
]


def open_data(data: str, *, source: str = "") -> "Dataset":
    """The data set, fetched with a progress bar if it is not in the cache."""
    from cifar.data.cifar10 import open_dataset
    from cifar.jobs import sample_note

    with show.byte_progress() as progress:
        dataset = open_dataset(data, source=source, say=show.say, progress=progress)
    if dataset.is_sample:
        show.say(sample_note(dataset))
    return dataset


def data_of(folder: Path) -> str:
    """What --data has to be to read the data of a run again: the sample, or the cached whole."""
    from cifar.runs import data_of_run

    return "sample" if data_of_run(folder)["data"].startswith("SAMPLE") else ""


def run_app(app: typer.Typer, arguments: Sequence[str], *, program: str) -> int:
    """Run a command; every error that a person can cause becomes one sentence on standard error and an exit code."""
    try:
        return app(list(arguments), prog_name=program, obj=list(arguments), standalone_mode=False) or 0
    except (typer.TyperException, InputError) as error:
        sentence = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if sentence:  # empty where the help was printed instead
            show.say(f"{program}: {sentence}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        show.say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing more can be told
        return 1
    except WorldError as error:
        show.say(f"{program}: {error}")
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        show.say(f"{program}: {where}{error.strerror or error}.")
        return 1
