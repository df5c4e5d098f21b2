"""One run: trained, evaluated on the test set once, drawn; what is done already is not done again."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from cifar.data.cifar10 import Dataset, cut, load
from cifar.data.split import CLASSES, NUM_TRAIN, Split
from cifar.errors import InputError
from cifar.evaluation.predict import predict
from cifar.models import build_model, is_of_timm, is_pretrained
from cifar.pipeline.evaluation import evaluate_held
from cifar.pipeline.job import Create, Job, Stopped, check_data, held, progress_of
from cifar.pipeline.together import end_of_predictions, help_to_predict, predict_together
from cifar.recipes import to_mapping
from cifar.runs import (
    CHANGEABLE,
    CHECKPOINT,
    CURVES,
    EVALUATION,
    PICTURES,
    RESULT_PICTURES,
    SUMMARY,
    TRAIN_BATCH,
    VAL_BATCH,
    change_recipe,
    check_same,
    first_files,
    load_network,
    read_json,
    read_metrics,
    read_predictions,
    run_state,
    update_summary,
    wandb_id,
    write_file,
)
from cifar.timing import timed
from cifar.training.augment import augmented_examples
from cifar.training.display import Display
from cifar.training.distributed import from_first, is_first, processes, received
from cifar.training.estimate import estimate_seconds, estimate_sentence
from cifar.training.features import frozen_activations
from cifar.training.loggers import Logger, open_loggers
from cifar.training.loop import train
from cifar.training.resume import checkpoint_model
from cifar.training.state import State
from cifar.training.summary import describe_run, describe_training

BATCH_IMAGES = 24  # in the pictures of batches


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
    with held(job) as create, ExitStack() as closing:
        state = from_first(run_state(resumed_summary(job)) if job.resume else "unfinished")
        timing, loggers = dict(job.timing), []
        if state == "unfinished":
            loggers = train_held(job, dataset, display=display, create=create, timing=timing, closing=closing)
        elif state == "trained":
            loggers = loggers_of(job, display=display, closing=closing)
        begun = time.perf_counter()

        def announce(summary: dict[str, Any]) -> None:
            timing["evaluation"] = time.perf_counter() - begun
            display.result(summary, job.folder, fold=fold)

        if state != "tested":
            evaluate_held(
                job.folder, dataset, split="test", purpose="result of the run", device=job.device, display=display,
                trust_code=job.trust_code, announce=announce, predict=predict_together,
            )  # fmt: skip
            end_of_predictions()
        drawn = draw_missing(job, dataset)
        if state == "tested" and not drawn:
            display.say(f"{job.folder} is finished already; `--resume {job.folder} -e EPOCHS` trains it for longer.")
        if state != "tested":
            timing["pictures"] = time.perf_counter() - begun - timing["evaluation"]
            for logger in loggers:
                logger.result(*result_for_loggers(job.folder))
            update_summary(job.folder, timing={name: round(seconds, 3) for name, seconds in timing.items()})
        return read_json(job.folder / SUMMARY)


def result_for_loggers(folder: Path) -> tuple[dict[str, float], dict[str, Path]]:
    """The figures of a tested run's result, by name, and the files of its pictures."""
    summary, evaluation = read_json(folder / SUMMARY), read_json(folder / EVALUATION)
    low, high = evaluation["interval"]
    figures = {
        "epochs": summary["epochs"], "best_epoch": summary["best_epoch"], "test_accuracy": evaluation["accuracy"],
        "test_interval_low": low, "test_interval_high": high, "test_loss": evaluation["loss"],
        "test_brier": evaluation["brier"], "test_calibration_error": evaluation["calibration_error"],
    }  # fmt: skip
    if scaling := evaluation["temperature_scaling"]:
        figures["temperature"] = scaling["temperature"]
    pictures = {Path(name).stem: folder / name for name in PICTURES if (folder / name).exists()}
    return figures, pictures


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
    folder, recipe = job.folder, job.recipe
    wanted = {CURVES, TRAIN_BATCH, *RESULT_PICTURES}
    if recipe.holdout.validation_fraction or recipe.holdout.num_folds:
        wanted.add(VAL_BATCH)
    missing = {name for name in wanted if not (folder / name).exists()}
    if not missing:
        return False
    from cifar.reporting.pictures import evaluation_pictures, training_pictures

    pictures: dict[str, bytes] = {}
    title = f"{recipe.model}: {folder.name}"
    if CURVES in missing:
        mixed = bool(recipe.augment.mixup or recipe.augment.cutmix)
        pictures |= training_pictures(read_metrics(folder), title=title, note=dataset.note, mixed=mixed)
    if missing & {TRAIN_BATCH, VAL_BATCH}:
        pictures |= batch_pictures(job, dataset, title=title)
    if missing & {*RESULT_PICTURES}:
        probs = torch.from_numpy(read_predictions(folder)[0])
        evaluation, images = read_json(folder / EVALUATION), load(dataset, "test")
        pictures |= evaluation_pictures(evaluation, images, probs, people=None, note=dataset.note)
    for name in sorted(missing):
        write_file(folder / name, pictures[name])
    return True


