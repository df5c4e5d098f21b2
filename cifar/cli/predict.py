"""`cifar predict`: the classes of image files."""

import csv
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar.cli import display
from cifar.cli.app import Device, TrustCode, app
from cifar.errors import InputError

if TYPE_CHECKING:
    from cifar.serving.classifier import Predictions

MAX_LIST = 64 * 2**20  # bytes on standard input: half a million paths


@app.command(rich_help_panel="Use")
def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, an exported one, a recorded run such as resnet, or owner/name on the hub."
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            help="Image files; folders, with their subfolders; patterns; - reads names from standard input."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, an object on a line for each file.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values with a header line.")] = False,
    top: Annotated[int, typer.Option("--top", min=1, max=10, help="Number of classes to print for each file.")] = 2,
    tta: Annotated[
        str,
        typer.Option("--tta", help="Test-time augmentation: none, mirror or shift; default as in the run's recipe."),
    ] = "",
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="The network's own probabilities, not at the fitted temperature.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")] = 100,
    device: Device = "",
    trust_code: TrustCode = False,
) -> None:
    """Print class, probability and runner-up for image files of any size: the central square, resized to 32×32.

    A file that cannot be read is reported on standard error; the others are predicted, and the exit code is 1.
    """
    from cifar.evaluation.predict import VIEWS
    from cifar.serving.classifier import load_model
    from cifar.serving.files import predict_files

    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other: give one of them.")
    if tta and tta not in VIEWS:
        raise InputError(f"There is no test-time augmentation {tta!r}: choose from {', '.join(VIEWS)}.")
    failures: list[str] = []

    def unreadable(sentence: str) -> None:
        failures.append(sentence)
        display.say(sentence)

    classifier = load_model(run, device=device, trust_code=trust_code)
    if classifier.note:
        display.say(classifier.note)
    names = file_names(files, unreadable=unreadable)
    with display.image_progress("images") as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # about defects of files that it can read
        read, predictions = predict_files(
            classifier, names, views=tta, calibrated=not uncalibrated, batch_size=batch_size, unreadable=unreadable,
            progress=progress,
        )  # fmt: skip
    if predictions.temperature != 1:
        display.say(
            f"Probabilities are calibrated: at temperature {predictions.temperature:.3f}, fitted on validation images; "
            "--uncalibrated gives the network's own."
        )
    write = write_json if as_json else write_csv if as_csv else write_table
    write(read, predictions, top)
    if failures:
        raise typer.Exit(1)


def file_names(arguments: Sequence[str], *, unreadable: Callable[[str], None]) -> list[str]:
    """The files that the arguments stand for.

    Args:
        arguments: files, folders, patterns, or - for a list of such names on standard input.
        unreadable: gets a sentence about each wrong name in the list.

    Raises:
        InputError: an argument yields no files, or the list is empty.
    """
    from cifar.serving.files import find_images

    names = []
    for argument in arguments:
        if argument != "-":
            names += find_images(argument, unreadable=unreadable)
            continue
        listed = listed_names()
        if not listed:
            raise InputError("The list on standard input is empty: give one path per line.")
        for name in listed:
            try:
                names += find_images(name, unreadable=unreadable)
            except InputError as error:
                unreadable(str(error))
            except OSError as error:
                unreadable(f"{name} cannot be read: {error.strerror}.")
    return names


def listed_names() -> list[str]:
    """The paths on standard input: one per line, or terminated by zero bytes, as `find -print0` writes them.

    Raises:
        InputError: it is closed, or endless.
    """
    if sys.stdin is None:
        raise InputError("Standard input is closed: give the files as arguments, or a list in a pipe.")
    data = sys.stdin.buffer.read(MAX_LIST + 1)
    if len(data) > MAX_LIST:
        raise InputError(f"The list on standard input has more than {MAX_LIST:,} bytes: give paths, not images.")
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]


def write_table(names: Sequence[str], predictions: "Predictions", top: int) -> None:
    """Print a table, one line per file, with the same columns in a terminal and in a pipe."""
    from rich.cells import cell_len

    if not names:
        return
    printable_names = [display.printable(name) for name in names]
    width = max(map(cell_len, ["file", *printable_names]))
    ranks = ["class", "runner-up", *(f"{number}th" if number > 3 else "3rd" for number in range(3, top + 1))]
    print("file".ljust(width) + "".join(f"  {rank:<10}  probability" for rank in ranks[:top]))
    for name, row in zip(printable_names, predictions.top(top), strict=True):
        cells = "".join(f"  {label:<10}  {prob:>11.2%}" for label, prob in row)
        print(name + " " * (width - cell_len(name)) + cells)


def write_csv(names: Sequence[str], predictions: "Predictions", top: int) -> None:
    """Print file, class, probability, then class_2, probability_2 and so on."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    suffixes = ["", *(f"_{number}" for number in range(2, top + 1))]
    writer.writerow(["file", *(f"{column}{suffix}" for suffix in suffixes for column in ("class", "probability"))])
    for name, row in zip(names, predictions.top(top), strict=True):
        writer.writerow([display.printable(name), *(cell for label, prob in row for cell in (label, f"{prob:.6f}"))])


def write_json(names: Sequence[str], predictions: "Predictions", top: int) -> None:
    """Print a list of {"file", "class", "probability", "top": [{"class", "probability"}, …]}, one object per line."""
    lines = []
    for name, row in zip(names, predictions.top(top), strict=True):
        ranked: list[dict[str, Any]] = [{"class": label, "probability": prob} for label, prob in row]
        lines.append(json.dumps({"file": name, **ranked[0], "top": ranked}, allow_nan=False))
    print("[" + ",".join(f"\n{line}" for line in lines) + "\n]")
