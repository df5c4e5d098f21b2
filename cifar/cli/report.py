"""`cifar report`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar.cli import display
from cifar.cli.app import app
from cifar.errors import InputError, WorldError

if TYPE_CHECKING:
    from cifar.reporting.records import Record


@app.command()
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Folders of tested runs or of cross-validations.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default RUN/report.html; for several runs report.html in this folder."),
    ] = None,
) -> None:
    """Write one HTML file of all that is known of runs: curves, figures, machine, commands; a leaderboard of several.

    Of several runs with predictions it also says which differ, as `cifar compare` does.
    """
    from cifar.reporting.records import read_records
    from cifar.reporting.report import render
    from cifar.runs import CORRUPTIONS, REFERENCES, REPORT, write_file

    path = output or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file, such as --output {path / 'report.html'}.")
    records = read_records(runs, extras=(REFERENCES, CORRUPTIONS))
    records.sort(key=lambda record: -record.summary["test_accuracy"])
    comparison = compare_records(records) if len(records) > 1 else None
    write_file(path, render(records, command=shlex.join(["cifar", *context.obj]), comparison=comparison))
    display.result_text(f"{path}: {path.stat().st_size / 1e6:.1f} MB, one file; open it in a browser")


def compare_records(records: "Sequence[Record]") -> dict[str, Any]:
    """Return what `compare_runs` says of the runs, or under "reason" why they cannot be compared."""
    from cifar.evaluation.comparison import compare_runs
    from cifar.reporting.records import read_evaluated_runs

    try:
        return compare_runs(read_evaluated_runs([record.folder for record in records]))
    except (InputError, WorldError) as error:
        return {"reason": str(error)}