def batch_pictures(job: Job, dataset: Dataset, *, title: str) -> dict[str, bytes]:
    """Images as they are trained on and, where some were held out, what the best weights say of these.

    Args:
        job: of a trained run.
        dataset: that it was trained on.
        title: of the pictures.
    """
    from cifar.reporting.batches import batch_picture

    training, validation = cut(load(dataset, "train"), job.recipe.holdout)
    pixels, captions = augmented_examples(training, job.recipe.augment, count=BATCH_IMAGES, seed=job.recipe.seed)
    pictures = {TRAIN_BATCH: batch_picture(pixels, captions, title=f"{title}, as trained on", note=dataset.note)}
    if len(validation):
        some = validation.select(torch.arange(min(BATCH_IMAGES, len(validation))))
        model = load_network(job.folder, trust_code=job.trust_code)
        prob, predicted = predict(model, some.images, device=job.device).max(dim=1)
        wrong = (predicted != some.labels).tolist()
        captions = [
            f"{CLASSES[guess]} {probability:.0%}" + (f"\nis {CLASSES[label]}" if guess != label else "")
            for guess, probability, label in zip(predicted.tolist(), prob.tolist(), some.labels.tolist(), strict=True)
        ]
        pictures[VAL_BATCH] = batch_picture(
            some.images, captions, marked=wrong, title=f"{title}, held-out images", note=dataset.note
        )
    return pictures


def train_run(job: Job, dataset: Dataset, *, display: Display) -> None:
    """Train a recipe into its run folder; the test split is not opened.

    Args:
        job, dataset, display: as in `run_one`.

    Raises:
        Stopped, InputError, WorldError: as `run_one`.
    """
    with held(job) as create, ExitStack() as closing:
        train_held(job, dataset, display=display, create=create, timing={}, closing=closing)


def splits_of_run(
    job: Job, dataset: Dataset, *, display: Display, resume: bool, timing: dict[str, float]
) -> tuple[Split, Split]:
    """The training and validation images of a run, or with train_blocks their activations.

    Args:
        job, dataset: of the run.
        display: sees the progress of activations.
        resume: whether the run has a checkpoint, which holds the frozen weights.
        timing: gets the seconds of the data and of the training.
    """
    with timed(timing, "data"):
        images = load(dataset, "train")
    if job.recipe.network.train_blocks >= 0:
        if is_first():
            model = checkpoint_model(job.recipe, job.folder) if resume else build_model(job.recipe, trust_code=True)
            from_first(model.state_dict())
        else:
            model = build_model(job.recipe, pretrained=False, trust_code=True)
            model.load_state_dict(received())
        progress = progress_of(display, "frozen part")
        with timed(timing, "training"):
            images = frozen_activations(job.recipe, images, dataset, device=job.device, progress=progress, model=model)
    with timed(timing, "data"):
        return cut(images, job.recipe.holdout)


