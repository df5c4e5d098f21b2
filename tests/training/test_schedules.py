import math

import pytest
import torch

from cifar.errors import InputError
from cifar.models import build_model
from cifar.recipes import Optimiser, Recipe, recipe_for, with_fields
from cifar.training.optimisers import build_optimiser, parameter_groups
from cifar.training.schedules import lr_factor, plateau

RECIPE = Recipe(model="cnn", epochs=10, batch_size=1, optimiser=Optimiser(lr=0.1))


@pytest.mark.parametrize("schedule, middle, end", [("constant", 1, 1), ("cosine", 0.5, 0), ("linear", 0.5, 0)])
def test_ends_and_middle(schedule: str, middle: float, end: float) -> None:
    recipe = with_fields(RECIPE, schedule=schedule)
    assert [lr_factor(recipe.schedule, time, epochs=10) for time in (0, 5, 10)] == pytest.approx([1, middle, end])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_warm_up_rises_and_then_the_whole_schedule_follows(schedule: str) -> None:
    warm = with_fields(RECIPE, schedule=schedule, warmup_epochs=4).schedule
    plain = with_fields(RECIPE, schedule=schedule).schedule
    assert [lr_factor(warm, time, epochs=10) for time in (0, 1, 2, 4)] == pytest.approx([0, 0.25, 0.5, 1])
    after_warmup = [lr_factor(warm, 4 + time, epochs=10) for time in range(7)]
    assert after_warmup == pytest.approx([lr_factor(plain, time, epochs=6) for time in range(7)])


def test_parameters_that_train_for_some_epochs_fall_linearly_to_zero() -> None:
    schedule = with_fields(RECIPE, schedule="cosine", warmup_epochs=2).schedule
    factors = [lr_factor(schedule, time, epochs=10, train_epochs=4) for time in (0, 1, 2, 4, 9)]
    assert factors == pytest.approx([1, 0.75, 0.5, 0, 0])


def test_cosine_equals_torch() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=10)
    for epoch in range(10):
        cosine = with_fields(RECIPE, schedule="cosine").schedule
        assert lr_factor(cosine, epoch, epochs=10) == pytest.approx(torchs.get_last_lr()[0])
        optimiser.step()
        torchs.step()


def test_plateau_cuts_after_patience_and_only_there() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    recipe = recipe_for("resnet")
    scheduler = plateau(recipe.schedule, optimiser)
    assert scheduler is not None
    rates = []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7):
        scheduler.step(accuracy)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert plateau(RECIPE.schedule, optimiser) is None


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("decay_all", [True, False])
def test_fused_optimisers_step_as_torchs_plain_ones(optimiser: str, decay_all: bool) -> None:
    torch.manual_seed(0)
    model, twin = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    recipe = with_fields(RECIPE, optimiser=optimiser, weight_decay=0.1, decay_all=decay_all)
    ours = build_optimiser(recipe.optimiser, model)
    decays, spared = [twin.weight], [twin.bias]
    groups = [{"params": decays}, {"params": spared, "weight_decay": 0.1 if decay_all else 0.0}]
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser]
    extra = {"momentum": 0.9, "nesterov": True} if optimiser == "sgd" else {}
    theirs = plain(groups, lr=0.1, weight_decay=0.1, fused=False, foreach=False, **extra)
    inputs = torch.randn(4, 5)
    for _ in range(3):
        for network, stepper in ((model, ours), (twin, theirs)):
            stepper.zero_grad()
            network(inputs).square().sum().backward()
            stepper.step()
    torch.testing.assert_close(model.weight, twin.weight)
    torch.testing.assert_close(model.bias, twin.bias)


def test_rates_fall_from_the_head_down() -> None:
    recipe = with_fields(
        recipe_for("previt"), model_name="test_vit", image_size=32, lr=0.1, layer_decay=0.5, weight_decay=0.3
    )
    model = build_model(recipe, pretrained=False)
    optimiser = build_optimiser(recipe.optimiser, model)
    rates = {id(one): group["lr"] for group in optimiser.param_groups for one in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(rates) == len(named)
    depth = max(int(name.split(".")[2]) for name in named if ".blocks." in name) + 1
    assert named["network.head.weight"] == 0.1
    assert named["network.norm.weight"] == 0.05  # timm counts the last norm to the last block
    for block in range(depth):
        assert named[f"network.blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.1 * 0.5 ** (depth - block))
    assert named["network.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.5 ** (depth + 1))
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 0.3}
    plain = build_optimiser(with_fields(recipe, layer_decay=1.0).optimiser, model)
    assert {group["lr"] for group in plain.param_groups} == {0.1}
    with pytest.raises(InputError, match="previt and timm"):
        build_optimiser(with_fields(RECIPE, layer_decay=0.5).optimiser, build_model(RECIPE))


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1, decay_all=False)
    assert sum(len(group["params"]) for group in groups) == 2  # type: ignore[arg-type]
    assert not math.isnan(sum(float(group["weight_decay"]) for group in groups))  # type: ignore[arg-type]
