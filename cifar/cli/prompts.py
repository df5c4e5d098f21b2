"""The questions asked when train.py is started bare in a terminal; each answer is what a flag would have said."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifar.recipes import RECIPES, recipe_for
from cifar.recipes.recorded import RECOMMENDED, summary_line

if TYPE_CHECKING:
    import questionary


@dataclass(frozen=True)
class Answers:
    """The flags of `cifar train` that the questions stand for."""

    model: str
    epoch: int
    batch_size: int
    learning_rate: float
    device: str
    cross_validate: bool
    wandb: bool
    save_folder: str


def ask(*, devices: list[str], default_folder: Callable[[str], str]) -> Answers | None:
    """Ask for what a run needs, with the recipe's values as defaults.

    Args:
        devices: those present, the best first.
        default_folder: the save folder to offer for a model's name.

    Returns:
        the answers, or None if the person pressed Ctrl-C.
    """
    import questionary

    name = questionary.select("Model", choices=[choice(name) for name in RECIPES], default=RECOMMENDED).ask()
    if name is None:
        return None
    recipe = recipe_for(name)
    form = questionary.form(
        epoch=questionary.text("Epochs", default=str(recipe.epochs), validate=positive(int)),
        batch_size=questionary.text("Batch size", default=str(recipe.batch_size), validate=positive(int)),
        learning_rate=questionary.text("Learning rate", default=f"{recipe.optimiser.lr:g}", validate=positive(float)),
        device=questionary.select("Device", choices=devices, default=devices[0]),
        cross_validate=questionary.confirm("Cross-validate on 5 folds?", default=False),
        wandb=questionary.confirm("Log to wandb?", default=False),
        save_folder=questionary.text("Save folder", default=default_folder(name)),
    )
    answers = form.ask()
    if not answers:
        return None
    return Answers(
        model=name,
        epoch=int(answers["epoch"]),
        batch_size=int(answers["batch_size"]),
        learning_rate=float(answers["learning_rate"]),
        device=answers["device"],
        cross_validate=answers["cross_validate"],
        wandb=answers["wandb"],
        save_folder=answers["save_folder"].strip() or default_folder(name),
    )


def choice(name: str) -> "questionary.Choice":
    """A recipe in the menu, with what its recorded run reached."""
    import questionary

    hint = "  ← start here" if name == RECOMMENDED else ""
    return questionary.Choice(f"{name:<19}{summary_line(name)}{hint}".rstrip(), value=name)


def positive(kind: type[int] | type[float]) -> Callable[[str], bool | str]:
    """A check for a text that must be a number above 0; gives the sentence to show where it is not."""

    def check(text: str) -> bool | str:
        try:
            good = 0 < kind(text) < float("inf")
        except ValueError:
            good = False
        return good or (
            "Type a whole number above 0." if kind is int else "Type a number above 0, such as 0.1 or 1e-4."
        )

    return check
