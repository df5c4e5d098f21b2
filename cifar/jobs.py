"""A job is a recipe with where and how it runs; here the rooms are joined: train, draw, test, one run or all folds."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cifar.data.cifar10 import Dataset
from cifar.data.references import reference_file
from cifar.data.split import NUM_TRAIN
from cifar.errors import InputError
from cifar.evaluation.corruptions import evaluate_corruptions
from cifar.evaluation.references import References, compare_with_references, read_references
from cifar.evaluation.testing import average_folds, evaluate_run
from cifar.files import write_json
from cifar.models import is_pretrained
from cifar.recipes import Recipe, training_share
from cifar.reporting.corruptions import draw_corruptions
from cifar.reporting.figures import draw_confusion, draw_curves
from cifar.reporting.mistakes import draw_mistakes
from cifar.reporting.reliability import draw_reliability
from cifar.runs import CORRUPTIONS, CROSSVAL, RECIPE, REFERENCES, SUMMARY, read_json, read_metrics, write_recipe
from cifar.training.crossval import fold_folder, fold_recipe, summarise_folds
from cifar.training.estimate import estimate_seconds, estimate_sentence
from cifar.training.loggers import Logger, open_loggers
from cifar.training.loop import Tick
from cifar.training.run import run_training, training_images


@dataclass(frozen=True)
class Job:
    """What `cifar train` was asked for.

    Attributes:
        recipe: decides the result.
        folder: the run's, or the cross-validation's that holds one a fold.
        device: cpu, mps or cuda.
        cross_validate: train all folds of the recipe.
        wandb, tensorboard: log there too.
        resume: continue what the folder holds.
        command: what was typed, for the record.
    """

    recipe: Recipe
    folder: Path
    device: str = "cpu"
    cross_validate: bool = False
    wandb: bool = False
    tensorboard: bool = False
    resume: bool = False
    command: str = ""


class Display(Logger, Protocol):
    """A logger that is also told of steps."""

    def tick(self, tick: Tick) -> None:
        """Take where the training stands, a few times a second."""


@dataclass(frozen=True)
class Watch:
    """How a job speaks to whoever watches it, and is stopped; the command line supplies all of it.

    Attributes:
        say: gets sentences.
        should_stop: asked after every step.
        training: opens the display of a training of so many epochs.
        images: opens a progress bar of images under a label.
        fold_done: gets the number (from 0), summary and folder of every fold.
    """

    say: Callable[[str], None]
    should_stop: Callable[[], bool]
    training: Callable[[int], AbstractContextManager[Display]]
    images: Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
    fold_done: Callable[[int, Mapping[str, Any], Path], None]


class Stopped(Exception):  # noqa: N818  (no error: a person asked for it)
    """A training was stopped after a step, with everything saved in this run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def run_one(job: Job, dataset: Dataset, *, watch: Watch) -> dict[str, Any]:
    """Train one run to its end, draw its curves and read the test set once with the best weights.

    Returns:
        what summary.json holds.

    Raises:
        Stopped: `watch.should_stop` said so.
        InputError, WorldError: as `run_training` and `evaluate_run`.
    """
    path = job.folder / SUMMARY
    resume = job.resume and path.exists()
    if resume and read_json(path)["test_readings"]:
        watch.say(f"{job.folder} is finished already.")
        return read_json(path)
    if is_pretrained(job.recipe) and not resume:
        num_images = (1_000 if dataset.is_sample else NUM_TRAIN) * training_share(job.recipe)
        watch.say(estimate_sentence(*estimate_seconds(job.recipe, num_images=round(num_images), device=job.device)))
    with watch.images("frozen part") as progress:
        images = training_images(job.recipe, dataset, device=job.device, progress=progress)
    with ExitStack() as stack:
        display = stack.enter_context(watch.training(job.recipe.epochs))
        loggers = open_loggers(
            job.folder, recipe=job.recipe, wandb=job.wandb, tensorboard=job.tensorboard, say=watch.say
        )
        for logger in loggers:
            stack.callback(logger.close)
        finished = run_training(
            job.recipe,
            dataset,
            images,
            folder=job.folder,
            device=job.device,
            command=job.command,
            loggers=[display, *loggers],
            tick=display.tick,
            should_stop=watch.should_stop,
            say=watch.say,
            resume=resume,
        )
    if not finished:
        raise Stopped(job.folder)
    title = f"{job.recipe.model}: {job.folder.name}"
    draw_curves(read_metrics(job.folder), job.folder / "curves.png", title=title, note=sample_note(dataset))
    evaluate_and_draw(job.folder, dataset, split="test", purpose="result of the run", device=job.device, watch=watch)
    return read_json(path)


