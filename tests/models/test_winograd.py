"""Winograd's convolution against torch's in double precision, and where it does not apply."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.models import winograd
from cifar.models.compiled import use_compiled
from cifar.models.speednet import speednet
from cifar.models.winograd import Conv3x3, WinogradConvolution

SHAPES = [  # images, channels in and out, height, width
    (1, 8, 8, 1, 1),
    (7, 24, 64, 31, 31),  # channels that fill a panel and a half
    (5, 64, 40, 15, 15),
    (100, 16, 16, 3, 3),  # several images a tile's worth, the last ones fewer
    (13, 32, 16, 7, 6),
    (3, 16, 24, 4, 9),
    (33, 8, 8, 5, 3),
    (9, 40, 16, 6, 9),
]

# By the side of the tiles: how large the root mean square of the errors may be, of that of the values.
ROUNDING = {2: 2e-6, 3: 2.5e-6, 4: 3e-6, 5: 5e-6, 6: 1e-5, 7: 3e-5, 8: 4e-5}


def draw(num: int, num_in: int, num_out: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    features = torch.randn(num, num_in, height, width).to(memory_format=torch.channels_last)
    return features, torch.randn(num_out, num_in, 3, 3), torch.randn(num, num_out, height, width)


def convolve(features: Tensor, weight: Tensor) -> Tensor:
    outputs: Tensor = WinogradConvolution.apply(features, weight, False)
    return outputs


def results(layer: Callable[[Tensor, Tensor], Tensor], *drawn: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of features and of weights."""
    features, weight = (tensor.clone().requires_grad_() for tensor in drawn[:2])
    outputs = layer(features, weight)
    outputs.backward(drawn[2])
    assert features.grad is not None
    assert weight.grad is not None
    return [outputs.detach(), features.grad, weight.grad]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_double_precision(shape: tuple[int, ...]) -> None:
    drawn = draw(*shape)
    found = results(convolve, *drawn)
    exact = results(lambda x, w: F.conv2d(x, w, padding=1), *(tensor.double() for tensor in drawn))
    for ours, right in zip(found, exact, strict=True):
        assert ours.shape == right.shape
        rounding = ((ours - right).pow(2).mean() / right.pow(2).mean()).sqrt()
        assert rounding < ROUNDING[winograd.tile_side(*shape[3:])]


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_tiles_of_every_size(side: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "tile_side", lambda *_, **__: side)
    test_outputs_and_gradients_are_those_of_double_precision(shape)


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
def test_the_maps_are_exact(side: int) -> None:
    """In fractions: the outputs of a row of pixels and three weights, which no rounding blurs."""
    of_input, of_filter, of_output = winograd.maps(side)
    pixels = [Fraction(number**2 % 7) for number in range(side + 2)]
    weights = [Fraction(2), Fraction(-3), Fraction(5)]

    def apply(matrix: winograd.Map, vector: list[Fraction]) -> list[Fraction]:
        return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    products = [a * b for a, b in zip(apply(of_input, pixels), apply(of_filter, weights), strict=True)]
    outputs = apply([list(column) for column in zip(*of_output, strict=True)], products)
    assert outputs == [sum(weights[k] * pixels[first + k] for k in range(3)) for first in range(side)]


@pytest.mark.parametrize("size, side", [(1, 2), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (11, 6), (15, 8), (31, 8)])
def test_tiles_of_the_fewest_multiplications(size: int, side: int) -> None:
    assert winograd.tile_side(size, size) == side


