"""Evaluations of a run: the test split is opened here alone, and every time is counted in summary.json."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, load, validation_split
from cifar.data.split import Split
from cifar.errors import InputError, WorldError
from cifar.evaluation.evaluate import evaluate, temperature_scaling
from cifar.evaluation.predict import VIEWS, chosen_views, predict
from cifar.files import json_text
from cifar.pipeline.job import check_data, progress_of
from cifar.runs import (
    CORRUPTIONS,
    REFERENCES,
    SUMMARY,
    WEIGHTS,
    checksum,
    count_test_evaluation,
    evaluation_name,
    load_network,
    open_run,
    read_json,
    run_recipe,
    run_state,
    update_summary,
    write_evaluation,
    write_file,
    write_files,
)
from cifar.training.display import Display

Predict = Callable[..., Tensor]  # as of `predict`


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    *,
    split: str,
    purpose: str,
    device: str,
    display: Display,
    views: str = "",
    trust_code: bool = False,
    references: bool = False,
    corruptions: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's best weights on a split once, as `evaluate_held` does, which this process holds meanwhile.

    Args, Returns, Raises: as of `evaluate_held`.
    """
    run_recipe(folder)  # refuses what is no run
    with open_run(folder):
        return evaluate_held(
            folder, dataset, split=split, purpose=purpose, device=device, display=display, views=views,
            references=references, corruptions=corruptions, trust_code=trust_code,
        )  # fmt: skip


def evaluate_held(
    folder: Path,
    dataset: Dataset,
    *,
    split: str,
    purpose: str,
    device: str,
    display: Display,
    views: str = "",
    trust_code: bool = False,
    references: bool = False,
    corruptions: bool = False,
    announce: Callable[[dict[str, Any]], None] = lambda _summary: None,
    predict: Predict = predict,
) -> dict[str, Any]:
    """Evaluate a run's best weights on a split once; write the figures, then draw them.

    On the test split the run's own validation images, if it has any, are predicted as well, and a temperature is fitted
    to them. On the validation split there is none, since it would be judged by what it was fitted to.

    Args:
        folder: of a run that has completed at least one epoch.
        dataset: the data that the run was trained on.
        split: "test", or "validation": the part of the training images that this run held out.
        purpose: why the test split is opened; recorded in summary.json with the time.
        device: cpu, mps or cuda.
        display: sees progress.
        views: TTA instead of the recipe's; "" is the recipe's. Only a test evaluation of a finished training with the
            recipe's TTA is the result in summary.json.
        trust_code: import and run the user's function, if the recipe names one.
        references: compare with human labels and the known faults of the test set as well, into references.json.
        corruptions: evaluate on corrupted test images as well, into corruptions.json.
        announce: gets the summary when the figures are written, before anything is drawn.
        predict: computes the probabilities.

    Returns:
        what evaluation.json holds, and under "references" and "corruptions" what theirs do, where asked for.

    Raises:
        InputError: no run folder, other data, no such split or TTA, or no validation images, references or corruptions.
        WorldError: the weights or references cannot be read, or the disk cannot keep the corrupted images.
    """
    recipe, summary = run_recipe(folder), read_json(folder / SUMMARY)
    check_data(folder, summary, dataset)
    if split not in ("test", "validation"):
        raise InputError(f"There is no split {split!r}: choose test or validation.")
    views, below = chosen_views(recipe, views)
    if views not in VIEWS:
        raise InputError(f"There is no TTA {views!r}: choose from {', '.join(VIEWS)}.")
    # Whatever can be refused is refused before the test split is opened.
    known = None
    if references:
        from cifar.audit.people import compare_with_references, open_references

        known = open_references(dataset, split=split, say=display.say)
    if corruptions:
        from cifar.robustness.corruptions import check_corruptions

        check_corruptions(dataset, split=split)
    model, validation = load_network(folder, trust_code=trust_code), validation_split(dataset, holdout=recipe.holdout)
    if split == "test":
        count_test_evaluation(folder, purpose=purpose)
        part = load(dataset, "test")
    elif validation:
        part, validation = validation, None
    else:
        raise InputError(f"{folder} held no validation images out: evaluate it with --split test.")

    which = {"split": split, "views": views, "recipe_views": recipe.tta.views}
    identity: dict[str, Any] = {"run": folder.name, "views": views, "data": dataset.name, "data_sha256": dataset.sha256}
    identity["model_sha256"] = checksum(folder / WEIGHTS)
    probs, figures = measure(
        model, part, validation, split=split, views=views, below=below, device=device, display=display, predict=predict
    )
    evaluation = identity | figures
    write_evaluation(folder, evaluation, probs.numpy(), part.labels.numpy(), recipe_views=recipe.tta.views)
    if split == "test" and views == recipe.tta.views and run_state(summary) != "unfinished":
        scaling = evaluation["temperature_scaling"] if views != "none" else None
        summary = update_summary(
            folder, state="tested", test_accuracy=evaluation["accuracy"], test_interval=evaluation["interval"],
            validation_accuracy_tta=scaling and scaling["fitted_accuracy"],
        )  # fmt: skip
    announce(summary)
    from cifar.reporting.pictures import evaluation_pictures

    people = known.people if known else None
    for name, picture in evaluation_pictures(evaluation, part, probs, people=people, note=dataset.note).items():
        write_file(folder / evaluation_name(name, **which), picture)

    results: dict[str, Any] = dict(evaluation)
    if known:
        results["references"] = identity | compare_with_references(probs, part.labels, known)
        write_files(folder, {evaluation_name(REFERENCES, **which): json_text(results["references"])})
    if corruptions:
        from cifar.robustness.draw import corruption_pictures
        from cifar.robustness.evaluate import evaluate_corruptions

        accuracies = evaluate_corruptions(
            model, part, data_sha256=dataset.sha256, views=views, below=below,
            progress=progress_of(display, "corrupted"),
        )  # fmt: skip
        results["corruptions"] = identity | {"clean_accuracy": evaluation["accuracy"]} | accuracies
        write_files(folder, {evaluation_name(CORRUPTIONS, **which): json_text(results["corruptions"])})
        for name, picture in corruption_pictures(results["corruptions"], note=dataset.note).items():
            write_file(folder / evaluation_name(name, **which), picture)
    return results