def train_splits(
    job: Job,
    training: Split,
    validation: Split,
    dataset: Dataset,
    *,
    display: Display,
    loggers: Sequence[Logger] = (),
    resume: bool,
) -> State:
    """Train a job's recipe on its images, as `train` does."""
    return train(
        job.recipe, training, validation, folder=job.folder, device=job.device, compile=job.compile,
        capture=job.capture, deterministic=job.deterministic, sync_batchnorm=job.sync_batchnorm, display=display,
        loggers=loggers, resume=resume, data_sha256=dataset.sha256, checkpoint_seconds=job.checkpoint_seconds,
    )  # fmt: skip


def follow_run(job: Job, dataset: Dataset, *, display: Display) -> bool:
    """Do in another process what `run_one` needs of it: train together, and predict together.

    Args:
        job: of one run.
        dataset: that it is trained on.
        display: silent; may stop the training.

    Returns:
        whether the run is done; else it was stopped.
    """
    state = received()
    if state == "unfinished":
        resume = received()
        training, validation = splits_of_run(job, dataset, display=display, resume=resume, timing={})
        with ExitStack() as stack:
            stack.callback(display.end_training)
            trained = train_splits(job, training, validation, dataset, display=display, resume=resume)
        if not trained.finished:
            return False
    if state != "tested":
        help_to_predict(job)
    return True


def loggers_of(job: Job, *, display: Display, closing: ExitStack) -> list[Logger]:
    """The loggers that a job asks for, of a run that exists; `closing` closes them."""
    run_id = wandb_id(job.folder) if job.wandb else ""
    loggers = open_loggers(job.folder, recipe=job.recipe, wandb_id=run_id, tensorboard=job.tensorboard, say=display.say)
    for logger in loggers:
        closing.callback(logger.close)
    return loggers


def train_held(
    job: Job, dataset: Dataset, *, display: Display, create: Create, timing: dict[str, float], closing: ExitStack
) -> list[Logger]:
    """Train a recipe into its run folder, which this process holds.

    Args:
        job, dataset, display: as in `run_one`.
        create: creates the run, once nothing can be refused any more.
        timing: gets the seconds of the data and of the training.
        closing: closes the loggers.

    Returns:
        the loggers, still open.

    Raises:
        Stopped, InputError, WorldError: as `run_one`.
    """
    recipe, folder = job.recipe, job.folder
    summary = read_json(folder / SUMMARY) if job.resume else {}
    if job.resume:
        check_data(folder, summary, dataset)
    elif is_pretrained(recipe) and is_of_timm(recipe):
        num_images = round((1_000 if dataset.is_sample else NUM_TRAIN) * recipe.holdout.training_fraction)
        num_images //= processes()
        display.say(estimate_sentence(*estimate_seconds(recipe, num_images=num_images, device=job.device)))
    resume = from_first(job.resume and (folder / CHECKPOINT).exists())  # else it was killed before its first checkpoint
    training, validation = splits_of_run(job, dataset, display=display, resume=resume, timing=timing)
    if job.resume:
        update_summary(folder, sittings=summary.get("sittings", 1) + 1)
    else:
        facts = describe_run(
            recipe, dataset, device=job.device, compile=job.compile, deterministic=job.deterministic,
            sync_batchnorm=job.sync_batchnorm, command=job.command,
        )  # fmt: skip
        counts = {"num_train": len(training), "num_validation": len(validation)}
        create(first_files(recipe, facts | counts))
    with timed(timing, "training"), ExitStack() as stack:
        stack.callback(display.end_training)
        loggers = loggers_of(job, display=display, closing=closing)
        state = train_splits(job, training, validation, dataset, display=display, loggers=loggers, resume=resume)
    if not state.finished:
        update_summary(folder, changes=state.changes, skipped_steps=state.skipped_steps)
        raise Stopped(folder)
    update_summary(folder, **describe_training(recipe, state, num_images=len(training)))
    return loggers
