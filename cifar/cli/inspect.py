"""`cifar data` and `cifar bench`: the data set, and how fast this machine is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import Data, app, open_data


@app.command("data", rich_help_panel="Measure")
def show_data(
    data: Data = "",
    source: Annotated[
        str, typer.Option("--source", help="cache, path, npm or official; default the first that works, in this order.")
    ] = "",
    sheet: Annotated[
        Path | None,
        typer.Option("-o", "--output", "--sheet", help="File of the contact sheet; default beside the cached data."),
    ] = None,
) -> None:
    """Fetch and verify CIFAR-10; show its source, checksum, counts and pixel statistics; draw a contact sheet."""
    from cifar.data.cifar10 import cache_folder, load
    from cifar.reporting.figures import contact_figure, png
    from cifar.runs import write_file

    dataset = open_data(data, source=source)
    splits = {name: load(dataset, name) for name in ("train", "test")}
    display.data(dataset, splits)
    path = sheet or cache_folder() / ("contact-sheet-sample.png" if dataset.is_sample else "contact-sheet.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    train, note = splits["train"], dataset.note
    write_file(path, png(contact_figure(train.images, train.labels, title=dataset.name, note=note)))
    display.result_text(f"contact sheet: {path}")


@app.command(rich_help_panel="Measure")
def bench(
    only: Annotated[
        str, typer.Option("--only", help="training, data, loading, inference or memory, instead of all.")
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Measured rounds.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, only to see that it runs: the figures mean nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all measurements as JSON.")] = False,
    data: Data = "",
) -> None:
    """Measure training, data path, loading, inference and memory here, against textbook PyTorch (on the CPU)."""
    from cifar.bench.suite import QUICK, Scale, as_record, run_suite

    dataset = open_data(data)
    scale = QUICK if quick else Scale(repeats=repeats)
    lines = run_suite(dataset, scale=scale, only=only, say=display.say)
    if as_json:
        print(json.dumps(as_record(lines), indent=2))
    else:
        display.bench(lines)
