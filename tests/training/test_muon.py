"""Muon against PyTorch's own, which takes matrices alone and works in bf16, and against the singular vectors."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cifar.data.split import Split
from cifar.errors import InputError
from cifar.models import build_model
from cifar.recipes import recipe_for, with_fields, with_settings
from cifar.training.loop import train
from cifar.training.muon import (
    Muon,
    iterate,
    iterate_squares,
    orthogonalise,
    orthogonalise_by_shape,
    orthogonalise_padded,
)
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


def test_all_at_once_are_as_shape_by_shape() -> None:
    shapes = [(8, 20), (20, 8), (8, 20), (1, 5), (30, 3), (16, 16)]
    matrices = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for ours, theirs in zip(
        orthogonalise_padded(matrices, steps=5), orthogonalise_by_shape(matrices, steps=5), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_bf16_it_is_the_same_iteration() -> None:
    x = draw(3, 16, 40)
    x /= x.norm(dim=(1, 2), keepdim=True)
    exact = iterate(x.double(), steps=5)
    assert (iterate(x.bfloat16(), steps=5) - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_squares_alone_give_the_same_iteration(steps: int) -> None:
    """Singular values from 1 to 1e-5, of which the squares are lost in fp32, against the iteration in double."""
    left, _, right = torch.linalg.svd(draw(3, 32, 96), full_matrices=False)
    x = left @ torch.diag_embed(torch.logspace(0, -5, 32).expand(3, -1)) @ right
    exact = iterate(x.double(), steps=steps)
    torch.testing.assert_close(iterate_squares(x.double(), steps=steps), exact)
    for way in (iterate, iterate_squares):
        assert (way(x, steps=steps) - exact).norm() < 1e-3 * exact.norm()


def test_steps_equal_those_of_torch() -> None:
    """Two networks of linear layers: PyTorch's Muon and AdamW, each with its own part, against ours with both."""
    torch.manual_seed(0)
    pixels_to_12 = (nn.AdaptiveAvgPool2d(2), nn.Flatten())
    ours = nn.Sequential(*pixels_to_12, nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 7), nn.Tanh(), nn.Linear(7, 10))
    before = ours[2].weight.detach().clone()
    theirs = copy.deepcopy(ours)
    matrices = [theirs[2].weight, theirs[4].weight]
    rest = [parameter for parameter in theirs.parameters() if all(parameter is not matrix for matrix in matrices)]
    recipe = with_settings(recipe_for("cnn"), ["optimiser=muon", "lr=0.02", "weight_decay=0.1", "momentum=0.9"])
    optimiser = build_optimiser(recipe.optimiser, ours)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.02, weight_decay=0.1)
    for step in range(5):
        inputs = draw(16, 3, 2, 2, seed=step)
        for network, optimisers in ((ours, [optimiser]), (theirs, [muon, adamw])):
            network.zero_grad()
            network(inputs).square().sum().backward()
            for one in optimisers:
                one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.004)  # theirs is in bf16
    assert (ours[2].weight - theirs[2].weight).norm() < 0.03 * (ours[2].weight - before).norm()


