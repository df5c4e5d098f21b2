"""Fields that nothing reads, against what the optimiser, the schedule and the augmentation do with other values."""

import warnings

import pytest
import torch

from cifar.data.split import Split
from cifar.errors import InputError, Remark
from cifar.models import build_model
from cifar.recipes import RECIPES, Recipe, recipe_for, typed_recipe, with_fields, with_settings
from cifar.recipes.unused import READ, unused
from cifar.training.augment import augment, draw_augmentation
from cifar.training.optimisers import build_optimiser
from cifar.training.schedules import lr_factor, plateau

OTHER = {
    "momentum": 0.5, "nesterov": False, "rest_momentum": 0.5, "head_lr": 3.0, "bias_lr": 3.0, "muon_steps": 2,
    "whitening_epochs": 2, "decay_all": False, "warmup_epochs": 2.0, "plateau_factor": 0.5, "plateau_patience": 1,
    "plateau_threshold": 0.5, "crop_mode": "reflect", "flip_mode": "alternate", "views_below": 0.5,
    "validation_fraction": 0.2, "split_seed": 3,
}  # fmt: skip


def test_every_rule_has_another_value() -> None:
    assert set(OTHER) == set(READ)


def trained_by(recipe: Recipe) -> list[object]:
    """Everything that decides an update besides the gradients."""
    torch.manual_seed(0)
    optimiser = build_optimiser(recipe.optimiser, build_model(recipe))
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        | {"shapes": [p.shape for p in group["params"]]}
        for group in optimiser.param_groups
    ]
    scheduler = plateau(recipe.schedule, optimiser)
    cuts = (scheduler.factor, scheduler.patience, scheduler.threshold) if scheduler else None  # type: ignore[attr-defined]
    rates = None if scheduler else [lr_factor(recipe.schedule, epoch, epochs=9) for epoch in range(9)]
    return [type(optimiser).__name__, groups, cuts, rates]


@pytest.mark.parametrize("model", ["cnn", "speednet"])
@pytest.mark.parametrize("settings", [
    ["optimiser=sgd"], ["optimiser=adam"], ["optimiser=adamw", "schedule=cosine"], ["optimiser=muon"],
    ["optimiser=muon-sgd", "schedule=plateau"],
])  # fmt: skip
def test_what_is_called_unused_changes_nothing_and_the_rest_does(model: str, settings: list[str]) -> None:
    recipe = with_settings(with_fields(recipe_for("cnn"), model=model, epochs=9, weight_decay=0.1), settings)
    for name in list(OTHER)[: list(OTHER).index("crop_mode")]:
        changed = with_fields(recipe, **{name: OTHER[name]})
        assert (trained_by(changed) == trained_by(recipe)) == (name in unused(changed)), name


@pytest.mark.parametrize("settings, used", [({}, False), ({"crop_padding": 2}, True)])
def test_a_crop_mode_without_a_crop_is_unused(settings: dict[str, object], used: bool) -> None:
    pixels = torch.arange(3 * 32 * 32).view(1, 3, 32, 32).to(torch.uint8)
    split, generator = Split(pixels, torch.zeros(1)), torch.Generator()
    images = [
        augment(
            split,
            {
                "indices": torch.zeros(1, dtype=torch.int64),
                **draw_augmentation(1, recipe.augment, generator=generator.manual_seed(1)),
            },
            recipe.augment,
            static=False,
        )[0]
        for recipe in (with_fields(recipe_for("cnn"), crop_mode=mode, **settings) for mode in ("zero", "reflect"))
    ]
    assert torch.equal(*images) != used
    assert ("crop_mode" in unused(with_fields(recipe_for("cnn"), crop_mode="reflect", **settings))) != used


@pytest.mark.parametrize("typed, remedy", [
    ("flip_mode=alternate", "flip=0.5"), ("views_below=0.5", "views=mirror"), ("warmup_epochs=3", "schedule=linear"),
    ("momentum=0.5", "optimiser=sgd"), ("plateau_patience=1", "schedule=plateau"),
    ("split_seed=3", "validation_fraction=0.1"),
])  # fmt: skip
def test_typed_and_unused_is_refused(typed: str, remedy: str) -> None:
    recipe = with_settings(recipe_for("cnn"), ["schedule=plateau", "validation_fraction=0.1"])
    if "plateau" in remedy:
        recipe = recipe_for("cnn")
    if "fraction" in remedy:
        recipe = with_settings(recipe_for("cnn"), ["validation_fraction=0"])
    field = typed.partition("=")[0]
    with pytest.raises(InputError, match=f"^{field} is .* would be ignored: .*Leave it out.$"):
        typed_recipe(recipe, [typed], {})
    assert not unused(typed_recipe(recipe, [typed, remedy], {}))


def test_a_field_of_the_recipe_that_is_no_longer_read_is_said() -> None:
    with pytest.warns(Remark, match=r"warmup_epochs is 2: in a training of 1 epoch the rate never reaches lr") as said:
        typed_recipe(recipe_for("vit"), [], {"epochs": 1})
    assert len(said) == 1
    with pytest.warns(Remark, match="momentum is 0.95 and would be ignored"):
        typed_recipe(recipe_for("resnet-better"), ["optimiser=adamw"], {})
    with pytest.raises(InputError, match="in a training of 20 epochs the rate never reaches"):
        typed_recipe(recipe_for("cnn"), ["warmup_epochs=20.5"], {})


def test_flags_count_with_the_settings_beside_them() -> None:
    """A warm-up is judged by the epochs of the same command, and a fold by its folds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert typed_recipe(recipe_for("cnn"), ["warmup_epochs=30"], {"epochs": 40}).schedule.warmup_epochs == 30
        assert typed_recipe(recipe_for("cnn"), ["fold=2"], {"num_folds": 3}).holdout.fold == 2


def test_the_named_recipes_have_no_unused_fields() -> None:
    assert not [name for name, make in RECIPES.items() if unused(make())]
