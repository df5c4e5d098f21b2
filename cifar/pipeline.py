"""A run from data to pictures: train → predict → metrics → write → draw; one run, or all folds of a cross-validation.

The only code that knows all rooms. The test split is opened here alone, and every time is counted in summary.json.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, cut, load, validation_split
from cifar.data.split import NUM_TRAIN, Split
from cifar.errors import InputError, WorldError
from cifar.evaluation.evaluate import evaluate, temperature_scaling
from cifar.evaluation.predict import VIEWS, chosen_views, predict
from cifar.files import json_text
from cifar.models import is_of_timm, is_pretrained
from cifar.recipes import Recipe, to_mapping
from cifar.runs import (
    CHANGEABLE,
    CHECKPOINT,
    CORRUPTIONS,
    CROSSVAL,
    EVALUATION,
    PICTURES,
    PREDICTIONS,
    REFERENCES,
    SUMMARY,
    WEIGHTS,
    Content,
    change_recipe,
    check_same,
    checksum,
    count_test_evaluation,
    evaluation_name,
    first_files,
    is_run,
    load_network,
    new_run,
    open_run,
    read_json,
    read_metrics,
    read_predictions,
    run_recipe,
    run_state,
    update_summary,
    wandb_id,
    write_evaluation,
    write_file,
    write_files,
)
from cifar.training.crossval import fold_folder, fold_recipe, summarise_folds
from cifar.training.display import Display
from cifar.training.estimate import estimate_seconds, estimate_sentence
from cifar.training.features import frozen_activations
from cifar.training.loggers import open_loggers
from cifar.training.loop import CHECKPOINT_SECONDS, train
from cifar.training.resume import checkpoint_model
from cifar.training.summary import describe_run, describe_training

Create = Callable[[Mapping[str, Content]], None]


@dataclass(frozen=True)
class Job:
    """What `cifar train` was asked for.

    Attributes:
        recipe: decides the result.
        folder: the run's, or the cross-validation's, which holds one per fold.
        device: cpu, mps or cuda.
        compile: fuse the network's operations with torch.compile.
        cross_validate: train all folds of the recipe.
        wandb, tensorboard: log there too.
        resume: continue what the folder holds.
        overwrite: replace what the folder holds, once nothing can be refused any more.
        checkpoint_seconds: between two checkpoints within an epoch; 0 is none.
        command: what was typed, for the record.
        trust_code: the user's function that the recipe names may be imported and run.
    """

    recipe: Recipe
    folder: Path
    device: str = "cpu"
    compile: bool = False
    cross_validate: bool = False
    wandb: bool = False
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    command: str = ""
    trust_code: bool = False


class Stopped(Exception):  # noqa: N818  (no error: a person asked for it)
    """A training was stopped after a step, with everything saved in this run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def run_one(job: Job, dataset: Dataset, *, display: Display, fold: int | None = None) -> dict[str, Any]:
    """Train one run to its end and evaluate its best weights on the test set once.

    What is done already is not done again: a tested run is left alone, a trained one is only evaluated.

    Args:
        job: of one run.
        dataset: that it is trained on.
        display: sees progress and the result.
        fold: its number in a cross-validation, from 0.

    Returns:
        what summary.json holds.

    Raises:
        Stopped: the display asked for it.
        InputError: the run to resume was trained on other data.
        WorldError: as `train` and `evaluate_run`.
    """
    with held(job) as create:
        state = run_state(resumed_summary(job)) if job.resume else "unfinished"
        if state == "unfinished":
            train_held(job, dataset, display=display, create=create)
        if state != "tested":
            evaluate_held(
                job.folder, dataset, split="test", purpose="result of the run", device=job.device, display=display,
                trust_code=job.trust_code, announce=lambda summary: display.result(summary, job.folder, fold=fold),
            )  # fmt: skip
        drawn = draw_missing(job, dataset)
        if state == "tested" and not drawn:
            display.say(f"{job.folder} is finished already; `--resume {job.folder} -e EPOCHS` trains it for longer.")
        return read_json(job.folder / SUMMARY)


@contextmanager
def held(job: Job) -> Iterator[Create]:
    """Hold the folder of a job; yields the function that creates its run, which a resumed one does not need."""
    if job.resume:
        with open_run(job.folder):
            yield lambda _contents: None
    else:
        with new_run(job.folder, overwrite=job.overwrite) as create:
            yield create


