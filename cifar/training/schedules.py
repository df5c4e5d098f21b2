"""Learning rate over time. Closed forms are a function of the time passed; plateau keeps a state, torch's own."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar.recipes import Recipe


def lr_factor(recipe: Recipe, epoch: float, *, epochs: float = 0) -> float:
    """Share of the highest rate at a time in epochs, 0 … recipe.epochs: linear warm-up, then the schedule's form.

    With `epochs`, that of parameters which are trained only so long: from the start it falls linearly to 0.
    """
    if epochs:
        return max(0.0, 1 - epoch / epochs)
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    left = (recipe.epochs - epoch) / max(recipe.epochs - recipe.warmup_epochs, 1e-12)
    if recipe.schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    if recipe.schedule == "linear":
        return left
    return 1.0


def plateau(recipe: Recipe, optimiser: Optimizer) -> ReduceLROnPlateau | None:
    """Torch's scheduler that cuts the rate when validation accuracy stalls; None under every other schedule."""
    if recipe.schedule != "plateau":
        return None
    return ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=recipe.plateau_factor,
        patience=recipe.plateau_patience,
        threshold=recipe.plateau_threshold,
    )
