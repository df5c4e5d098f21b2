import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar.errors import InputError, WorldError
from cifar.recipes import (
    FIELDS,
    RECIPES,
    Optimiser,
    Recipe,
    Schedule,
    from_mapping,
    read_recipe,
    recipe_for,
    to_json,
    to_mapping,
    with_fields,
    with_settings,
)
from cifar.recipes.text import GROUPS, RETIRED
from cifar.training.augment import draw_lambda
from cifar.training.optimisers import build_optimiser


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert read_recipe(tmp_path / "recipe.json") == recipe


def test_figures_of_the_original_project() -> None:
    cnn, resnet, previt, plain = (recipe_for(name) for name in ("cnn", "resnet", "previt", "vit-plain"))
    assert (cnn.epochs, cnn.batch_size) == (20, 128)
    assert cnn.optimiser == Optimiser(kind="adamw", lr=1e-4, weight_decay=0.01)
    assert (resnet.epochs, resnet.batch_size) == (50, 128)
    assert resnet.optimiser == Optimiser(kind="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    assert resnet.schedule == Schedule(kind="plateau", plateau_factor=0.1, plateau_patience=3, plateau_threshold=1e-3)
    assert (previt.epochs, previt.batch_size) == (10, 32)
    assert previt.optimiser == Optimiser(kind="adam", lr=1e-4, weight_decay=1e-7)
    assert previt.schedule.kind == "cosine"
    assert (plain.optimiser.lr, plain.optimiser.kind) == (1e-5, "adam")
    assert plain.schedule != previt.schedule
    assert plain.epochs > previt.epochs


def test_models_get_the_recipe_of_their_family() -> None:
    assert recipe_for("resnet56") == with_fields(recipe_for("resnet"), model="resnet56")
    assert recipe_for("timm:resnet18").model == "timm:resnet18"
    assert recipe_for("timm:resnet18") == with_fields(recipe_for("my.module:net"), model="timm:resnet18")


SPECIAL: dict[str, object] = {
    "model": "vit",
    "model_name": "some",
    "weights": "file",
    "optimiser": "adamw",
    "schedule": "linear",
    "precision": "bf16",
    "crop_mode": "reflect",
    "pool": "avg",
    "flip_mode": "alternate",
    "views": "shift",
    "num_folds": 3,
    "fold": 0,
    "nesterov": False,
    "decay_all": False,
    "own_augmentation": "mine:noise",
}
TOGETHER = {"early_image_size": ["early_epochs=2"], "early_epochs": ["early_image_size=32"]}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("with_group", [False, True])
def test_every_field_can_be_set(name: str, with_group: bool) -> None:
    group, inner = FIELDS[name]
    default = to_mapping(recipe_for("cnn"))[name]
    value = SPECIAL.get(name, 0.25 if isinstance(default, float) else 3)
    typed = f"{group}.{inner}" if with_group and group else name
    recipe = with_settings(recipe_for("cnn"), [f"{typed}={value}", *TOGETHER.get(name, [])])
    assert to_mapping(recipe)[name] == value
    assert type(to_mapping(recipe)[name]) is type(value)


def test_no_two_groups_have_a_field_of_one_name() -> None:
    groups = {group for group, _ in FIELDS.values()}
    assert groups == {"", *GROUPS}
    counts = [len(dataclasses.fields(getattr(recipe_for("cnn"), group))) for group in GROUPS]
    assert len(FIELDS) == sum(counts) + len(dataclasses.fields(Recipe)) - len(GROUPS)


@pytest.mark.parametrize(
    "text, value", [("true", True), ("Yes", True), ("1", True), ("false", False), ("no", False), ("0", False)]
)
def test_switches_both_ways(text: str, value: bool) -> None:
    assert with_settings(recipe_for("cnn"), [f"nesterov={text}"]).optimiser.nesterov is value


@pytest.mark.parametrize(
    "setting, words",
    [
        ("epoch=3", "Did you mean epochs"),
        ("colour=red", "has no field 'colour'"),
        ("optimiser.colour=red", "has no field 'optimiser.colour'"),
        ("schedule.lr=1", "has no field 'schedule.lr'"),
        ("epochs", "field=value"),
        ("a\nb", r"^--set 'a\\nb': write it as field=value\.$"),
        ("lr=a\nb", r"^lr is 'a\\nb': it must be a number\.$"),
        ("epochs=3.5", "whole number"),
        ("epochs=0", "epochs is 0"),
        ("batch_size=-1", "batch_size is -1"),
        ("lr=fast", "must be a number"),
        ("lr=nan", "finite"),
        ("lr=0", "greater than 0"),
        ("nesterov=perhaps", "true or false"),
        ("flip=1.5", "at most 1"),
        ("views_below=1.5", "at most 1"),
        ("contrast=-0.1", "0 or more"),
        ("optimiser=lion", "'sgd', 'adam', 'adamw'"),
        ("num_folds=1", "num_folds"),
        ("fold=2", "fold"),
        ("crop_padding=17", "at most 16"),
        ("momentum=0", "nesterov needs"),
        ("early_epochs=3", "go together"),
        ("train_blocks=0", "--freeze"),
        ("layer_decay=0", "0.01 or more"),
        ("window=28", "has no field 'window'"),
    ],
)
def test_bad_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        with_settings(recipe_for("resnet"), [setting])
    assert "\n" not in str(caught.value)


NUMBERS = [name for name, value in to_mapping(recipe_for("cnn")).items() if type(value) in (int, float)]
EXTREMES = ["1e308", "-1e308", "1e16", "1e-320", "-1", str(10**18), str(2**63), "1" + "0" * 5000, "1e400", "inf", "0x1"]


@pytest.mark.parametrize("field", NUMBERS)
def test_every_number_has_bounds_that_can_be_computed_with(field: str) -> None:
    """Up to the seeds' 2⁶³ - 1 for whole numbers, and for others where float32 holds products and ratios of two."""
    for text in EXTREMES:
        refused, value = "", 1
        try:
            value = to_mapping(with_settings(recipe_for("cnn"), [f"{field}={text}"]))[field]
        except InputError as error:
            refused = str(error)
        assert not refused or (refused.startswith(field) and len(refused) < 200)
        assert -1 <= value < (2**63 if "seed" in field else 10**15)
        assert value == 0 or abs(value) >= 1e-15


def test_the_bounds_of_rates_do_not_overflow_an_update() -> None:
    for kind in ("sgd", "adam", "adamw", "muon", "muon-sgd"):
        for lr, decay in itertools.product((1e-15, 1e15), repeat=2):
            values = {"lr": lr, "weight_decay": decay, "head_lr": lr, "bias_lr": lr}
            recipe = with_fields(recipe_for("cnn"), optimiser=kind, **values)
            model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
            optimiser = build_optimiser(recipe.optimiser, model)
            model(torch.zeros(1, 3, 32, 32)).sum().backward()
            optimiser.step()  # a scalar beyond float32 is a RuntimeError


def test_the_bounds_of_mixing_give_a_weight() -> None:
    for alpha in (1e-15, 1e-3, 1_000):
        weights = [draw_lambda(alpha=alpha, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
        assert all(0 <= weight <= 1 for weight in weights)


def test_choosing_without_validation_is_refused() -> None:
    with pytest.raises(InputError, match="validation images"):
        with_settings(recipe_for("resnet"), ["validation_fraction=0"])
    assert with_settings(recipe_for("cnn"), ["validation_fraction=0"]).holdout.validation_fraction == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"colour": 1}, "no field 'colour'"),
        ({"epochs": "3"}, "epochs is '3': it must be a whole number"),
        ({"epochs": True}, "epochs is True: it must be a whole number"),
        ({"nesterov": 1}, "nesterov is 1: it must be true or false"),
        ({"model": 3}, "model is 3: it must be text"),
        ({"lr": None}, "lr is None: it must be a number"),
        ({"window": 24}, "window is 24, which this version cannot repeat"),
    ],
)
def test_a_recipe_file_with_a_fault_is_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(to_mapping(recipe_for("cnn")) | change))
    with pytest.raises(InputError, match=words):
        read_recipe(path)


