"""The plan of an epoch: all that its steps need and that does not depend on the weights, drawn before the first step.

A device has it at once and is never waited for, and a captured step reads it by number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from cifar.data.batches import batch_bounds, draw_order
from cifar.recipes import Recipe
from cifar.training.augment import PER_BATCH, alternate_flips, draw_augmentation
from cifar.training.ema import averaging_weight
from cifar.training.schedules import lr_factor
from cifar.training.state import State

PER_STEP = (*PER_BATCH, "rates", "averaging")


@dataclass(frozen=True)
class Plan:
    """What the steps of an epoch take.

    Attributes:
        tables: by name, those of `draw_augmentation` for all batches of the epoch, and indices, int64 [N], the images
            in their order; rates, float [S, G], the learning rate of each parameter group; averaging, float [S], the
            weight of a step in the moving average. Those of PER_STEP have a row for each of the S steps, the others for
            each of the N images.
        bounds: S + 1 numbers: step s takes images bounds[s] to bounds[s + 1] - 1.
        generator: state of the generator after these draws.
    """

    tables: Mapping[str, Tensor]
    bounds: list[int]
    generator: Tensor

    def step(self, number: int) -> dict[str, Tensor]:
        """The rows of a step, by table; they share the tables' memory."""
        images = slice(*self.bounds[number : number + 2])
        return {name: table[number if name in PER_STEP else images] for name, table in self.tables.items()}


def draw_plan(recipe: Recipe, state: State, *, num_images: int) -> Plan:
    """The plan of the epoch that a training is in, on the CPU; the state's generator stays at the epoch's beginning.

    Args:
        recipe, state: of the training.
        num_images: N.
    """
    generator = Generator()
    generator.set_state(state.generator.get_state())
    order = draw_order(num_images, generator=generator)
    flips = alternate_flips(state.flips, order, epoch=state.epoch) if state.flips is not None else None
    bounds = batch_bounds(num_images, recipe.batch_size)
    steps = len(bounds) - 1
    drawn = [
        draw_augmentation(
            stop - start, recipe.augment, generator=generator, flips=None if flips is None else flips[start:stop]
        )
        for start, stop in pairwise(bounds)
    ]
    tables = {"indices": order, "rates": learning_rates(recipe, state, steps=steps)}
    for name in drawn[0] if drawn else ():
        join = torch.stack if name in PER_BATCH else torch.cat
        tables[name] = join([batch[name] for batch in drawn])
    if recipe.ema_decay:
        first = state.epoch * steps
        weights = [averaging_weight(recipe.ema_decay, first + step) for step in range(steps)]
        tables["averaging"] = torch.tensor(weights, dtype=torch.float64)
    return Plan(tables, bounds, generator.get_state())


def learning_rates(recipe: Recipe, state: State, *, steps: int) -> Tensor:
    """The learning rate of each parameter group in each step of the current epoch, by the schedule.

    Plateau sets rates itself, after an epoch.

    Args:
        recipe, state: of the training.
        steps: S, in an epoch.

    Returns:
        float64 [S, G].
    """
    groups = state.optimiser.param_groups
    if state.plateau is not None:
        return torch.tensor([[float(group["lr"]) for group in groups]] * steps, dtype=torch.float64)
    rates = [
        [
            group["initial_lr"]
            * lr_factor(
                recipe.schedule,
                state.epoch + (step + 0.5) / steps,
                epochs=recipe.epochs,
                train_epochs=group.get("train_epochs", 0),
            )
            for group in groups
        ]
        for step in range(steps)
    ]
    return torch.tensor(rates, dtype=torch.float64)
