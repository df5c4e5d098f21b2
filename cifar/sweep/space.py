"""What varies in a study: seeds, folds, or fields of the recipe between two ends. Loads without Optuna and PyTorch."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from cifar.errors import InputError, Remark
from cifar.recipes import Recipe, from_mapping, to_mapping, with_fields
from cifar.recipes.names import check_name
from cifar.recipes.text import flat_name
from cifar.recipes.unused import typed_recipe
from cifar.runs import STUDY, run_name
from cifar.training.crossval import fold_recipe

MOST_TRIALS = 10_000
FORMS = "LOW..HIGH, LOW..HIGH:log or A,B,C"
# Fields that decide which images are held out, or how lucky a training is: no recipe is better for another value.
NO_CHOICE = ("seed", "split_seed", "validation_fraction", "num_folds", "fold")


def of_seeds(recipe: Recipe, number: int) -> dict[str, Any]:
    """The space of a study of seeds: the recipe's and those that follow.

    Raises:
        InputError: fewer than two, or more than any study has.
    """
    check_number(number, flag="--seeds", least=2)
    return {"seed": {"choices": [recipe.seed + offset for offset in range(number)]}}


def of_folds(recipe: Recipe) -> dict[str, Any]:
    """The space of a study of the folds that a recipe has."""
    return {"fold": {"choices": list(range(recipe.holdout.num_folds))}}


def of_search(recipe: Recipe, typed: Sequence[str], *, trials: int) -> dict[str, Any]:
    """The space of a search.

    Args:
        recipe: whose fields vary; it holds images out.
        typed: "field=0.02..0.5", "field=0.02..0.5:log" or "field=64,128,256" each.
        trials: recipes to try.

    Raises:
        InputError: a field that does not exist, is given twice or cannot be chosen, values that it does not take, or
            more trials than there are recipes; says what to type.
    """
    check_number(trials, flag="--trials", least=1)
    if not (recipe.holdout.validation_fraction or recipe.holdout.num_folds):
        raise InputError("A search compares accuracies on validation images: set validation_fraction above 0.")
    space: dict[str, Any] = {}
    for text in typed:
        name, equals, values = text.partition("=")
        if not equals:
            raise InputError(f"--search {text}: write it as field={FORMS}.")
        name = flat_name(name.strip().replace("-", "_"))
        if name in space:
            raise InputError(f"--search names {name} twice: give it once.")
        if name in NO_CHOICE:
            raise InputError(f"{name} is nothing to search: no value of it makes a better recipe. Set it with --set.")
        space[name] = dimension(recipe, name, values.strip())
    size = number_of_recipes(space)
    if trials > size:
        raise InputError(f"There are only {size} recipes in this space: give --trials {size} or fewer.")
    return space


def check_number(number: int, *, flag: str, least: int) -> None:
    """Raise InputError where a number of runs is not valid."""
    if not least <= number <= MOST_TRIALS:
        raise InputError(f"{flag} {number}: give a number from {least} to {MOST_TRIALS:,}.")


def dimension(recipe: Recipe, name: str, text: str) -> dict[str, Any]:
    """What a field may be, as study.json holds it, from what was typed after its "=".

    Raises:
        InputError: says which value is not valid, or what to type.
    """
    spelled, colon, scale = text.partition(":") if ".." in text else (text, "", "")
    low_text, dots, high_text = spelled.partition("..")
    if not dots:
        if "," not in text:
            raise InputError(f"--search {name}={text} is one value: give {FORMS}, or set it with --set.")
        choices = [value_of(recipe, name, choice.strip()) for choice in text.split(",")]
        if len(set(choices)) < len(choices):
            raise InputError(f"--search {name}={text} names a value twice: give each once.")
        return {"choices": choices}
    if colon and scale != "log":
        raise InputError(f"--search {name}={text}: only :log may follow a range, as in {name}={spelled}:log.")
    low, high = (value_of(recipe, name, end.strip()) for end in (low_text, high_text))
    if any(isinstance(end, (bool, str)) for end in (low, high)):
        raise InputError(f"--search {name}={text}: {name} is no number, so name its values: {name}=A,B.")
    if not low < high:
        raise InputError(f"--search {name}={text}: the first end must be the lower one.")
    if scale == "log" and low <= 0:
        raise InputError(f"--search {name}={text}: a logarithmic range begins above 0.")
    return {"low": low, "high": high, "log": scale == "log"}


def value_of(recipe: Recipe, name: str, text: str) -> Any:
    """The value of a field that a text stands for.

    Raises:
        InputError: the recipe cannot have it, or nothing would read it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)  # of other fields, once said
        try:
            if name == "model":
                check_name(text)
            return to_mapping(typed_recipe(recipe, [f"{name}={text}"], {}))[name]
        except InputError as error:
            raise InputError(f"--search {name}={text}: {error}") from None


def number_of_recipes(space: Mapping[str, Mapping[str, Any]]) -> float:
    """How many recipes a space has; infinitely many where a field is a fraction."""
    sizes = [
        len(each["choices"])
        if "choices" in each
        else (each["high"] - each["low"] + 1 if isinstance(each["low"], int) else math.inf)
        for each in space.values()
    ]
    return math.prod(sizes)


def recipe_of(record: Mapping[str, Any], values: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial.

    Args:
        record: what study.json holds.
        values: of the fields that vary.

    Raises:
        InputError: they exclude each other.
    """
    recipe = from_mapping(record["recipe"], origin=STUDY)
    if record["kind"] == "folds":
        return fold_recipe(recipe, values["fold"])
    return with_fields(recipe, **values)


def name_of(record: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The name of a trial's run folder; arguments and errors as of `recipe_of`."""
    return run_name(recipe_of(record, values), kind=record["kind"])
