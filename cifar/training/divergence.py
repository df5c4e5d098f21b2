"""A training whose numbers are no longer finite: it stops, and what was good stays."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from cifar.errors import Diverged
from cifar.recipes import Recipe
from cifar.runs import CHECKPOINT, Content
from cifar.training.state import State, save_state


def save_or_diverge(recipe: Recipe, state: State, folder: Path, others: Mapping[str, Content] | None = None) -> None:
    """Write a checkpoint, with other files as of `save_state`.

    Raises:
        WorldError: a weight is no longer finite, or the files cannot be written; what was saved before stays.
    """
    try:
        save_state(state, folder, others or {})
    except FloatingPointError as error:
        raise diverged(recipe, state, folder=folder, what=str(error)) from None


def diverged(recipe: Recipe, state: State, *, folder: Path, what: str) -> Diverged:
    """The error of a training whose numbers are no longer finite: where, at what rate, and what is still good.

    Args:
        recipe, state: of the training.
        folder: of the run.
        what: is not finite, in words.
    """
    rate = recipe.optimiser.lr
    skipped = f", {state.skipped_steps} bad steps skipped" if state.skipped_steps else ""
    moment = f"step {state.step} of epoch {state.epoch + 1}" if state.step else f"the end of epoch {state.epoch}"
    sentence = f"The training diverged by {moment}: {what} (peak learning rate {rate:g}{skipped})"
    if state.saved is None:
        return Diverged(
            f"{sentence}. Nothing was saved before: train again with --overwrite and -l {rate / 3:.2g} or lower."
        )
    epoch, step = state.saved
    place = f"after epoch {epoch}" if step == 0 else f"after step {step} of epoch {epoch + 1}"
    resume = f"cifar train --resume {shlex.quote(str(folder))}"
    return Diverged(
        f"{sentence}. {folder / CHECKPOINT} is good, {place}: go on from there with `{resume} -l {rate / 3:.2g}`."
    )
