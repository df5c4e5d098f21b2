"""The native 5×5 convolution, pooling and ReLU against PyTorch's, one after the other, in double precision."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.kernels.build import using
from cifar.kernels.conv5x5 import Conv5x5PoolRelu
from cifar.kernels.ops import conv5x5_pool_relu
from cifar.models.cnn import cnn

SHAPES = [  # images, input and output channels, height, width
    (7, 3, 8, 32, 32),
    (5, 8, 16, 16, 16),
    (4, 16, 32, 8, 8),
    (1, 1, 8, 5, 20),
    (3, 8, 8, 7, 9),  # a row and a column that are not pooled
    (2, 16, 8, 2, 3),
    (9, 24, 8, 2, 2),
]


def draw(num: int, num_in: int, num_out: int, height: int, width: int) -> tuple[Tensor, nn.Conv2d, Tensor]:
    """Features, the layer, and gradients of its pooled outputs."""
    torch.manual_seed(0)
    features = torch.randn(num, num_in, height, width).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(num_in, num_out, 5, padding=2).to(memory_format=torch.channels_last)
    return features, conv, torch.randn(num, num_out, height // 2, width // 2)


def ours(features: Tensor, conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv5x5_pool_relu(features, conv.weight, conv.bias)


def plain(features: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.max_pool2d(conv(features), 2).relu()


def results(
    layer: Callable[[Tensor, nn.Conv2d], Tensor], features: Tensor, conv: nn.Conv2d, grad_output: Tensor
) -> list[Tensor]:
    """Outputs, gradients of weight and bias, and of features whose channels are a multiple of 8."""
    conv.zero_grad()
    features = features.clone().requires_grad_(features.shape[1] % 8 == 0)
    outputs = layer(features, conv)
    outputs.backward(grad_output)
    tensors = [outputs.detach(), *(parameter.grad for parameter in conv.parameters()), features.grad]
    return [tensor.clone() for tensor in tensors if tensor is not None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the native kernel was asked")

    monkeypatch.setattr(Conv5x5PoolRelu, "apply", asked)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_double_precision(shape: tuple[int, ...]) -> None:
    features, conv, grad_output = draw(*shape)
    native = results(ours, features, conv, grad_output)
    exact = results(plain, features.double(), conv.double(), grad_output.double())
    assert len(native) == len(exact) == 3 + (shape[1] % 8 == 0)
    for found, right in zip(native, exact, strict=True):
        assert found.shape == right.shape
        assert (found - right).abs().max() < 2e-6 * right.abs().max()


@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_of_equal_outputs_the_first_gets_the_gradient_if_any(bias: float) -> None:
    """As PyTorch's: filters of zeros make all outputs equal to the bias, and ReLU of 0 has no gradient."""
    features, conv, grad_output = draw(3, 8, 8, 6, 7)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    native, right = results(ours, features, conv, grad_output), results(plain, features, conv, grad_output)
    torch.testing.assert_close(native, right, rtol=1e-5, atol=1e-5)
    assert (native[1].abs().max() > 0) == (bias > 0)


def test_nan_is_not_hidden() -> None:
    """Else a diverged training would go on as if nothing were."""
    features, conv, _ = draw(2, 3, 8, 8, 8)
    conv.weight.data[0] = torch.nan
    outputs = ours(features, conv)
    assert outputs[:, 0].isnan().all()
    assert outputs[:, 1:].isfinite().all()


@pytest.mark.usefixtures("threads")
def test_the_same_bits_every_time() -> None:
    drawn = draw(100, 8, 16, 16, 16)
    first, second = (results(ours, *drawn) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("refuse")
def test_where_the_fallback_is_used() -> None:
    features, conv, _ = draw(4, 8, 16, 6, 6)
    with pytest.raises(AssertionError, match="was asked"):
        ours(features, conv)
    with using("pytorch"):
        assert torch.equal(ours(features, conv), plain(features, conv))
    rows = features.contiguous()  # not channels-last
    assert torch.equal(ours(rows, conv), plain(rows, conv))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(features, conv).dtype == torch.bfloat16
    assert ours(features[:0], conv).shape == (0, 16, 3, 3)
    with pytest.raises(RuntimeError, match="too small"):
        ours(features[:, :, :1].contiguous(memory_format=torch.channels_last), conv)
    with pytest.raises(RuntimeError, match="channels"):
        ours(torch.cat([features, features], 1).contiguous(memory_format=torch.channels_last), conv)
    with pytest.raises(RuntimeError, match="bias"):
        conv5x5_pool_relu(features, conv.weight, torch.zeros(8))
    with pytest.raises(RuntimeError, match="type"):
        ours(features, conv.double())
    for shape in ((4, 12, 8, 6, 6), (4, 8, 12, 6, 6), (4, 3, 12, 6, 6)):
        features, conv, _ = draw(*shape)
        assert torch.equal(ours(features, conv), plain(features, conv))
    features, conv, _ = draw(4, 3, 8, 6, 6)
    with pytest.raises(AssertionError, match="was asked"):
        ours(features, conv)
    features.requires_grad_()  # of three channels the native kernel gives no gradients
    assert torch.equal(ours(features, conv), plain(features, conv))
    with pytest.raises(ValueError, match=r"\[8, 3, 3, 3\]: it must be \[K, C, 5, 5\]"):
        conv5x5_pool_relu(features, conv.weight[:, :, 1:4, 1:4], torch.zeros(8))


def test_the_network_trains_the_same_with_it() -> None:
    torch.manual_seed(0)
    model = cnn().to(memory_format=torch.channels_last)
    images = torch.rand(20, 3, 32, 32).to(memory_format=torch.channels_last)
    gradients = []
    for kind in ("pytorch", "native"):
        model.zero_grad()
        with using(kind):
            model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for fallback, native in zip(*gradients, strict=True):
        assert fallback is not None
        assert native is not None
        assert not torch.equal(fallback, native)  # another order of sums
        torch.testing.assert_close(fallback, native, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("refuse")
def test_an_exported_network_is_plain() -> None:
    model = cnn().eval().to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    with using("pytorch"):
        before = model(images)
    program = torch.export.export(model, (images,))
    assert "conv2d" in program.graph_module.code
    torch.testing.assert_close(program.module()(images), before)
