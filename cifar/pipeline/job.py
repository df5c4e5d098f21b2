"""What `cifar train` was asked for, and the folder that it holds meanwhile."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar.data.cifar10 import Dataset
from cifar.errors import InputError
from cifar.recipes import Recipe
from cifar.runs import Content, new_run, open_run
from cifar.training.display import Display
from cifar.training.loop import CHECKPOINT_SECONDS

Create = Callable[[Mapping[str, Content]], None]


@dataclass(frozen=True)
class Job:
    """What `cifar train` was asked for.

    Attributes:
        recipe: decides the result.
        folder: the run's, or the cross-validation's, which holds one per fold.
        device: cpu, mps or cuda.
        compile: fuse the network's operations with torch.compile.
        capture: on a GPU, capture a training step as a CUDA graph and replay it.
        deterministic: on a GPU, train with algorithms that give the same bits every time.
        cross_validate: train all folds of the recipe.
        wandb, tensorboard: log there too.
        resume: continue what the folder holds.
        overwrite: replace what the folder holds, once nothing can be refused any more.
        checkpoint_seconds: between two checkpoints within an epoch; 0 is none.
        command: what was typed, for the record.
        trust_code: the user's function that the recipe names may be imported and run.
        timing: seconds that were spent before, as of summary.json.
    """

    recipe: Recipe
    folder: Path
    device: str = "cpu"
    compile: bool = False
    capture: bool = True
    deterministic: bool = False
    cross_validate: bool = False
    wandb: bool = False
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    command: str = ""
    trust_code: bool = False
    timing: Mapping[str, float] = field(default_factory=dict)


class Stopped(Exception):  # noqa: N818  (no error: a person asked for it)
    """A training was stopped after a step, with everything saved in this run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@contextmanager
def held(job: Job) -> Iterator[Create]:
    """Hold the folder of a job; yields the function that creates its run, which a resumed one does not need."""
    if job.resume:
        with open_run(job.folder):
            yield lambda _contents: None
    else:
        with new_run(job.folder, overwrite=job.overwrite) as create:
            yield create


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
