"""`cifar report`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import app
from cifar.errors import InputError


@app.command()
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs or of cross-validations.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default RUN/report.html, of several runs report.html here.")
    ] = None,
) -> None:
    """One HTML file of all that is known of runs: curves, figures, machine, commands; of several, a leaderboard."""
    from cifar.reporting.records import read_records
    from cifar.reporting.report import write_report
    from cifar.runs import CORRUPTIONS, REFERENCES, REPORT

    path = output or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file, such as --output {path / 'report.html'}.")
    records = read_records(runs, extras=(REFERENCES, CORRUPTIONS))
    write_report(records, path, command=shlex.join(["cifar", *context.obj]))
    show.result_text(f"{path}: {path.stat().st_size / 1e6:.1f} MB, one file; open it in a browser")
