"""The learning rate over time. Closed forms are functions of the time passed; plateau is PyTorch's, with its state."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar.recipes.schema import Schedule


def lr_factor(schedule: Schedule, epoch: float, *, epochs: int, train_epochs: float = 0) -> float:
    """The learning rate at a time as a fraction of its peak: linear warm-up, then the schedule's form.

    Args:
        schedule: any kind; plateau is constant here.
        epoch: time in epochs, 0 to epochs.
        epochs: of the whole training.
        train_epochs: of parameters that train only so long: their rate falls linearly from the start to 0; 0 is all.
    """
    if train_epochs:
        return max(0.0, 1 - epoch / train_epochs)
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    remaining = (epochs - epoch) / max(epochs - schedule.warmup_epochs, 1e-12)
    if schedule.kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * remaining))
    if schedule.kind == "linear":
        return remaining
    return 1.0


def plateau(schedule: Schedule, optimiser: Optimizer) -> ReduceLROnPlateau | None:
    """PyTorch's scheduler that cuts the rate when validation accuracy stalls; None for every other schedule."""
    if schedule.kind != "plateau":
        return None
    return ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=schedule.plateau_factor,
        patience=schedule.plateau_patience,
        threshold=schedule.plateau_threshold,
    )
