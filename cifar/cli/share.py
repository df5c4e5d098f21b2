"""`cifar card` and `cifar push`: a run's model card, and its publication on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import app
from cifar.errors import InputError


@app.command(rich_help_panel="Share")
def card(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The Markdown file to write; default RUN/card.md.")
    ] = None,
) -> None:
    """Write a model card in Markdown, with Hugging Face's header: data, recipe, result, use, limits, licence."""
    from cifar.reporting.card import model_card
    from cifar.runs import CARD, write_file

    path = output or run / CARD
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the Markdown file, such as --output {path / CARD}.")
    write_file(path, model_card(run, pictures=path.resolve().parent == run.resolve()))
    display.result_text(f"{path}")


@app.command(rich_help_panel="Share")
def push(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the hub; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Push its demo as a Space, with this package, in place of a model.")
    ] = False,
    token: Annotated[
        str,
        typer.Option("--token", help="Of the hub; HF_TOKEN or `hf auth login` keep it out of the shell's history."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, without contacting the hub.")
    ] = False,
) -> None:
    """Push a run to the Hugging Face hub: weights, recipe, results, pictures and its card, in one commit.

    The files are sent unchanged: summary.json names the machine and the command.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from cifar.serving.push import files_of_space, files_to_push, push_files, size_of

    files = (files_of_space if space else files_to_push)(run, repository)
    total = sum(map(size_of, files.values()))
    amount = f"{len(files)} files, {total / 1e6:.1f} MB"
    if dry_run:
        width = max(20, *(len(name) + 1 for name in files))
        for name, content in files.items():
            display.result_text(f"{name:<{width}}{size_of(content):>14,} bytes")
        kind = f"the {'private ' if private else ''}{'Space' if space else 'repository'}"
        display.result_text(f"would be pushed to {kind} {repository}: {amount}; nothing was sent")
        return
    if not display.is_live():
        disable_progress_bars()
    message = f"The run {run.resolve().name} of cifar"
    url = push_files(files, repository, private=private, token=token, message=message, space=space, say=display.say)
    display.result_text(f"{url}: {amount}")
