"""`cifar card` and `cifar push`: a run described for strangers, and given to them."""

from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import app
from cifar.errors import InputError


@app.command()
def card(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The Markdown file to write; default RUN/card.md.")
    ] = None,
) -> None:
    """A model card in Markdown, with the header that Hugging Face reads: data, recipe, result, use, limits, licence."""
    from cifar.files import write_text
    from cifar.reporting.card import model_card
    from cifar.runs import CARD

    path = output or run / CARD
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the Markdown file, such as --output {path / CARD}.")
    write_text(path, model_card(run, pictures=path.resolve().parent == run.resolve()))
    show.result_text(f"{path}")
