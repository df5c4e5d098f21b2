"""The native 3×3 convolution, by Winograd's method, against PyTorch's in double precision, and where it is not used."""

import platform
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar.kernels import build, winograd
from cifar.kernels.build import using
from cifar.kernels.ops import conv3x3, conv3x3_pool
from cifar.kernels.winograd import Winograd
from cifar.models.layers import Conv3x3
from cifar.models.speednet import speednet

SHAPES = [  # images, input and output channels, height, width
    (1, 8, 8, 1, 1),
    (7, 24, 64, 31, 31),  # channels that fill a panel and a half
    (5, 64, 40, 15, 15),
    (100, 16, 16, 3, 3),  # several images a tile's worth, the last ones fewer
    (13, 32, 16, 7, 6),
    (3, 16, 24, 4, 9),
    (33, 8, 8, 5, 3),
    (9, 40, 16, 6, 9),
]

AVX2 = ("-mno-avx512f",) if platform.machine() == "x86_64" else ()  # what a CPU without AVX-512 has, at most

# By the side of the tiles: how large the root mean square of the errors may be, of that of the values.
ROUNDING = {2: 2e-6, 3: 2.5e-6, 4: 3e-6, 5: 5e-6, 6: 1e-5, 7: 3e-5, 8: 4e-5}


