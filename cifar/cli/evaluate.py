"""`cifar evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import Data, Device, app, data_of, open_data
from cifar.errors import InputError
from cifar.machine import choose_device


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")] = False,
    device: Device = "",
    data: Data = "",
) -> None:
    """Accuracy with interval, loss, figures a class; writes evaluation.json, predictions.npz and confusion.png."""
    from cifar.jobs import Watch, evaluate_and_draw
    from cifar.runs import CROSSVAL, run_recipe

    if split not in ("test", "validation"):
        raise InputError(f"There is no split {split!r}: choose test or validation.")
    if (run / CROSSVAL).exists():
        raise InputError(f"{run} holds a cross-validation: evaluate one of its folds, such as {run / 'fold-0'}.")
    run_recipe(run)
    device = choose_device(device)
    dataset = open_data(data or data_of(run))
    watch = Watch(show.say, lambda: False, show.training_display, show.image_progress, show.fold_result)
    evaluation = evaluate_and_draw(run, dataset, split=split, purpose="cifar evaluate", device=device, watch=watch)
    if as_json:
        print(json.dumps(evaluation, indent=2))
    else:
        show.evaluation(evaluation, run)
