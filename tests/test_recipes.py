import dataclasses
import json
from pathlib import Path

import pytest

from cifar.errors import InputError, WorldError
from cifar.recipes import (
    RECIPES,
    Recipe,
    field_types,
    parse_field,
    read_recipe,
    recipe_for,
    to_json,
    training_share,
    with_settings,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert read_recipe(tmp_path / "recipe.json") == recipe


def test_scope_figures() -> None:
    cnn, resnet, previt, plain = (recipe_for(name) for name in ("cnn", "resnet", "previt", "vit-plain"))
    assert (cnn.epochs, cnn.batch_size, cnn.optimiser, cnn.lr, cnn.weight_decay) == (20, 128, "adamw", 1e-4, 0.01)
    assert (resnet.epochs, resnet.batch_size, resnet.optimiser, resnet.lr) == (50, 128, "sgd", 0.1)
    assert (resnet.momentum, resnet.nesterov, resnet.weight_decay, resnet.schedule) == (0.9, True, 5e-4, "plateau")
    assert (resnet.plateau_factor, resnet.plateau_patience, resnet.plateau_threshold) == (0.1, 3, 1e-3)
    assert (previt.epochs, previt.batch_size, previt.optimiser, previt.lr) == (10, 32, "adam", 1e-4)
    assert (previt.weight_decay, previt.schedule) == (1e-7, "cosine")
    assert (plain.lr, plain.optimiser) == (1e-5, "adam")
    assert plain.schedule != previt.schedule
    assert plain.epochs > previt.epochs


def test_models_get_the_recipe_of_their_family() -> None:
    assert recipe_for("resnet56") == dataclasses.replace(recipe_for("resnet"), model="resnet56")
    assert recipe_for("timm:resnet18").model == "timm:resnet18"
    assert recipe_for("timm:resnet18") == dataclasses.replace(recipe_for("my.module:net"), model="timm:resnet18")


VALUES = {"str": "reflect", "int": "3", "float": "0.25", "bool": "false"}
SPECIAL = {
    "optimiser": "adamw",
    "schedule": "linear",
    "precision": "bf16",
    "compile": "auto",
    "crop_mode": "reflect",
    "pool": "avg",
    "flip_mode": "alternate",
    "views": "shift",
    "num_folds": "3",
    "fold": "0",
}
TOGETHER = {
    "early_image_size": ["early_epochs=2"],
    "early_epochs": ["early_image_size=32"],
    "window": ["window_epochs=2"],
    "window_epochs": ["window=28"],
}


@pytest.mark.parametrize("name", field_types())
def test_every_field_can_be_set(name: str) -> None:
    kind = field_types()[name].__name__
    text = SPECIAL.get(name, VALUES[kind])
    value = getattr(with_settings(recipe_for("cnn"), [f"{name}={text}", *TOGETHER.get(name, [])]), name)
    assert str(value).lower() == text


@pytest.mark.parametrize(
    "text, value", [("true", True), ("Yes", True), ("1", True), ("false", False), ("no", False), ("0", False)]
)
def test_switches_both_ways(text: str, value: bool) -> None:
    assert parse_field("nesterov", text) is value


@pytest.mark.parametrize(
    "setting, words",
    [
        ("epoch=3", "Did you mean epochs"),
        ("colour=red", "has no field 'colour'"),
        ("epochs", "field=value"),
        ("epochs=3.5", "whole number"),
        ("epochs=0", "epochs is 0"),
        ("batch_size=-1", "batch_size is -1"),
        ("lr=fast", "is a number"),
        ("lr=nan", "finite"),
        ("lr=0", "greater than 0"),
        ("nesterov=perhaps", "true or false"),
        ("flip=1.5", "0 to 1"),
        ("views_below=1.5", "0 to 1"),
        ("contrast=-0.1", "from 0 to 1"),
        ("optimiser=lion", "sgd, adam, adamw"),
        ("num_folds=1", "num_folds"),
        ("fold=2", "fold"),
        ("crop_padding=17", "16 pixels"),
        ("momentum=0", "nesterov needs"),
        ("window=33", "from 1 to 32 pixels"),
        ("window=28", "given with window_epochs"),
        ("window_epochs=2", "given with window_epochs"),
    ],
)
def test_bad_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        with_settings(recipe_for("resnet"), [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first, second", [(4, 4), (0, 8), (7, 1)])
def test_early_and_window_epochs_may_fill_the_training(first: int, second: int) -> None:
    early = ["early_image_size=24", f"early_epochs={first}"] if first else ["early_image_size=0", "early_epochs=0"]
    settings = ["epochs=8", *early, "window=28", f"window_epochs={second}"]
    recipe = with_settings(recipe_for("speednet"), settings)
    assert (recipe.early_epochs, recipe.window_epochs) == (first, second)
    with pytest.raises(InputError, match=r"window_epochs is .* leave of the 8 epochs"):
        with_settings(recipe, [f"window_epochs={second + 1}"])


def test_choosing_without_validation_is_refused() -> None:
    with pytest.raises(InputError, match="validation images"):
        with_settings(recipe_for("resnet"), ["validation_fraction=0"])
    assert with_settings(recipe_for("cnn"), ["validation_fraction=0"]).validation_fraction == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"colour": 1}, "no field 'colour'"),
        ({"epochs": "3"}, "no int"),
        ({"epochs": True}, "no int"),
        ({"nesterov": 1}, "no bool"),
    ],
)
def test_a_recipe_file_with_a_fault_is_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(dataclasses.asdict(recipe_for("cnn")) | change))
    with pytest.raises(InputError, match=words):
        read_recipe(path)


def test_unreadable_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="No such file"):
        read_recipe(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "short.json").write_text('{"model": "cnn"}')
    for name in ("list.json", "broken.json", "short.json"):
        with pytest.raises(InputError, match=name):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    "settings, share", [([], 0.9), (["validation_fraction=0"], 1.0), (["num_folds=5"], 0.8), (["num_folds=2"], 0.5)]
)
def test_what_is_trained_on(settings: list[str], share: float) -> None:
    assert training_share(with_settings(recipe_for("cnn"), settings)) == pytest.approx(share)


def test_equal_recipes_are_equal_runs() -> None:
    assert recipe_for("cnn") == recipe_for("cnn")
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert not {"device", "folder", "wandb", "data"} & set(names)
