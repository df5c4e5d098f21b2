"""Fields of a recipe that nothing would read: refused where a person has typed one, else said."""

import warnings
from collections.abc import Callable, Mapping, Sequence

from cifar.errors import InputError, Remark
from cifar.recipes.schema import Recipe
from cifar.recipes.text import FIELDS, default_of, to_mapping, typed_changes, with_fields

Reads = Callable[[Recipe], bool]


def of_optimisers(*kinds: str) -> tuple[Reads, str]:
    """The condition and the words of a field that some optimisers alone read."""
    return lambda recipe: recipe.optimiser.kind in kinds, f"only the optimisers {', '.join(kinds)} read it"


def of_plateau() -> tuple[Reads, str]:
    """The condition and the words of a field of the plateau schedule."""
    return lambda recipe: recipe.schedule.kind == "plateau", "only the schedule plateau reads it"


# When a field is read, and what to say where it is not. Fields that are always read are left out, and so are options of
# the network, which is asked when it is built.
READ: dict[str, tuple[Reads, str]] = {
    "momentum": of_optimisers("sgd", "muon", "muon-sgd"),
    "nesterov": of_optimisers("sgd"),
    "rest_momentum": of_optimisers("muon-sgd"),
    "head_lr": of_optimisers("muon-sgd"),
    "bias_lr": of_optimisers("muon-sgd"),
    "muon_steps": of_optimisers("muon", "muon-sgd"),
    "whitening_epochs": (
        lambda recipe: recipe.optimiser.kind == "muon-sgd" and recipe.model.startswith("speednet"),
        "only speednet with the optimiser muon-sgd reads it",
    ),
    "decay_all": of_optimisers("sgd", "adam", "adamw", "muon"),
    "warmup_epochs": (lambda recipe: recipe.schedule.kind != "plateau", "the schedule plateau has no warm-up"),
    "plateau_factor": of_plateau(),
    "plateau_patience": of_plateau(),
    "plateau_threshold": of_plateau(),
    "crop_mode": (lambda recipe: recipe.augment.crop_padding > 0, "there is no crop while crop_padding is 0"),
    "flip_mode": (lambda recipe: recipe.augment.flip > 0, "nothing is mirrored while flip is 0"),
    "views_below": (lambda recipe: recipe.tta.views != "none", "there are no further views while views is none"),
    "validation_fraction": (lambda recipe: recipe.holdout.num_folds == 0, "the validation set is a fold"),
    "split_seed": (
        lambda recipe: recipe.holdout.num_folds > 0 or recipe.holdout.validation_fraction > 0,
        "no images are held out",
    ),
}


def typed_recipe(recipe: Recipe, settings: Sequence[str], flags: Mapping[str, object]) -> Recipe:
    """The recipe with what a person typed; a typed field that nothing would read is refused.

    Another field that now is not read, since the recipe was made for another optimiser or a longer training, gives a
    `Remark`: it need not be undone by hand.

    Args:
        recipe: named, or of a file.
        settings: of --set.
        flags: values of other flags by the fields that they set; they win.

    Raises:
        InputError: as `with_settings`; or a typed field is not read.
    """
    changes = typed_changes(settings) | dict(flags)
    result = with_fields(recipe, **changes)
    for name, sentence in unused(result).items():
        if name in changes:
            raise InputError(f"{sentence} Leave it out.")
        warnings.warn(sentence, Remark, stacklevel=2)
    return result


def unused(recipe: Recipe) -> dict[str, str]:
    """Fields with another value than their default that do nothing in this recipe, and a sentence about each."""
    values = to_mapping(recipe)
    sentences = {
        name: f"{name} is {values[name]} and would be ignored: {why}."
        for name, (is_read, why) in READ.items()
        if values[name] != default_of(name) and not is_read(recipe)
    }
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.epochs
    if warmup > epochs and "warmup_epochs" not in sentences:
        training = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        sentences["warmup_epochs"] = (
            f"warmup_epochs is {warmup:g}: in a training of {training} the rate never reaches lr."
        )
    return {name: sentences[name] for name in FIELDS if name in sentences}