def measure(
    model: nn.Module,
    part: Split,
    validation: Split | None,
    *,
    split: str,
    views: str,
    below: float,
    device: str,
    display: Display,
    predict: Predict = predict,
) -> tuple[Tensor, dict[str, Any]]:
    """Predict images, and all figures of the predictions; nothing is written.

    Args:
        model: the network.
        part: N images with labels, of the split of this name.
        validation: images to fit a temperature on; None for none.
        views, below: as in `predict`.
        device: cpu, mps or cuda.
        display: sees progress.
        predict: computes the probabilities.

    Returns:
        probabilities float32 [N, 10], and the figures, JSON-ready.

    Raises:
        WorldError: the network gives NaN.
    """
    total = len(part) + (len(validation) if validation else 0)

    def probabilities(images: Tensor, *, first: int) -> Tensor:
        progress = lambda done, _: display.images(split, first + done, total)  # noqa: E731
        return predict(model, images, device=device, views=views, below=below, progress=progress)

    started = time.perf_counter()
    probs = probabilities(part.images, first=0)
    if not probs.isfinite().all():
        raise WorldError("The network gives NaN: its weights are damaged, or its training diverged. Train it again.")
    seconds = round(time.perf_counter() - started, 3)
    scaling = None
    if validation:
        validation_probs = probabilities(validation.images, first=len(part))
        scaling = temperature_scaling(validation_probs, validation.labels, probs, part.labels)
    cost = {"passes_an_image": len(VIEWS[views]), "views_below": below, "prediction_seconds": seconds}
    return probs, cost | evaluate(probs, part.labels, split=split) | {"temperature_scaling": scaling}
