"""`cifar data` and `cifar bench`: what the figures stand on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import Data, app, open_data


@app.command("data")
def show_data(
    data: Data = "",
    source: Annotated[
        str, typer.Option("--source", help="cache, path, npm or official, instead of trying in this order.")
    ] = "",
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Where the contact sheet goes; default beside the cached data.")
    ] = None,
) -> None:
    """Fetch and verify CIFAR-10; show its source, checksum, counts and pixel statistics; draw a contact sheet."""
    from cifar.data.cifar10 import cache_folder, load
    from cifar.jobs import sample_note
    from cifar.reporting.figures import draw_contact_sheet

    dataset = open_data(data, source=source)
    splits = {part: load(dataset, part) for part in ("train", "test")}
    show.data(dataset, splits)
    path = sheet or cache_folder() / ("contact-sheet-sample.png" if dataset.is_sample else "contact-sheet.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(
        splits["train"].images, splits["train"].labels, path, title=dataset.name, note=sample_note(dataset)
    )
    show.result_text(f"contact sheet: {path}")


@app.command()
def bench(
    only: Annotated[
        str, typer.Option("--only", help="training, data, loading, inference or memory, instead of all.")
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds that count.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: to see that it runs; the figures mean nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all measurements as JSON.")] = False,
    data: Data = "",
) -> None:
    """Measure training, data path, loading, inference and memory here, against textbook PyTorch (on the CPU)."""
    from cifar.bench.suite import QUICK, Scale, as_record, run_suite

    dataset = open_data(data)
    scale = QUICK if quick else Scale(repeats=repeats)
    lines = run_suite(dataset, scale=scale, only=only, say=show.say)
    if as_json:
        print(json.dumps(as_record(lines), indent=2))
    else:
        show.bench(lines)
