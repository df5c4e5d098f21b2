"""Everything needed to continue a training exactly, as last.ckpt holds it."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar.data.split import Split
from cifar.errors import Remark
from cifar.files import Write
from cifar.models import build_model, is_pretrained, prepare_model
from cifar.models.frozen import freeze
from cifar.models.hooks import place
from cifar.randomness import generator_states, restore_generators
from cifar.recipes import Recipe
from cifar.runs import CHECKPOINT, Content, checkpoint_writer, write_files
from cifar.training.augment import draw_flips
from cifar.training.distributed import from_all, is_first, rank
from cifar.training.ema import MovingAverage
from cifar.training.optimisers import build_optimiser, optimiser_values
from cifar.training.schedules import plateau
from cifar.training.step import all_finite

FORMAT = 4  # of last.ckpt


@dataclass
class State:
    """A training between two steps. The loop changes it in place.

    Attributes:
        scaler: of the loss; enabled for fp16 only.
        epoch: epochs completed; step: steps completed in the current epoch.
        generator: as it was before the draws of the current epoch, or is before those of the next.
        flips: bool [N]: which images are mirrored in the even epochs, the others in the odd ones; None draws them anew.
        totals: [3]: sum of losses, correct predictions and images of the current epoch.
        rows: the rows of metrics.csv so far.
        best_accuracy: best validation accuracy so far, as a fraction; best_epoch: when it was reached, from 1.
        seconds: spent in training, validation included, over all parts of a resumed run; epoch_seconds: of the current
            epoch.
        finished: no epoch is left, or patience has run out.
        skipped_steps: left out because their loss or gradient was not finite.
        origin: recipe and data of the training, and how it is computed, to compare when it is resumed.
        changes: what was changed by resuming, and when, as summary.json holds it.
        saved: epochs and steps of the last checkpoint; None before the first.
        unsaved: the best weights, where the last checkpoint was before them.
    """

    model: nn.Module
    optimiser: Optimizer
    plateau: ReduceLROnPlateau | None
    average: MovingAverage | None
    scaler: GradScaler
    generator: Generator
    flips: Tensor | None = None
    totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    epoch: int = 0
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best_accuracy: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    finished: bool = False
    skipped_steps: int = 0
    origin: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    saved: tuple[int, int] | None = None
    unsaved: dict[str, Tensor] | None = None

    @property
    def candidate(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return self.average.module if self.average else self.model

    @property
    def validation_accuracy(self) -> float | None:
        """The best so far, as a fraction; None without validation images."""
        return None if math.isnan(self.best_accuracy) else self.best_accuracy


VALUES = (
    "epoch", "step", "rows", "best_accuracy", "best_epoch", "seconds", "epoch_seconds", "finished", "totals",
    "skipped_steps", "origin", "changes",
)  # fmt: skip


def new_state(recipe: Recipe, training: Split, *, device: str, precision: str, pretrained: bool = True) -> State:
    """Before the first step: a network fitted to the statistics of its training images, with its optimiser.

    Args:
        recipe: of the run; its seed has been given to PyTorch already.
        training: images uint8 [N, 3, 32, 32], or with train_blocks of 0 or more the activations of the frozen part.
        device: cpu, mps or cuda.
        precision: fp32, bf16 or fp16.
        pretrained: false where a checkpoint follows, which holds all weights.

    Raises:
        InputError: the recipe's options do not fit its network.
        WorldError: pretrained weights cannot be had.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)  # both were decided, and this was said, before any training began
        model = build_model(recipe, pretrained=pretrained, for_training=True, trust_code=True)
    freeze(model, recipe.network.train_blocks)
    if recipe.network.train_blocks < 0 and not is_pretrained(recipe):  # else statistics belong to the weights
        prepare_model(model, training.images)
    place(model, device)
    optimiser = build_optimiser(recipe.optimiser, model)
    generator = Generator().manual_seed(recipe.seed)
    flips = None
    if recipe.augment.flip_mode == "alternate":
        flips = draw_flips(len(training), probability=recipe.augment.flip, generator=generator)
    return State(
        model,
        optimiser,
        plateau(recipe.schedule, optimiser),
        MovingAverage(model) if recipe.ema_decay else None,
        GradScaler(device, enabled=precision == "fp16"),
        generator,
        flips,
    )


def checkpoint(state: State) -> Write:
    """The content of last.ckpt: tensors and plain values only, so that it loads without running code."""
    first, *others = from_all(generator_states())
    values: dict[str, Any] = {name: getattr(state, name) for name in VALUES}
    values |= {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "optimiser": optimiser_values(state.optimiser),
        "plateau": state.plateau.state_dict() if state.plateau else None,
        "average": state.average.state_dict() if state.average else None,
        "scaler": state.scaler.state_dict(),
        "generator": state.generator.get_state(),
        "generators": first,
        "other_generators": others,
    }
    return checkpoint_writer(values)


def save_state(state: State, folder: Path, others: Mapping[str, Content] | None = None) -> None:
    """Write last.ckpt, together with other files of the run by name, unless a weight is no longer finite.

    Args:
        state: of the training.
        folder: of the run.
        others: contents by file name; they take their names before the checkpoint does.

    Raises:
        FloatingPointError: a weight is not finite; what was saved before stays.
        WorldError: the files cannot be written; what was saved before stays.
    """
    check_weights(state.model)
    check_weights(state.candidate)
    content = checkpoint(state)  # in every process: it asks all of them
    if is_first():
        write_files(folder, {**(others or {}), CHECKPOINT: content})
    state.saved = (state.epoch, state.step)


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are of no use. A buffer may hold infinities, as masks of attention do, but no NaN.

    Raises:
        FloatingPointError: a weight is not finite, or a buffer holds NaN.
    """
    not_nan = [~buffer.isnan().any() for buffer in model.buffers()]
    if not all_finite(model.parameters()) or (not_nan and not torch.stack(not_nan).all()):
        raise FloatingPointError("a weight is not finite")


def load_values(state: State, values: dict[str, Any]) -> None:
    """Set a state to the values of a checkpoint, but for peak learning rates, which are the new state's."""
    peaks = [group["initial_lr"] for group in state.optimiser.param_groups]
    state.model.load_state_dict(values["model"])
    state.optimiser.load_state_dict(values["optimiser"])
    for group, peak in zip(state.optimiser.param_groups, peaks, strict=True):
        if group["initial_lr"] != peak:
            group["lr"] *= peak / group["initial_lr"]  # as far below its peak as it was
            group["initial_lr"] = peak
    if state.plateau:
        state.plateau.load_state_dict(values["plateau"])
    if state.average:
        state.average.load_state_dict(values["average"])
    state.scaler.load_state_dict(values["scaler"])
    state.generator.set_state(values["generator"])
    of_processes = [values["generators"], *values.get("other_generators", [])]
    if rank() < len(of_processes):  # else this process is one more than there were
        restore_generators(of_processes[rank()])
    for name in VALUES:
        setattr(state, name, values[name])
    if not is_first():
        state.totals.zero_()  # the first has the sums of all
