"""Muon against PyTorch's own, which takes matrices alone and works in bf16, and against the singular vectors."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from cifar.errors import InputError
from cifar.models import build_model
from cifar.recipes import recipe_for, with_settings
from cifar.training.muon import Muon, orthogonalise
from cifar.training.optimisers import build_optimiser


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows, columns", [(8, 20), (20, 8), (16, 16), (1, 5)])
def test_singular_vectors_stay_and_values_come_near_one(rows: int, columns: int) -> None:
    matrices = draw(3, rows, columns)
    result = orthogonalise(matrices, steps=5)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    new_values = left.mT @ result @ right.mT
    diagonal = new_values.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(new_values, torch.diag_embed(diagonal), rtol=0, atol=1e-4)
    assert diagonal[values > 0.01 * values.norm(dim=1, keepdim=True)].min() > 0.6
    assert diagonal.max() < 1.3


def test_each_matrix_is_on_its_own() -> None:
    matrices = draw(4, 6, 9) * torch.tensor([1e-3, 1.0, 10.0, 1e3])[:, None, None]
    together = orthogonalise(matrices, steps=5)
    for matrix, result in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix[None], steps=5)[0], result)
    torch.testing.assert_close(orthogonalise(torch.zeros(1, 3, 3), steps=5), torch.zeros(1, 3, 3))


def test_steps_equal_those_of_torch() -> None:
    """Two networks of linear layers: PyTorch's Muon and AdamW, each with its own part, against ours with both."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 7), nn.Tanh(), nn.Linear(7, 10))
    before = ours[0].weight.detach().clone()
    theirs = copy.deepcopy(ours)
    matrices = [theirs[0].weight, theirs[2].weight]
    rest = [parameter for parameter in theirs.parameters() if all(parameter is not matrix for matrix in matrices)]
    recipe = with_settings(recipe_for("cnn"), ["optimiser=muon", "lr=0.02", "weight_decay=0.1", "momentum=0.9"])
    optimiser = build_optimiser(recipe, ours)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.02, weight_decay=0.1)
    for step in range(5):
        inputs = draw(16, 12, seed=step)
        for network, optimisers in ((ours, [optimiser]), (theirs, [muon, adamw])):
            network.zero_grad()
            network(inputs).square().sum().backward()
            for one in optimisers:
                one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.004)  # theirs is in bf16
    assert (ours[0].weight - theirs[0].weight).norm() < 0.03 * (ours[0].weight - before).norm()


def test_filters_are_matrices_and_the_rest_is_adamws() -> None:
    model = build_model(recipe_for("resnet"))
    recipe = with_settings(recipe_for("resnet"), ["optimiser=muon", "decay_all=false"])
    optimiser = build_optimiser(recipe, model)
    kinds = {
        id(parameter): (group["orthogonalise"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    named = {name: kinds[id(parameter)] for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            assert named[name] == (True, 5e-4), name
        else:
            assert named[name] == (False, 5e-4 if parameter.ndim == 2 else 0.0), name
    filters = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    before = filters.detach().clone()
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimiser.step()
    change = (before * (1 - recipe.lr * 5e-4) - filters.detach()) / recipe.lr
    # Root mean square of an orthogonal [R, C] is 1/√max(R, C); the scale makes it AdamW's usual 0.2.
    assert change.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.3)


def test_what_is_saved_goes_on_the_same() -> None:
    def steps(model: nn.Module, optimiser: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            optimiser.zero_grad()
            model(draw(4, 3, 32, 32, seed=seed)).square().sum().backward()
            optimiser.step()

    recipe = with_settings(recipe_for("cnn"), ["optimiser=muon", "lr=0.01"])
    torch.manual_seed(0)
    model = build_model(recipe)
    optimiser = build_optimiser(recipe, model)
    steps(model, optimiser, range(3))
    twin = copy.deepcopy(model)
    twins = build_optimiser(recipe, twin)
    twins.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(model, optimiser, range(3, 5))
    steps(twin, twins, range(3, 5))
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_rates_by_layer_are_refused() -> None:
    with pytest.raises(InputError, match="leave it out with muon"):
        dataclasses.replace(recipe_for("previt"), optimiser="muon", layer_decay=0.5)


def test_a_parameter_without_a_gradient_stays() -> None:
    used, unused = nn.Parameter(draw(3, 4)), nn.Parameter(draw(3, 4))
    before = unused.detach().clone()
    groups = [{"params": [used, unused], "weight_decay": 0.1, "orthogonalise": True}]
    used.sum().backward()
    Muon(groups, lr=0.1).step()
    assert torch.equal(unused, before)
    assert not torch.equal(used, draw(3, 4))