def test_filters_are_matrices_and_the_rest_is_adamws() -> None:
    model = build_model(recipe_for("resnet"))
    recipe = with_settings(recipe_for("resnet"), ["optimiser=muon", "decay_all=false"])
    optimiser = build_optimiser(recipe.optimiser, model)
    kinds = {
        id(parameter): (group["kind"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    named = {name: kinds[id(parameter)] for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            assert named[name] == ("muon", 5e-4), name
        else:
            assert named[name] == ("adamw", 5e-4 if parameter.ndim == 2 else 0.0), name
    filters = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    before = filters.detach().clone()
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimiser.step()
    change = (before * (1 - recipe.optimiser.lr * 5e-4) - filters.detach()) / recipe.optimiser.lr
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
    optimiser = build_optimiser(recipe.optimiser, model)
    steps(model, optimiser, range(3))
    twin = copy.deepcopy(model)
    twins = build_optimiser(recipe.optimiser, twin)
    twins.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(model, optimiser, range(3, 5))
    steps(twin, twins, range(3, 5))
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_rates_by_layer_are_refused() -> None:
    with pytest.raises(InputError, match="leave it out with muon"):
        with_fields(recipe_for("previt"), optimiser="muon", layer_decay=0.5)


def test_shared_layers_are_updated_once_and_networks_without_layers_refused() -> None:
    layer = nn.Linear(3072, 3072, bias=False)
    tied = nn.Linear(3072, 3072, bias=False)
    tied.weight = layer.weight
    model = nn.Sequential(nn.Flatten(), layer, layer, tied, nn.Linear(3072, 10))
    recipe = with_settings(recipe_for("cnn"), ["optimiser=muon", "lr=0.01"])
    optimiser = build_optimiser(recipe.optimiser, model)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    assert sorted(map(id, parameters)) == sorted(map(id, model.parameters()))
    with pytest.raises(InputError, match="no convolution or linear layer for muon: give --set optimiser=adamw"):
        build_optimiser(recipe.optimiser, nn.Sequential(nn.Flatten(), nn.LayerNorm(3072)))


def test_a_parameter_without_a_gradient_stays() -> None:
    used, unused = nn.Parameter(draw(3, 4)), nn.Parameter(draw(3, 4))
    before = unused.detach().clone()
    groups = [{"params": [used, unused], "weight_decay": 0.1, "kind": "muon"}]
    used.sum().backward()
    Muon(groups, lr=0.1).step()
    assert torch.equal(unused, before)
    assert not torch.equal(used, draw(3, 4))


def test_filters_of_a_fixed_norm_and_sgd_for_the_rest() -> None:
    """One step and a second one of the reference's optimiser, written out by hand."""
    recipe = with_fields(recipe_for("speednet-reference"), head_lr=2.0, bias_lr=0.5)
    torch.manual_seed(0)
    model = build_model(recipe).double()
    optimiser = build_optimiser(recipe.optimiser, model)
    twin = copy.deepcopy(model)
    named = dict(twin.named_parameters())
    biases = [parameter for name, parameter in named.items() if parameter.ndim == 1 and parameter.requires_grad]
    decay, head_lr, bias_lr = recipe.optimiser.weight_decay, recipe.optimiser.head_lr, recipe.optimiser.bias_lr
    plain = torch.optim.SGD(
        [
            {"params": [named["head.weight"]], "lr": head_lr, "weight_decay": decay / head_lr},
            {"params": biases, "lr": bias_lr, "weight_decay": decay / bias_lr},
        ],
        momentum=recipe.optimiser.rest_momentum, nesterov=True,
    )  # fmt: skip
    momenta: dict[str, torch.Tensor] = {}
    for seed in range(2):
        pixels = draw(8, 3, 32, 32, seed=seed).double()
        for network, stepper in ((model, optimiser), (twin, plain)):
            network.train()
            network.zero_grad()
            network(pixels).square().sum().backward()
            stepper.step()
        with torch.no_grad():
            for name, parameter in named.items():
                if parameter.ndim == 4 and parameter.grad is not None:
                    momenta[name] = momenta.get(name, 0) * recipe.optimiser.momentum + parameter.grad
                    direction = parameter.grad + recipe.optimiser.momentum * momenta[name]
                    rows = len(parameter)
                    update = orthogonalise(direction.view(1, rows, -1), steps=3).view_as(parameter)
                    parameter.copy_(parameter * rows**0.5 / parameter.norm() - recipe.optimiser.lr * update)
    assert len(momenta) == 6
    for name, mine in model.named_parameters():
        torch.testing.assert_close(mine, named[name], rtol=1e-6, atol=1e-8, msg=name)


def test_the_whitening_bias_is_trained_for_its_epochs(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(
        recipe_for("speednet-reference"), model="speednet-narrow", epochs=3, batch_size=100, whitening_epochs=1,
        head_lr=1.0, bias_lr=0.1,
    )  # fmt: skip
    biases: list[torch.Tensor] = []

    class Watch:
        def log(self, row: Mapping[str, float]) -> None:
            assert len(biases) == row["epoch"] - 1
            biases.append(load_file(tmp_path / "model.safetensors")["whitening.bias"])

        def close(self) -> None: ...

    empty = few[1].select(torch.arange(0))
    state = train(recipe, few[0], empty, folder=tmp_path, loggers=[Watch()])
    assert biases[0].abs().max() > 0
    assert torch.equal(biases[0], biases[1])
    assert torch.equal(biases[0], biases[2])
    rates = [row["learning_rate"] for row in state.rows]
    assert rates[0] > rates[1] > rates[2] > 0  # of the filters
    assert not state.model.whitening.bias.requires_grad  # type: ignore[union-attr]


class HeadFirst(nn.Module):
    """A network whose head is defined before its other layers, as many are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 10)
        self.conv = nn.Conv2d(3, 8, 3, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["muon", "muon-sgd"])
def test_head_is_the_layer_that_gives_the_logits_wherever_it_is_defined(kind: str) -> None:
    model = HeadFirst().train()
    optimiser = build_optimiser(with_fields(recipe_for("cnn"), optimiser=kind).optimiser, model)
    kinds = {id(one): group["kind"] for group in optimiser.param_groups for one in group["params"]}
    assert kinds[id(model.conv.weight)].startswith("muon")
    assert not kinds[id(model.head.weight)].startswith("muon")
    assert model.training
    assert not list(model.head._forward_hooks)


def test_a_step_allocates_no_tensor_per_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step momentum is only updated."""
    weights = [nn.Parameter(draw(4, 6, seed=seed)) for seed in range(3)]
    optimiser = Muon([{"params": weights[:2], "kind": "muon"}, {"params": weights[2:], "kind": "sgd"}], lr=0.1)
    for step in range(2):
        for weight in weights:
            weight.grad = draw(4, 6, seed=9)
        if step:
            monkeypatch.setattr(torch, "zeros_like", lambda _: pytest.fail("momentum was allocated again"))
        optimiser.step()
