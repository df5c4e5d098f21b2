"""cifar.sweep.space: what is typed after --search, and the recipes of trials."""

from typing import Any

import pytest

from cifar.errors import InputError
from cifar.recipes import Recipe, recipe_for, to_mapping, with_fields
from cifar.sweep.space import name_of, of_folds, of_search, of_seeds, recipe_of
from cifar.training.crossval import fold_recipe

CNN = recipe_for("cnn")


def record(kind: str, recipe: Recipe, space: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "recipe": to_mapping(recipe), "space": space}


def test_ranges_and_choices_have_the_types_of_their_fields() -> None:
    typed = ["lr=0.02..0.5:log", "batch-size=64, 128", "optimiser.kind=sgd,adamw", "epochs=5..20", "flip=0..1"]
    assert of_search(CNN, typed, trials=40) == {
        "lr": {"low": 0.02, "high": 0.5, "log": True},
        "batch_size": {"choices": [64, 128]},
        "optimiser": {"choices": ["sgd", "adamw"]},
        "epochs": {"low": 5, "high": 20, "log": False},
        "flip": {"low": 0.0, "high": 1.0, "log": False},
    }


@pytest.mark.parametrize(
    "typed, words",
    [
        ("lr", "write it as field=LOW..HIGH"),
        ("lrr=1..2", "Did you mean lr?"),
        ("lr=0.1", "is one value: give LOW..HIGH"),
        ("lr=0.1-0.5", "is one value: give LOW..HIGH"),
        ("lr=0.1,x", "lr is x: it must be a number"),
        ("lr=0.5..0.1", "the first end must be the lower one"),
        ("lr=0.1..0.5:ln", "only :log may follow"),
        ("lr=-1..0.5", "it must be greater than 0"),
        ("flip=0..1:log", "begins above 0"),
        ("batch_size=64,64", "names a value twice"),
        ("batch_size=0..64", "it must be 1 or more"),
        ("optimiser=sgd..adam", "so name its values"),
        ("decay_all=false,maybe", "true or false"),
        ("crop_mode=zero,reflect", "would be ignored"),
        ("model=resnet20,resnet21", "resnet21"),
        ("seed=0,1", "nothing to search"),
        ("validation_fraction=0.1..0.2", "nothing to search"),
        ("batch_size=64,128", "There are only 2 recipes"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_what_to_type(typed: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        of_search(CNN, [typed], trials=3)
    assert words in str(error.value)


def test_a_field_is_searched_once_and_on_validation_images() -> None:
    with pytest.raises(InputError, match="names lr twice"):
        of_search(CNN, ["lr=0.1..0.2", "optimiser.lr=0.1..0.2"], trials=3)
    with pytest.raises(InputError, match="validation images"):
        of_search(with_fields(CNN, validation_fraction=0), ["lr=0.1..0.2"], trials=3)
    with pytest.raises(InputError, match="--trials 0"):
        of_search(CNN, ["lr=0.1..0.2"], trials=0)
    with pytest.raises(InputError, match="--seeds 1"):
        of_seeds(CNN, 1)


def test_recipes_of_trials() -> None:
    from_seven = with_fields(CNN, seed=7)
    seeds = record("seeds", from_seven, of_seeds(from_seven, 3))
    assert seeds["space"] == {"seed": {"choices": [7, 8, 9]}}
    assert recipe_of(seeds, {"seed": 9}) == with_fields(CNN, seed=9)
    of_three = with_fields(from_seven, num_folds=3)
    folds = record("folds", of_three, of_folds(of_three))
    assert recipe_of(folds, {"fold": 2}) == fold_recipe(of_three, 2)
    search = record("search", CNN, {})
    assert recipe_of(search, {"lr": 0.25, "optimiser": "adamw"}) == with_fields(CNN, lr=0.25, optimiser="adamw")


def test_folders_are_named_by_their_recipe_and_nothing_else() -> None:
    search = record("search", CNN, {})
    assert name_of(search, {"lr": 0.1}) == name_of(search, {"lr": 0.1})
    names = {name_of(search, {"lr": lr}) for lr in (0.1, 0.10000000000000002, 0.2)}
    assert len(names) == 3
    assert name_of(record("seeds", CNN, {}), {"seed": 4}).startswith("seed-4-")