@pytest.mark.parametrize("size, side", [(1, 2), (3, 3), (7, 7), (9, 6), (11, 6), (19, 4), (31, 8)])
def test_tiles_that_no_2x2_outputs_lie_across(size: int, side: int) -> None:
    assert winograd.tile_side(size, size, halve=True) == side


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
@pytest.mark.parametrize(
    "shape", [(7, 24, 64, 31, 31), (5, 16, 40, 15, 14), (9, 40, 16, 6, 9), (33, 8, 8, 7, 7), (100, 8, 16, 3, 2)]
)
def test_halved_outputs_are_the_largest_of_whole_ones(
    shape: tuple[int, ...], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiles of the same size the same but for the last bits, gradients included."""
    if side % 2 and side < max(shape[3:]):
        side = winograd.tile_side(*shape[3:], halve=True)
    monkeypatch.setattr(winograd, "tile_side", lambda *_, **__: side)
    features, weight, gradients = draw(*shape)
    gradients = gradients[:, :, : shape[3] // 2, : shape[4] // 2]
    found = results(lambda x, w: WinogradConvolution.apply(x, w, True), features, weight, gradients)
    whole = results(lambda x, w: F.max_pool2d(convolve(x, w), 2), features, weight, gradients)
    for ours, right in zip(found, whole, strict=True):
        assert ours.shape == right.shape
        assert (ours - right).abs().max() < 1e-5 * right.abs().max()


def test_of_equal_outputs_the_first_gets_the_gradient() -> None:
    """As torch's: filters of zeros make all outputs equal."""
    features, weight = draw(3, 8, 8, 6, 7)[0], torch.zeros(8, 8, 3, 3)
    gradients = draw(3, 8, 8, 3, 3)[2]
    found = results(lambda x, w: WinogradConvolution.apply(x, w, True), features, weight, gradients)
    exact = results(lambda x, w: F.max_pool2d(F.conv2d(x, w, padding=1), 2), features, weight, gradients)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [6, 7])
def test_the_same_bits_every_time(size: int) -> None:
    drawn = draw(100, 64, 32, size, size)
    first, second = (results(convolve, *drawn) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_features_that_need_no_gradient_get_none() -> None:
    features, weight, gradients = draw(9, 16, 16, 8, 8)
    whole = results(convolve, features, weight, gradients)
    weight.requires_grad_()
    convolve(features, weight).backward(gradients)
    assert weight.grad is not None
    assert torch.equal(weight.grad, whole[2])


@pytest.fixture
def conv() -> Conv3x3:
    made = Conv3x3(16, 24).to(memory_format=torch.channels_last)
    assert use_compiled(made) == ""
    return made


def as_torch(conv: Conv3x3, features: Tensor) -> Tensor:
    return F.conv2d(features, conv.weight, padding=1)


def test_where_it_applies_and_where_torch_convolves(conv: Conv3x3) -> None:
    """Told apart by their rounding, which differs."""
    features = draw(20, 16, 24, 12, 12)[0]
    assert not torch.equal(conv(features), as_torch(conv, features))
    torch.testing.assert_close(conv(features), as_torch(conv, features), rtol=1e-4, atol=1e-4)
    conv.in_c = False
    assert torch.equal(conv(features), as_torch(conv, features))
    conv.in_c = True
    rows = features.contiguous()  # not channels-last
    assert torch.equal(conv(rows), as_torch(conv, rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(features), as_torch(conv, features))
    assert conv(features[:0]).shape == (0, 24, 12, 12)
    double = conv.double()
    assert torch.equal(double(features.double()), as_torch(double, features.double()))
    halving = Conv3x3(16, 24, stride=2).to(memory_format=torch.channels_last)
    halving.in_c = True
    assert torch.equal(halving(features), F.conv2d(features, halving.weight, stride=2, padding=1))
    assert conv.float().halved(features).shape == (20, 24, 6, 6)
    torch.testing.assert_close(conv.halved(features), F.max_pool2d(as_torch(conv, features), 2), rtol=1e-4, atol=1e-4)
    assert torch.equal(conv.halved(rows), F.max_pool2d(as_torch(conv, rows), 2))
    with pytest.raises(RuntimeError, match="too small"):
        conv.halved(features[:, :, :1].contiguous(memory_format=torch.channels_last))
    colours = Conv3x3(3, 16).to(memory_format=torch.channels_last)
    colours.in_c = True
    assert torch.equal(colours(features[:, :3]), as_torch(colours, features[:, :3]))


def test_an_exported_network_has_plain_convolutions(conv: Conv3x3) -> None:
    features = draw(2, 16, 24, 12, 12)[0]
    program = torch.export.export(conv.eval(), (features,))
    assert "conv2d" in program.graph_module.code
    assert torch.equal(program.module()(features), as_torch(conv, features))


def test_all_convolutions_of_a_network_are_switched() -> None:
    model = speednet(widths=(8, 16, 16)).to(memory_format=torch.channels_last).eval()
    images = torch.rand(10, 3, 32, 32).to(memory_format=torch.channels_last)
    before = model(images)
    use_compiled(model)
    switched = [module.in_c for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert switched == [True] * 6
    after = model(images)
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
