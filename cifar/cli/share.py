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


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    token: Annotated[
        str,
        typer.Option("--token", help="Of the hub; better in HF_TOKEN or by `hf auth login`: no history keeps those."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; send and ask nothing.")] = False,
) -> None:
    """Give a run to the Hugging Face hub: weights, recipe, results, pictures and its card, in one commit.

    The files go as they are: summary.json tells the machine and the command.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from cifar.serving.push import files_to_push, push_files, size_of

    files = files_to_push(run, repository)
    total = sum(map(size_of, files.values()))
    amount = f"{len(files)} files, {total / 1e6:.1f} MB"
    if dry_run:
        for name, content in files.items():
            show.result_text(f"{name:<20}{size_of(content):>14,} bytes")
        kind = "the private repository" if private else "the repository"
        show.result_text(f"would go to {kind} {repository}: {amount}; nothing was sent")
        return
    if not show.is_live():
        disable_progress_bars()
    message = f"The run {run.resolve().name} of cifar"
    url = push_files(files, repository, private=private, token=token, message=message, say=show.say)
    show.result_text(f"{url}: {amount}")