def resumed_summary(job: Job) -> dict[str, Any]:
    """The summary of a run to resume; a recipe that the job changes on purpose is written into it.

    Raises:
        InputError: the job's recipe is another one, or has no more epochs than are trained already.
        WorldError: a file of the run is damaged.
    """
    folder, values = job.folder, to_mapping(job.recipe)
    summary = read_json(folder / SUMMARY)
    former = summary["recipe"]
    fixed = {name: value for name, value in former.items() if name not in CHANGEABLE}
    check_same(values, fixed, origin="The recipe", of=str(folder / SUMMARY))
    if all(values.get(name) == value for name, value in former.items()):
        return summary
    changes: dict[str, Any] = {}
    if run_state(summary) != "unfinished":
        if job.recipe.epochs <= summary["epochs"]:
            raise InputError(f"{folder} is trained for {summary['epochs']} epochs already: give more with -e.")
        changes |= {"state": "unfinished", "finished": False, "test_accuracy": None, "test_interval": None}
    return change_recipe(folder, job.recipe, **changes)


def draw_missing(job: Job, dataset: Dataset) -> bool:
    """Draw the pictures of a tested run that are not there: all of them, or after an interruption the rest.

    Args:
        job: of the run.
        dataset: that it was trained on.

    Returns:
        whether there were any.
    """
    folder = job.folder
    missing = {name for name in PICTURES if name != "corruptions.png" and not (folder / name).exists()}
    if not missing:
        return False
    from cifar.reporting.pictures import evaluation_pictures, training_pictures

    pictures: dict[str, bytes] = {}
    if "curves.png" in missing:
        title = f"{job.recipe.model}: {folder.name}"
        pictures |= training_pictures(read_metrics(folder), title=title, note=dataset.note)
    if missing - {"curves.png"}:
        probs = torch.from_numpy(read_predictions(folder)[0])
        evaluation, images = read_json(folder / EVALUATION), load(dataset, "test")
        pictures |= evaluation_pictures(evaluation, images, probs, people=None, note=dataset.note)
    for name in sorted(missing):
        write_file(folder / name, pictures[name])
    return True


def train_run(job: Job, dataset: Dataset, *, display: Display) -> None:
    """Train a recipe into its run folder; the test split is not opened.

    Args:
        job, dataset, display: as in `run_one`.

    Raises:
        Stopped, InputError, WorldError: as `run_one`.
    """
    with held(job) as create:
        train_held(job, dataset, display=display, create=create)


