"""The recipe that a person asks for: by the name of a network, by a recipe's, or from a file, with what they change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar.errors import InputError
from cifar.recipes import RECIPES, Recipe, recipe_for
from cifar.recipes.names import check_name, is_own
from cifar.recipes.text import read_recipe, with_fields
from cifar.recipes.unused import typed_recipe


def choose_recipe(
    model: str, recipe: str | Path | Recipe = "", *, settings: Sequence[str] = (), fields: Mapping[str, Any]
) -> Recipe:
    """The recipe that is asked for; a recipe decides, a model then puts another network into it.

    Args:
        model: a network's or a recipe's name, as of `recipe_for`; "" for none.
        recipe: a recipe's name, a recipe.json, or the recipe itself; "" for the model's.
        settings: "field=value" or "group.field=value" each.
        fields: values by field; None is not given.

    Raises:
        InputError: no such model, recipe or field, or a value that is not valid.
    """
    if not model and not recipe:
        raise InputError(f"Name a model: -m with one of {', '.join(RECIPES)}.")
    if model:
        check_name(model, also=RECIPES)
    if not recipe:
        chosen = recipe_for(model)
    elif isinstance(recipe, Recipe):
        chosen = recipe
    elif recipe in RECIPES:
        chosen = RECIPES[str(recipe)]()
    elif str(recipe).endswith(".json") or Path(recipe).exists():
        chosen = read_recipe(Path(recipe))
    else:
        raise InputError(f"There is no recipe {str(recipe)!r}: choose from {', '.join(RECIPES)} or name a recipe.json.")
    if recipe and model:
        chosen = with_fields(chosen, model=recipe_for(model).model)
    check_name(chosen.model)
    return typed_recipe(chosen, settings, {name: value for name, value in fields.items() if value is not None})


def own_code(recipe: Recipe) -> list[str]:
    """The names of the user's functions that a training by this recipe imports and runs."""
    model, augmentation = recipe.model, recipe.augment.own_augmentation
    return [model] * is_own(model) + [augmentation] * bool(augmentation)


def frozen(recipe: Recipe, train_blocks: int) -> Recipe:
    """The recipe with only the head and the last blocks trained, and no augmentation: activations are computed once."""
    off: dict[str, object] = {
        "crop_padding": 0,
        "flip": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
    off["own_augmentation"] = ""
    return with_fields(recipe, train_blocks=train_blocks, **off)
