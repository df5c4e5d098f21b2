"""`cifar report`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import app


@app.command(rich_help_panel="Understand")
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Folders of tested runs, of cross-validations or of studies.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default RUN/report.html; for several runs report.html in this folder."),
    ] = None,
) -> None:
    """Write one HTML file of all that is known of runs: curves, figures, machine, commands; a leaderboard of several.

    Of several runs with predictions it also says which differ, as `cifar compare` does.
    """
    from cifar.pipeline.report import write_report

    path = write_report(runs, output, command=shlex.join(["cifar", *context.obj]))
    display.result_text(f"{path}: {path.stat().st_size / 1e6:.1f} MB, one file; open it in a browser")
