"""Native normalisation and GELU against PyTorch's, one after the other, in double precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.kernels import norm_gelu
from cifar.kernels.build import library, using
from cifar.kernels.norm_gelu import NormGelu, moments
from cifar.kernels.ops import batch_norm_gelu
from cifar.models.speednet import speednet, unscaled_norm

SHAPES = [(5, 8, 7, 7), (5, 24, 6, 7), (9, 16, 2, 2), (40, 64, 15, 15), (100, 8, 1, 1)]
STATISTICS = [(0.0, 1.0), (100.0, 0.01), (1000.0, 1.0), (-1000.0, 0.3), (0.0, 1e-3), (3.0, 100.0)]  # means, deviations


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Features whose channels have means of their own, with equal ones among the neighbours, and biases."""
    torch.manual_seed(0)
    features = torch.randn(shape) * 2 + 3 * torch.randn(1, shape[1], 1, 1)
    return features.mul(4).round().div(4).to(memory_format=torch.channels_last), torch.randn(shape[1])


def plain(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return F.gelu(norm(features))


def results(
    layer: Callable[[Tensor, nn.BatchNorm2d], Tensor],
    features: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    weight: Tensor | None = None,
) -> list[Tensor]:
    """Outputs, gradients of features, bias and, if it is given, weight, means and variances that the norm keeps."""
    norm = unscaled_norm(len(bias))
    norm.bias.data.copy_(bias)
    if weight is not None:
        norm.weight.requires_grad_().data.copy_(weight)
    norm.to(dtype).train()
    features = features.to(dtype).requires_grad_()
    outputs = layer(features, norm)
    outputs.backward(torch.cos(torch.arange(outputs.numel(), dtype=dtype)).view(outputs.shape))
    assert features.grad is not None
    assert norm.bias.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked == 1
    assert (norm.weight.grad is None) == (weight is None)
    gradients = [features.grad, norm.bias.grad, *([] if norm.weight.grad is None else [norm.weight.grad])]
    return [outputs.detach(), *gradients, norm.running_mean, norm.running_var]


@pytest.fixture(params=[256, norm_gelu.BLOCK])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small blocks, the last one smaller still; and the usual ones."""
    monkeypatch.setattr(norm_gelu, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("shape", SHAPES)
def test_all_results_are_those_of_double_precision(shape: tuple[int, ...]) -> None:
    features, bias = draw(shape)
    native = results(batch_norm_gelu, features.clone(), bias, torch.float32)
    exact = results(plain, features.clone(), bias, torch.float64)
    for found, right in zip(native, exact, strict=True):
        assert found.shape == right.shape
        assert (found - right).abs().max() < 3e-6 * right.abs().max()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("mean, deviation", STATISTICS)
def test_large_means_and_small_deviations_lose_no_digits(mean: float, deviation: float) -> None:
    torch.manual_seed(0)
    features = (mean + deviation * torch.randn(20, 16, 9, 11)).to(memory_format=torch.channels_last)
    bias, weight = torch.randn(16), torch.rand(16) * 4 - 2
    weight[3] = 0
    native = results(batch_norm_gelu, features.clone(), bias, torch.float32, weight)
    exact = results(plain, features.clone(), bias, torch.float64, weight)
    assert len(native) == 6
    for found, right in zip(native, exact, strict=True):
        assert (found - right).abs().max() < 3e-6 * right.abs().max()


def test_moments_of_blocks_that_differ_as_much_as_can_be() -> None:
    """A shift taken from the first block would leave the variance of the others to rounding."""
    features = torch.zeros(64, 8, 8, 8)
    features[1:] = 1000 + 0.01 * torch.randn(63, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for images in (features, features[1:]):
        images = images.contiguous(memory_format=torch.channels_last)
        compiled = library(norm_gelu.SOURCE)
        assert compiled is not None
        mean, variance = moments(images, compiled)
        torch.testing.assert_close(mean, images.double().mean((0, 2, 3)), rtol=3e-8, atol=0)
        torch.testing.assert_close(variance, images.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


def test_gelu_far_from_zero() -> None:
    """Of one value that is far from many others: z is up to 95 in size."""
    features = torch.zeros(2, 8, 100, 100).to(memory_format=torch.channels_last)
    features[0, :, 0, 0], features[1, :, 0, 0] = 1.0, -1.0
    norm = unscaled_norm(8).train()
    activated = batch_norm_gelu(features, norm)
    assert activated[0, 0, 0, 0].item() == pytest.approx((1e-4 + 1e-5) ** -0.5, rel=1e-3)
    assert -1e-37 < activated[1, 0, 0, 0] <= 0
    assert activated[0, 0, 1, 1] == 0


def test_gelu_and_its_slope_everywhere() -> None:
    """With a weight and a bias that undo the normalisation, z is the feature itself."""
    z = torch.linspace(-14, 14, 80_000).view(100, 8, 10, 10)
    norm, features = unscaled_norm(8), z.to(memory_format=torch.channels_last).requires_grad_()
    exact = z.double().requires_grad_()
    activated, right = batch_norm_gelu(features, norm), plain(exact, unscaled_norm(8).double())
    torch.testing.assert_close(activated.double(), right, rtol=1e-6, atol=4e-7)


def test_nan_is_not_hidden() -> None:
    features, _ = draw((4, 8, 6, 6))
    features[0, 0, 0, 0] = torch.nan
    activated = batch_norm_gelu(features, unscaled_norm(8))
    assert activated[:, 0].isnan().all()
    assert activated[:, 1:].isfinite().all()


def test_features_that_need_no_gradient_get_none() -> None:
    features, _ = draw((4, 8, 6, 6))
    norm, other = unscaled_norm(8), unscaled_norm(8)
    batch_norm_gelu(features, norm).square().sum().backward()
    batch_norm_gelu(features.clone().requires_grad_(), other).square().sum().backward()
    assert features.grad is None
    assert norm.bias.grad is not None
    assert other.bias.grad is not None
    assert torch.equal(norm.bias.grad, other.bias.grad)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_whatever_the_number_of_threads(threads: int) -> None:
    features, bias = draw((40, 64, 15, 15))
    first = results(batch_norm_gelu, features.clone(), bias, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    second = results(batch_norm_gelu, features.clone(), bias, torch.float32)
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_where_the_fallback_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the native kernel was asked")

    monkeypatch.setattr(NormGelu, "apply", refuse)
    norm = unscaled_norm(8)
    features = draw((4, 8, 6, 6))[0]
    with pytest.raises(AssertionError, match="was asked"):
        batch_norm_gelu(features, norm)
    with using("pytorch"):
        assert torch.equal(batch_norm_gelu(features, norm), plain(features, norm))
    rows = features.contiguous()  # not channels-last
    torch.testing.assert_close(batch_norm_gelu(rows, norm), plain(rows, norm))
    batch_norm_gelu(features[:, :, :1, :1], norm)  # neither, being a part of larger images
    batch_norm_gelu(features, norm.eval())
    batch_norm_gelu(features.double(), norm.double().train())
    for other in (
        nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False), nn.BatchNorm2d(8, momentum=None)
    ):  # fmt: skip
        torch.testing.assert_close(batch_norm_gelu(features, other), plain(features, other))
    with pytest.raises(RuntimeError, match="running_mean should contain 8 elements not 16"):
        batch_norm_gelu(features, nn.BatchNorm2d(16))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm_gelu(torch.zeros(1, 8, 1, 1).to(memory_format=torch.channels_last), nn.BatchNorm2d(8))


@pytest.mark.parametrize("activation, same", [("gelu", False), ("silu", True)])
def test_a_network_trains_the_same_with_it(activation: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Winograd's rounding, which is there as well. Other activations are PyTorch's, to the bit."""
    monkeypatch.setattr("cifar.kernels.winograd.convolve", lambda *_, **__: None)
    torch.manual_seed(0)
    model = speednet(widths=(8, 16, 16), activation=activation).to(memory_format=torch.channels_last).train()
    images = torch.rand(20, 3, 32, 32).to(memory_format=torch.channels_last)
    gradients = []
    for kind in ("pytorch", "native"):
        model.zero_grad()
        with using(kind):
            model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for fallback, native in zip(*gradients, strict=True):
        assert torch.equal(fallback, native) == same
        torch.testing.assert_close(fallback, native, rtol=1e-3, atol=1e-5)