def train_held(job: Job, dataset: Dataset, *, display: Display, create: Create) -> None:
    """Train a recipe into its run folder, which this process holds.

    Args:
        job, dataset, display: as in `run_one`.
        create: creates the run, once nothing can be refused any more.

    Raises:
        Stopped, InputError, WorldError: as `run_one`.
    """
    recipe, folder = job.recipe, job.folder
    summary = read_json(folder / SUMMARY) if job.resume else {}
    if job.resume:
        check_data(folder, summary, dataset)
    elif is_pretrained(recipe) and is_of_timm(recipe):
        num_images = round((1_000 if dataset.is_sample else NUM_TRAIN) * recipe.holdout.training_fraction)
        display.say(estimate_sentence(*estimate_seconds(recipe, num_images=num_images, device=job.device)))
    images = load(dataset, "train")
    resume = job.resume and (folder / CHECKPOINT).exists()  # else it was killed before its first checkpoint
    if recipe.network.train_blocks >= 0:
        progress = progress_of(display, "frozen part")
        model = checkpoint_model(recipe, folder) if resume else None
        images = frozen_activations(recipe, images, dataset, device=job.device, progress=progress, model=model)
    training, validation = cut(images, recipe.holdout)
    if job.resume:
        update_summary(folder, sittings=summary.get("sittings", 1) + 1)
    else:
        facts = describe_run(recipe, dataset, device=job.device, compile=job.compile, command=job.command)
        counts = {"num_train": len(training), "num_validation": len(validation)}
        create(first_files(recipe, facts | counts))
    run_id = wandb_id(folder) if job.wandb else ""
    with ExitStack() as stack:
        stack.callback(display.end_training)
        loggers = open_loggers(folder, recipe=recipe, wandb_id=run_id, tensorboard=job.tensorboard, say=display.say)
        for logger in loggers:
            stack.callback(logger.close)
        state = train(
            recipe, training, validation, folder=folder, device=job.device, compile=job.compile, display=display,
            loggers=loggers, resume=resume, data_sha256=dataset.sha256, checkpoint_seconds=job.checkpoint_seconds,
        )  # fmt: skip
    if not state.finished:
        update_summary(folder, changes=state.changes, skipped_steps=state.skipped_steps)
        raise Stopped(folder)
    update_summary(folder, **describe_training(recipe, state, num_images=len(training)))


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
        model, part, validation, split=split, views=views, below=below, device=device, display=display
    )
    evaluation = identity | figures
    write_evaluation(folder, evaluation, probs.numpy(), part.labels.numpy(), recipe_views=recipe.tta.views)
    if split == "test" and views == recipe.tta.views and run_state(summary) != "unfinished":
        summary = update_summary(
            folder, state="tested", test_accuracy=evaluation["accuracy"], test_interval=evaluation["interval"]
        )
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
) -> tuple[Tensor, dict[str, Any]]:
    """Predict images, and all figures of the predictions; nothing is written.

    Args:
        model: the network.
        part: N images with labels, of the split of this name.
        validation: images to fit a temperature on; None for none.
        views, below: as in `predict`.
        device: cpu, mps or cuda.
        display: sees progress.

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


def run_folds(job: Job, dataset: Dataset, *, display: Display) -> dict[str, Any]:
    """Train and test every fold that is not tested yet, and write crossval.json.

    Args:
        job: of a cross-validation.
        dataset: that it is trained on.
        display: sees progress and each fold's result.

    Returns:
        what crossval.json holds.

    Raises:
        Stopped: names the cross-validation's folder, from which it resumes.
        InputError: it began with other data.
        WorldError: as `run_one`.
    """
    result: dict[str, Any] = {"finished": False, "data": dataset.name, "data_sha256": dataset.sha256}
    result["recipe"] = to_mapping(job.recipe)
    with held(job) as create:
        if job.resume:
            check_data(job.folder, read_json(job.folder / CROSSVAL), dataset)
        else:
            create(first_files(job.recipe, result, marker=CROSSVAL))
        summaries, fold_probs, labels = [], [], torch.empty(0)
        for fold in range(job.recipe.holdout.num_folds):
            recipe, folder = fold_recipe(job.recipe, fold), fold_folder(job.folder, fold)
            display.start_fold(fold, job.recipe.holdout.num_folds)
            fold_job = dataclasses.replace(job, recipe=recipe, folder=folder, resume=job.resume and is_run(folder))
            try:
                summaries.append(run_one(fold_job, dataset, display=display, fold=fold))
            except Stopped:
                raise Stopped(job.folder) from None
            probs, labels = predictions_on_test(fold_job, dataset, display=display)
            fold_probs.append(probs)
        # An ensemble of the folds: its accuracy is not the mean of theirs.
        ensemble = evaluate(torch.stack(fold_probs).mean(dim=0), labels, split="test")
        result |= {"finished": True} | summarise_folds(summaries)
        result["test_of_averaged_probabilities"] = {key: ensemble[key] for key in ("accuracy", "interval", "loss")}
        result["seconds"] = sum(summary["seconds"] for summary in summaries)
        write_files(job.folder, {CROSSVAL: json_text(result)})
        return result


def predictions_on_test(job: Job, dataset: Dataset, *, display: Display) -> tuple[Tensor, Tensor]:
    """Probabilities [N, 10] of a tested run on the test split with its own TTA, and labels [N].

    They are in the run folder, unless somebody removed them: then it is evaluated again, and counted.

    Args:
        job, dataset: of the run.
        display: sees progress.
    """
    if not all((job.folder / name).exists() for name in (EVALUATION, PREDICTIONS)):
        evaluate_run(
            job.folder, dataset, split="test", purpose="ensemble of the folds", device=job.device, display=display,
            trust_code=job.trust_code,
        )  # fmt: skip
    probs, labels, _ = read_predictions(job.folder)
    return torch.from_numpy(probs), torch.from_numpy(labels)


def check_data(folder: Path, record: dict[str, Any], dataset: Dataset) -> None:
    """Refuse other data than a run or cross-validation began with.

    Args:
        folder: for the error.
        record: its summary.json or crossval.json.
        dataset: that it is to go on with.

    Raises:
        InputError: says which data it was.
    """
    if record["data_sha256"] != dataset.sha256:
        raise InputError(f"{folder} was trained on {record['data']}, not on {dataset.name}: give the same --data.")


def progress_of(display: Display, label: str) -> Callable[[int, int], None]:
    """The display's progress of images under a label."""
    return lambda done, total: display.images(label, done, total)
