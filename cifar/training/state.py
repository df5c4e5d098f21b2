"""Everything needed to continue a training exactly, and its file, last.ckpt."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import Precision
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from cifar.errors import WorldError
from cifar.files import write_whole
from cifar.runs import CHECKPOINT


@dataclass
class State:
    """A training between two steps. The loop changes it in place.

    Attributes:
        precision: Fabric's, which holds the loss scale of fp16.
        epoch: epochs completed; step: steps completed in the epoch that runs.
        flips: bool [N]: which images are mirrored in the even epochs, the others in the odd ones; None draws them anew.
        order: int64 [N], the order of the images in the epoch that runs.
        totals: [3]: sum of losses, correct predictions, images of the epoch that runs.
        rows: the rows of metrics.csv so far.
        best_accuracy: best validation accuracy so far, as a fraction; best_epoch: when it was reached, from 1.
        seconds: spent in training, validation included, over all sittings; epoch_seconds: of the epoch that runs.
        finished: no epoch is left, or patience has run out.
    """

    model: nn.Module
    optimiser: Optimizer
    plateau: ReduceLROnPlateau | None
    average: AveragedModel | None
    precision: Precision
    generator: Generator
    flips: Tensor | None = None
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    epoch: int = 0
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best_accuracy: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    finished: bool = False


PLAIN = (
    "epoch",
    "step",
    "rows",
    "best_accuracy",
    "best_epoch",
    "seconds",
    "epoch_seconds",
    "finished",
    "order",
    "totals",
)


def save_state(state: State, folder: Path) -> None:
    """Write last.ckpt, whole: tensors and plain values only, so that it loads without running code."""
    values: dict[str, Any] = {name: getattr(state, name) for name in PLAIN}
    values |= {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "plateau": state.plateau.state_dict() if state.plateau else None,
        "average": state.average.state_dict() if state.average else None,
        "precision": state.precision.state_dict(),
        "generator": state.generator.get_state(),
        "dropout_cpu": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    write_whole(folder / CHECKPOINT, lambda file: torch.save(values, file))


def restore_state(state: State, folder: Path) -> None:
    """Bring a freshly built state to where last.ckpt was written.

    Raises:
        WorldError: there is no checkpoint, it is damaged, or it is of another recipe or version.
    """
    path = folder / CHECKPOINT
    try:
        take_over(state, torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise WorldError(f"{folder} holds no {CHECKPOINT} to resume from: train anew with --overwrite.") from None
    except Exception as error:  # torch, zipfile and pickle each have their own for a damaged file
        raise WorldError(
            f"{path} is damaged, or of another recipe or version ({type(error).__name__}): train anew with --overwrite."
        ) from None


def take_over(state: State, values: dict[str, Any]) -> None:
    """Set a state to the values of a checkpoint."""
    state.model.load_state_dict(values["model"])
    state.optimiser.load_state_dict(values["optimiser"])
    if state.plateau:
        state.plateau.load_state_dict(values["plateau"])
    if state.average:
        state.average.load_state_dict(values["average"])
    state.precision.load_state_dict(values["precision"])
    state.generator.set_state(values["generator"])
    torch.set_rng_state(values["dropout_cpu"])
    if torch.cuda.is_available() and values["dropout_cuda"]:
        torch.cuda.set_rng_state_all(values["dropout_cuda"])
    for name in PLAIN:
        setattr(state, name, values[name])