def draw(num: int, num_in: int, num_out: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    features = torch.randn(num, num_in, height, width).to(memory_format=torch.channels_last)
    return features, torch.randn(num_out, num_in, 3, 3), torch.randn(num, num_out, height, width)


def convolve(features: Tensor, weight: Tensor, *, side: int = 0, pool: bool = False) -> Tensor:
    """By tiles of this side, or of the one that would be chosen."""
    side = side or winograd.tile_side(*features.shape[2:], pool=pool)
    outputs: Tensor = Winograd.apply(features, weight, pool, side, winograd.compile_for(side))
    return outputs


def results(layer: Callable[[Tensor, Tensor], Tensor], *drawn: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of features and of weights."""
    features, weight = (tensor.clone().requires_grad_() for tensor in drawn[:2])
    outputs = layer(features, weight)
    outputs.backward(drawn[2])
    assert features.grad is not None
    assert weight.grad is not None
    return [outputs.detach(), features.grad, weight.grad]


def check_rounding(layer: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], *, side: int) -> None:
    drawn = draw(*shape)
    native = results(layer, *drawn)
    exact = results(lambda x, w: F.conv2d(x, w, padding=1), *(tensor.double() for tensor in drawn))
    for ours, right in zip(native, exact, strict=True):
        assert ours.shape == right.shape
        rounding = ((ours - right).pow(2).mean() / right.pow(2).mean()).sqrt()
        assert rounding < ROUNDING[side]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_double_precision(shape: tuple[int, ...]) -> None:
    check_rounding(conv3x3, shape, side=winograd.tile_side(*shape[3:]))


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_tiles_of_every_size(side: int, shape: tuple[int, ...]) -> None:
    check_rounding(lambda x, w: convolve(x, w, side=side), shape, side=side)


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
def test_transform_matrices_are_exact(side: int) -> None:
    """In fractions: the outputs of a row of pixels and three weights, which no rounding blurs."""
    input_matrix, filter_matrix, output_matrix = winograd.transform_matrices(side)
    pixels = [Fraction(number**2 % 7) for number in range(side + 2)]
    weights = [Fraction(2), Fraction(-3), Fraction(5)]

    def apply(matrix: winograd.Matrix, vector: list[Fraction]) -> list[Fraction]:
        return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    products = [a * b for a, b in zip(apply(input_matrix, pixels), apply(filter_matrix, weights), strict=True)]
    outputs = apply([list(column) for column in zip(*output_matrix, strict=True)], products)
    assert outputs == [sum(weights[k] * pixels[first + k] for k in range(3)) for first in range(side)]


@pytest.mark.parametrize("size, side", [(1, 2), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (11, 6), (15, 8), (31, 8)])
def test_tiles_of_the_fewest_multiplications(size: int, side: int) -> None:
    assert winograd.tile_side(size, size) == side


@pytest.mark.parametrize("size, side", [(2, 2), (3, 2), (7, 6), (8, 8), (9, 8), (11, 5), (15, 7), (31, 6)])
def test_outputs_that_pooling_leaves_out_need_no_tiles(size: int, side: int) -> None:
    assert winograd.tile_side(size, size, pool=True) == side


@pytest.mark.parametrize("side", winograd.POSITIVE_POINTS)
@pytest.mark.parametrize(
    "shape", [(7, 24, 64, 31, 31), (5, 16, 40, 15, 14), (9, 40, 16, 6, 9), (33, 8, 8, 7, 7), (100, 8, 16, 3, 2)]
)
def test_fused_pooling_is_that_of_pytorch(shape: tuple[int, ...], side: int) -> None:
    """With tiles of the same size the same but for the last bits, gradients included."""
    features, weight, grad_output = draw(*shape)
    grad_output = grad_output[:, :, : shape[3] // 2, : shape[4] // 2]
    fused = results(lambda x, w: convolve(x, w, side=side, pool=True), features, weight, grad_output)
    apart = results(lambda x, w: F.max_pool2d(convolve(x, w, side=side), 2), features, weight, grad_output)
    for ours, right in zip(fused, apart, strict=True):
        assert ours.shape == right.shape
        assert (ours - right).abs().max() < 1e-5 * right.abs().max()


def test_of_equal_outputs_the_first_gets_the_gradient() -> None:
    """As PyTorch's: filters of zeros make all outputs equal."""
    features, weight = draw(3, 8, 8, 6, 7)[0], torch.zeros(8, 8, 3, 3)
    grad_output = draw(3, 8, 8, 3, 3)[2]
    native = results(lambda x, w: convolve(x, w, pool=True), features, weight, grad_output)
    exact = results(lambda x, w: F.max_pool2d(F.conv2d(x, w, padding=1), 2), features, weight, grad_output)
    torch.testing.assert_close(native, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [6, 7])
def test_the_same_bits_every_time(size: int) -> None:
    drawn = draw(100, 64, 32, size, size)
    first, second = (results(convolve, *drawn) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side, flags", [(8, ()), (5, AVX2)])
def test_no_access_outside_the_buffers(side: int, flags: tuple[str, ...], tmp_path: Path) -> None:
    """By AddressSanitizer, which also knows undefined behaviour."""
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    arguments = [build.NATIVE_CPU, *flags, build.OPENMP, *sanitizers, *winograd.definitions(side)]
    sources = ["-include", str(build.FOLDER / "winograd.c"), str(Path(__file__).with_name("winograd_bounds.c"))]
    subprocess.run(["cc", "-O1", *arguments, *sources, "-o", tmp_path / "bounds"], check=True)
    ran = subprocess.run([tmp_path / "bounds"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def test_features_that_need_no_gradient_get_none() -> None:
    features, weight, grad_output = draw(9, 16, 16, 8, 8)
    whole = results(convolve, features, weight, grad_output)
    weight.requires_grad_()
    convolve(features, weight).backward(grad_output)
    assert features.grad is None
    assert weight.grad is not None
    assert torch.equal(weight.grad, whole[2])


def features_and_weight() -> tuple[Tensor, Tensor]:
    """[20, 16, 12, 12], and [24, 16, 3, 3] as small as a network's own."""
    features, weight, _ = draw(20, 16, 24, 12, 12)
    return features, weight / 12


def as_pytorch(features: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(features, weight, padding=1)


def test_where_the_fallback_is_used() -> None:
    """Told apart by their rounding, which differs."""
    features, weight = features_and_weight()
    assert not torch.equal(conv3x3(features, weight), as_pytorch(features, weight))
    torch.testing.assert_close(conv3x3(features, weight), as_pytorch(features, weight), rtol=1e-4, atol=1e-4)
    with using("pytorch"):
        assert torch.equal(conv3x3(features, weight), as_pytorch(features, weight))
        assert torch.equal(conv3x3_pool(features, weight), F.max_pool2d(as_pytorch(features, weight), 2))
    rows = features.contiguous()  # not channels-last
    assert torch.equal(conv3x3(rows, weight), as_pytorch(rows, weight))
    assert torch.equal(conv3x3_pool(rows, weight), F.max_pool2d(as_pytorch(rows, weight), 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv3x3(features, weight), as_pytorch(features, weight))
    assert conv3x3(features[:0], weight).shape == (0, 24, 12, 12)
    double = features.double(), weight.double()
    assert torch.equal(conv3x3(*double), as_pytorch(*double))
    assert torch.equal(conv3x3(features, weight, stride=2), F.conv2d(features, weight, stride=2, padding=1))
    apart = weight.repeat(1, 1, 1, 2)[..., :3]  # whose weights do not lie evenly apart
    assert torch.equal(conv3x3(features, apart), as_pytorch(features, apart))
    few = features[:, :3].contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv3x3(few, weight[:, :3]), as_pytorch(few, weight[:, :3]))
    assert torch.equal(conv3x3(features, weight[:20]), as_pytorch(features, weight[:20]))
    assert torch.equal(conv3x3(features[0], weight), as_pytorch(features[0], weight))  # one image alone


def test_pooling() -> None:
    features, weight = features_and_weight()
    pooled = conv3x3_pool(features, weight)
    assert pooled.shape == (20, 24, 6, 6)
    torch.testing.assert_close(pooled, F.max_pool2d(as_pytorch(features, weight), 2), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="too small"):
        conv3x3_pool(features[:, :, :1].contiguous(memory_format=torch.channels_last), weight)


def test_shapes_that_do_not_go_together_are_pytorchs_errors_or_ours() -> None:
    features, weight, _ = draw(20, 16, 24, 12, 12)
    with pytest.raises(RuntimeError, match="channels"):
        conv3x3(features, torch.cat([weight, weight], 1))
    with pytest.raises(RuntimeError, match="type"):
        conv3x3(features, weight.double())
    for wrong in (torch.zeros(24, 16, 5, 5), torch.zeros(24, 16, 3)):
        with pytest.raises(ValueError, match=r"it must be \[K, C, 3, 3\]"):
            conv3x3(features, wrong)


@pytest.mark.parametrize("training", [False, True])
def test_the_layer_is_the_operation_in_training_and_evaluation(training: bool) -> None:
    features, _, _ = draw(20, 16, 24, 12, 12)
    conv = Conv3x3(16, 24).to(memory_format=torch.channels_last).train(training)
    assert torch.equal(conv(features), convolve(features, conv.weight))
    strided = Conv3x3(16, 24, stride=2).to(memory_format=torch.channels_last).train(training)
    assert torch.equal(strided(features), F.conv2d(features, strided.weight, stride=2, padding=1))


def test_an_exported_network_has_plain_convolutions() -> None:
    features, _, _ = draw(2, 16, 24, 12, 12)
    conv = Conv3x3(16, 24).to(memory_format=torch.channels_last).eval()
    program = torch.export.export(conv, (features,))
    assert "conv2d" in program.graph_module.code
    assert torch.equal(program.module()(features), as_pytorch(features, conv.weight))


def test_all_convolutions_of_a_network_are_native(monkeypatch: pytest.MonkeyPatch) -> None:
    model = speednet(widths=(8, 16, 16)).to(memory_format=torch.channels_last).eval()
    images = torch.rand(10, 3, 32, 32).to(memory_format=torch.channels_last)
    with using("pytorch"):
        fallback = model(images)
    asked = []
    apply = Winograd.apply
    monkeypatch.setattr(Winograd, "apply", lambda *arguments: asked.append(arguments[2]) or apply(*arguments))
    native = model(images)
    assert asked == [True, False] * 3  # pooled or not
    assert not torch.equal(fallback, native)
    torch.testing.assert_close(fallback, native, rtol=1e-3, atol=1e-4)