def test_unreadable_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="No such file"):
        read_recipe(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "short.json").write_text('{"model": "cnn"}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "surrogate.json").write_text(to_json(with_fields(recipe_for("cnn"), model="x")).replace("x", "\\ud800"))
    for name in ("list.json", "broken.json", "short.json", "deep.json", "surrogate.json"):
        with pytest.raises(InputError, match=name):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    "settings, share", [([], 0.9), (["validation_fraction=0"], 1.0), (["num_folds=5"], 0.8), (["num_folds=2"], 0.5)]
)
def test_what_is_trained_on(settings: list[str], share: float) -> None:
    assert with_settings(recipe_for("cnn"), settings).holdout.training_fraction == pytest.approx(share)


def test_equal_recipes_are_equal_runs() -> None:
    assert recipe_for("cnn") == recipe_for("cnn")
    assert hash(recipe_for("cnn")) == hash(recipe_for("cnn"))
    assert not {"device", "folder", "wandb", "data", "compile", "kernels"} & set(FIELDS)


RECORDED = sorted((Path(__file__).parent.parent.parent / "results").rglob("recipe.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.parent.name))
def test_every_recorded_recipe_still_loads(path: Path) -> None:
    values = json.loads(path.read_text())
    recipe = read_recipe(path)
    assert to_mapping(recipe).items() >= {name: value for name, value in values.items() if name not in RETIRED}.items()
    summary = json.loads((path.parent / "summary.json").read_text()) if path.with_name("summary.json").exists() else {}
    assert not summary or from_mapping(summary["recipe"], origin="summary.json") == recipe


def test_recorded_recipes_are_there() -> None:
    assert len(RECORDED) >= 20


def test_no_field_is_without_a_reader() -> None:
    """Each field is read by the code that its group is named after, or by the loop."""
    package = Path(__file__).parent.parent.parent / "cifar"
    readers = {
        "": [*package.glob("training/*.py"), package / "models/__init__.py"],
        "network": [package / "models/__init__.py", *package.glob("training/*.py")],
        "optimiser": [*package.glob("training/*.py")],
        "schedule": [package / "training/schedules.py", package / "training/loop.py"],
        "augment": [*package.glob("training/*.py")],
        "tta": [package / "evaluation/predict.py"],
        "holdout": [package / "data/split.py", package / "data/cifar10.py"],
    }
    options = (package / "models/__init__.py").read_text()
    for flat, (group, inner) in FIELDS.items():
        text = "".join(path.read_text() for path in readers[group])
        assert f".{inner}" in text or (group == "network" and f'"{inner}"' in options), flat
