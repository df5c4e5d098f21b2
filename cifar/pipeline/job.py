"""A training that was asked for, and the folder that it holds meanwhile. Loads without PyTorch."""

import datetime
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.errors import InputError, WorldError
from cifar.recipes import Recipe, with_fields
from cifar.runs import (
    CROSSVAL,
    SUMMARY,
    WEIGHTS,
    Content,
    absent_weights,
    data_of_run,
    how_computed,
    is_run,
    new_run,
    open_run,
    read_json,
    recipe_to_resume,
    run_recipe,
    run_state,
)
from cifar.training.display import Display

if TYPE_CHECKING:
    from cifar.data.cifar10 import Dataset

Create = Callable[[Mapping[str, Content]], None]


@dataclass(frozen=True)
class Job:
    """A training that was asked for, by the command line or from Python.

    Attributes:
        recipe: decides the result.
        folder: the run's, or the cross-validation's, which holds one per fold.
        data: where CIFAR-10 is, as of `open_dataset`; "" is the cache, or else a download.
        device: cpu, mps or cuda; "" is the best there is.
        kernels: on a CPU, native or pytorch; "" is what CIFAR_KERNELS says.
        compile: fuse the network's operations with torch.compile.
        capture: on a GPU, capture a training step as a CUDA graph and replay it.
        deterministic: on a GPU, train with algorithms that give the same bits every time.
        sync_batchnorm: on GPUs, in several processes, compute batch statistics over all of them.
        cross_validate: train all folds of the recipe.
        wandb, tensorboard: log there too.
        resume: continue what the folder holds.
        overwrite: replace what the folder holds, once nothing can be refused any more.
        checkpoint_seconds: between two checkpoints within an epoch; 0 is none.
        command: what was typed, for the record.
        trust_code: the user's functions that the recipe names may be imported and run.
        trusted: the names of those that may be in any case, since they were given with this job.
        timing: seconds that were spent before, as of summary.json.
    """

    recipe: Recipe
    folder: Path
    data: str = ""
    device: str = ""
    kernels: str = ""
    compile: bool = False
    capture: bool = True
    deterministic: bool = False
    sync_batchnorm: bool = False
    cross_validate: bool = False
    wandb: bool = False
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False
    checkpoint_seconds: float = 300.0
    command: str = ""
    trust_code: bool = False
    trusted: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)


class Stopped(Exception):  # noqa: N818  (no error: a person asked for it)
    """A training was stopped after a step, with everything saved in this run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def job_to_resume(folder: Path, *, changes: Mapping[str, Any]) -> Job:
    """What a run, or a cross-validation, goes on with: its own recipe and data, computed as before.

    Args:
        folder: its folder.
        changes: fields of the recipe to change on purpose (`cifar.runs.CHANGEABLE`); None is not given.

    Raises:
        InputError: no run folder, a recipe that was changed in it, or a change that is not valid: the folds of a
            cross-validation are all trained alike.
        WorldError: a file of the run is damaged.
    """
    recipe, cross_validate = recipe_to_resume(folder), (folder / CROSSVAL).exists()
    given = {name: value for name, value in changes.items() if value is not None}
    if given and cross_validate:
        raise InputError(
            "All folds of a cross-validation are trained alike: resume it without -l, -e, --skip-bad-steps."
        )
    former = how_computed(folder)
    return Job(
        with_fields(recipe, **given), folder, data=data_to_reopen(folder), kernels=former.get("kernels", ""),
        compile=former.get("compiled", False), cross_validate=cross_validate, resume=True,
        deterministic=former.get("device") != "cpu" and former.get("deterministic", False),
        sync_batchnorm=former.get("sync_batchnorm", False),
    )  # fmt: skip


def begun_before(job: Job) -> bool:
    """Whether the folder of a job that is started again holds its run already: that of the same recipe.

    An image size that was taken from the run behind the weights stands in the recipe of the run alone.
    """
    if not (is_run(job.folder) or (job.folder / CROSSVAL).exists()):
        return False
    former = recipe_to_resume(job.folder)
    if job.recipe.network.weights:
        former = with_fields(former, image_size=job.recipe.network.image_size)
    return former == job.recipe and (job.folder / CROSSVAL).exists() == job.cross_validate


def recipe_to_start_from(run: Path) -> Recipe:
    """The recipe of a trained run, from whose weights a new one starts.

    Raises:
        InputError: no run folder, or one whose training is not finished.
        WorldError: its weights were not kept.
    """
    if (run / CROSSVAL).exists():
        raise InputError(f"{run} holds a cross-validation: start from one of its folds, such as {run / 'fold-0'}.")
    recipe = run_recipe(run)
    if run_state(read_json(run / SUMMARY)) == "unfinished":
        raise InputError(f"The training of {run} is not finished: go on with --resume {run}.")
    if not (run / WEIGHTS).exists():
        raise WorldError(absent_weights(run))
    return recipe


def validates_on_seen(recipe: Recipe) -> Path | None:
    """The run that a recipe starts from, if it was trained on images that the recipe validates on."""
    holdout, start = recipe.holdout, recipe
    while start.network.weights and is_run(folder := Path(start.network.weights)):
        start = run_recipe(folder)
        if start.holdout != holdout and (holdout.validation_fraction or holdout.num_folds):
            return folder
    return None


def data_to_reopen(folder: Path) -> str:
    """What `open_dataset` takes to read the data of a run again: the sample, or the cached whole."""
    return "sample" if data_of_run(folder)["data"].startswith("SAMPLE") else ""


def default_folder(name: str) -> Path:
    """runs/NAME-TIME-xxxx, which no other process chooses in the same second."""
    stem = Path(name).stem.replace(":", "-") if name.endswith(".json") else name.replace(":", "-").replace("/", "-")
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stem}-{time}-{secrets.token_hex(2)}"


def check_new_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a new run cannot have; nothing in it is changed.

    Raises:
        InputError: its name is no UTF-8, with which weights could not be read again; or as `new_run`.
        WorldError: as `new_run`.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(f"The name of the folder {folder} is no UTF-8: choose another with --save-folder.") from None
    with new_run(folder, overwrite=overwrite):
        pass


@contextmanager
def held(job: Job) -> Iterator[Create]:
    """Hold the folder of a job; yields the function that creates its run, which a resumed one does not need."""
    if job.resume:
        with open_run(job.folder):
            yield lambda _contents: None
    else:
        with new_run(job.folder, overwrite=job.overwrite) as create:
            yield create


def check_data(folder: Path, record: dict[str, Any], dataset: "Dataset") -> None:
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
