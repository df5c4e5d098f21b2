"""One run from data to a finished folder: the training split cut, trained on, and summed up in summary.json."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cifar.data.cifar10 import Dataset, Split, cut, load
from cifar.errors import InputError
from cifar.files import write_json
from cifar.machine import choose_precision, describe_commit, describe_machine, describe_versions
from cifar.models.onnx_weights import PACKAGED, packaged_weights
from cifar.recipes import Recipe
from cifar.runs import SUMMARY, read_json, write_recipe
from cifar.training.features import frozen_activations
from cifar.training.loggers import Logger
from cifar.training.loop import Tick, train
from cifar.training.state import State


def training_images(
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Split:
    """The training images, or what the frozen part of the recipe's network gives for them; all 50,000, uncut.

    Args:
        progress: gets images done and images in all while a frozen part is computed.
    """
    images = load(dataset, "train")
    if recipe.train_blocks < 0:
        return images
    return frozen_activations(recipe, images, dataset, device=device, progress=progress)


def run_training(
    recipe: Recipe,
    dataset: Dataset,
    images: Split,
    *,
    folder: Path,
    device: str,
    command: str = "",
    loggers: Sequence[Logger] = (),
    tick: Callable[[Tick], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    resume: bool = False,
) -> bool:
    """Train a recipe into a run folder.

    Args:
        images: the training images of the data set, uncut (`training_images`); the test images never come here.
        folder: an empty folder, or with `resume` that of a stopped run.
        command: what was typed, for the record.
        device, loggers, tick, should_stop, say: as in `train`.

    Returns:
        whether the training is finished; false if it was stopped.

    Raises:
        InputError: the run to resume was trained on other data.
        WorldError: as in `train`.
    """
    training, validation = cut(
        images,
        validation_fraction=recipe.validation_fraction,
        num_folds=recipe.num_folds,
        fold=recipe.fold,
        seed=recipe.split_seed,
    )
    if resume:
        check_data(folder, dataset)
        summary = read_json(folder / SUMMARY)
        write_json(folder / SUMMARY, summary | {"sittings": summary.get("sittings", 1) + 1})
    else:
        write_recipe(folder, recipe)
        facts = describe_run(recipe, dataset, device=device, command=command)
        facts |= {"num_train": len(training), "num_validation": len(validation)}
        write_json(folder / SUMMARY, facts)
    # A checkpoint may not exist yet: a run that was stopped within its first epoch by force begins anew.
    continues = resume and (folder / "last.ckpt").exists()
    state = train(
        recipe, training, validation, folder=folder, device=device, loggers=loggers,
        tick=tick, should_stop=should_stop, say=say, resume=continues,
    )  # fmt: skip
    if state.finished:
        summary = read_json(folder / SUMMARY)
        write_json(folder / SUMMARY, summary | describe_result(recipe, state, num_images=len(training)))
    return state.finished


def check_data(folder: Path, dataset: Dataset) -> None:
    """Refuse to go on with other data than the run began with.

    Raises:
        InputError: says which data it was.
    """
    summary = read_json(folder / SUMMARY)
    if summary["data_sha256"] != dataset.sha256:
        raise InputError(
            f"{folder} was trained on {summary['data']}, not on {dataset.name}: resume it with the same --data."
        )


def describe_run(recipe: Recipe, dataset: Dataset, *, device: str, command: str) -> dict[str, Any]:
    """What is known of a run before its first step; the results are still null."""
    precision, _ = choose_precision(recipe.precision, device=device)
    return {
        "finished": False,
        "model": recipe.model,
        "recipe": dataclasses.asdict(recipe),
        "seed": recipe.seed,
        "epochs": 0,
        "best_epoch": None,
        "seconds": None,
        "sittings": 1,
        "images_per_second": None,
        "parameters": None,
        "validation_accuracy": None,
        "test_accuracy": None,
        "test_interval": None,
        "test_readings": [],
        "weights_sha256": weights_sha256(recipe.weights),
        "data": dataset.name,
        "data_source": dataset.source,
        "data_sha256": dataset.sha256,
        "command": command,
        "device": device,
        "precision": precision,
        "commit": describe_commit(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def weights_sha256(weights: str) -> str | None:
    """SHA-256 of the file that pretrained weights came from; None where the hub or nothing gave them."""
    if not weights:
        return None
    path = packaged_weights() if weights == PACKAGED else Path(weights)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_result(recipe: Recipe, state: State, *, num_images: int) -> dict[str, Any]:
    """What a finished training adds to its summary; accuracies as fractions."""
    has_validation = not math.isnan(state.best_accuracy)
    return {
        "finished": True,
        "epochs": state.epoch,
        "stopped_early": state.epoch < recipe.epochs,
        "best_epoch": state.best_epoch,
        "seconds": round(state.seconds, 2),
        "images_per_second": round(num_images * state.epoch / state.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "validation_accuracy": state.best_accuracy if has_validation else None,
    }