def evaluate_and_draw(
    folder: Path,
    dataset: Dataset,
    *,
    split: str,
    purpose: str,
    device: str,
    watch: Watch,
    views: str = "",
    references: bool = False,
    corruptions: bool = False,
) -> dict[str, Any]:
    """Evaluate a run on a split (see `evaluate_run`), draw what the folder's pictures show, ask what else is asked.

    Args:
        references: compare with people and the known faults of the test set as well, into references.json.
        corruptions: read corrupted test images as well, into corruptions.json.

    Returns:
        what evaluation.json holds, and under "references" and "corruptions" what theirs do, where they were asked for.

    Raises:
        InputError, WorldError: as `evaluate_run`; or the split or data set has no references or corruptions.
    """
    known = open_references(dataset, split=split, say=watch.say) if references else None
    if corruptions and split != "test":
        raise InputError("--corruptions goes with --split test: only test images are corrupted.")
    with watch.images(split) as progress:
        reading = evaluate_run(
            folder, dataset, split=split, purpose=purpose, views=views, device=device, progress=progress
        )
    evaluation, part = dict(reading.evaluation), reading.part
    title, note = f"{folder.name}, {split}: accuracy {evaluation['accuracy']:.2%}", sample_note(dataset)
    draw_confusion(evaluation["confusion"], folder / "confusion.png", title=title, note=note)
    draw_reliability(evaluation, folder / "reliability.png", title=title, note=note)
    people = known.people if known else None
    mistakes = folder / "mistakes.png"
    draw_mistakes(part.images, part.labels, reading.probs, mistakes, title=title, people=people, note=note)
    about = {key: evaluation[key] for key in ("run", "views", "data", "data_sha256")}
    if known:
        evaluation["references"] = about | compare_with_references(reading.probs, part.labels, known)
        write_json(folder / REFERENCES, evaluation["references"])
    if corruptions:
        with watch.images("corrupted") as progress:
            found = evaluate_corruptions(
                reading.model, part, data_sha256=dataset.sha256, views=evaluation["views"], progress=progress
            )
        evaluation["corruptions"] = found = about | {"clean_accuracy": evaluation["accuracy"]} | found
        write_json(folder / CORRUPTIONS, found)
        title = f"{folder.name}, corrupted test images: mean accuracy {found['mean_accuracy']:.2%}"
        draw_corruptions(found, folder / "corruptions.png", title=title, note=note)
    return evaluation


def open_references(dataset: Dataset, *, split: str, say: Callable[[str], None]) -> References:
    """The published references of the test images, fetched where they are not in the cache.

    Raises:
        InputError: the images are not the 10,000 that the references are of.
        WorldError: they cannot be had.
    """
    if split != "test" or dataset.is_sample:
        what = "the validation images" if split != "test" else "the sample"
        raise InputError(
            f"--references goes with the test split of the whole CIFAR-10: people saw its 10,000 images, not {what}."
        )
    return read_references(lambda name: reference_file(name, say=say))


def run_folds(job: Job, dataset: Dataset, *, watch: Watch) -> dict[str, Any]:
    """Train every fold that is not finished yet, test each, and write crossval.json.

    Returns:
        what crossval.json holds.

    Raises:
        Stopped: names the cross-validation's folder, from which it resumes.
        InputError: it began with other data.
    """
    result: dict[str, Any] = {"finished": False, "data": dataset.name, "data_sha256": dataset.sha256}
    if job.resume:
        former = read_json(job.folder / CROSSVAL)
        if former["data_sha256"] != dataset.sha256:
            raise InputError(f"{job.folder} was trained on {former['data']}: resume it with the same --data.")
    else:
        write_recipe(job.folder, job.recipe)
        write_json(job.folder / CROSSVAL, result)
    summaries, folders = [], []
    for fold in range(job.recipe.num_folds):
        recipe, folder = fold_recipe(job.recipe, fold), fold_folder(job.folder, fold)
        folder.mkdir(exist_ok=True)
        resume = job.resume and (folder / RECIPE).exists()
        watch.say(f"fold {fold + 1} of {job.recipe.num_folds}")
        try:
            one = dataclasses.replace(job, recipe=recipe, folder=folder, resume=resume)
            summaries.append(run_one(one, dataset, watch=watch))
        except Stopped:
            raise Stopped(job.folder) from None
        folders.append(folder)
        watch.fold_done(fold, summaries[-1], folder)
    ensemble = average_folds(folders)
    result |= {"finished": True, "recipe": dataclasses.asdict(job.recipe)} | summarise_folds(summaries)
    result["test_of_averaged_probabilities"] = {key: ensemble[key] for key in ("accuracy", "interval", "loss")}
    result["seconds"] = sum(summary["seconds"] for summary in summaries)
    write_json(job.folder / CROSSVAL, result)
    return result


def sample_note(dataset: Dataset) -> str:
    """What every report of a run on the sample has to say; empty for the whole data set."""
    return "SAMPLE OF CIFAR-10, 1,000 TRAINING AND 200 TEST IMAGES: NOT A RESULT" if dataset.is_sample else ""
