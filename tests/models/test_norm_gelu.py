"""Normalisation and GELU in C against torch's, one after the other, in double precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.models.compiled import use_compiled
from cifar.models.norm_gelu import NormGelu, norm_gelu
from cifar.models.speednet import speednet, unscaled_norm

SHAPES = [(5, 8, 7, 7), (5, 24, 6, 7), (9, 16, 2, 2), (40, 64, 15, 15), (100, 8, 1, 1)]


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Features whose channels have means of their own, with equal ones among the neighbours, and biases."""
    torch.manual_seed(0)
    features = torch.randn(shape) * 2 + 3 * torch.randn(1, shape[1], 1, 1)
    return features.mul(4).round().div(4).to(memory_format=torch.channels_last), torch.randn(shape[1])


def results(
    layer: Callable[[Tensor, nn.BatchNorm2d], Tensor], features: Tensor, bias: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """Outputs, gradients of features and of biases, means and variances that the norm keeps."""
    norm = unscaled_norm(len(bias))
    norm.bias.data.copy_(bias)
    norm.to(dtype).train()
    features = features.to(dtype).requires_grad_()
    outputs = layer(features, norm)
    outputs.backward(torch.cos(torch.arange(outputs.numel(), dtype=dtype)).view(outputs.shape))
    assert features.grad is not None
    assert norm.bias.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked == 1
    return [outputs.detach(), features.grad, norm.bias.grad, norm.running_mean, norm.running_var]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_results_are_those_of_double_precision(shape: tuple[int, ...]) -> None:
    features, bias = draw(shape)
    ours = results(norm_gelu, features.clone(), bias, torch.float32)
    exact = results(lambda x, norm: F.gelu(norm(x)), features.clone(), bias, torch.float64)
    for found, right in zip(ours, exact, strict=True):
        assert found.shape == right.shape
        assert (found - right).abs().max() < 3e-6 * right.abs().max()


def test_gelu_far_from_zero() -> None:
    """Of one value that is far from many others: z is up to 95 in size."""
    features = torch.zeros(2, 8, 100, 100).to(memory_format=torch.channels_last)
    features[0, :, 0, 0], features[1, :, 0, 0] = 1.0, -1.0
    norm = unscaled_norm(8).train()
    activated = norm_gelu(features, norm)
    assert activated[0, 0, 0, 0].item() == pytest.approx((1e-4 + 1e-5) ** -0.5, rel=1e-3)
    assert -1e-37 < activated[1, 0, 0, 0] <= 0
    assert activated[0, 0, 1, 1] == 0


def test_where_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("C was asked")

    monkeypatch.setattr(NormGelu, "apply", refuse)
    norm = unscaled_norm(8)
    features = draw((4, 8, 6, 6))[0]
    with pytest.raises(AssertionError, match="C was asked"):
        norm_gelu(features, norm)
    rows = features.contiguous()  # not channels-last
    torch.testing.assert_close(norm_gelu(rows, norm), F.gelu(norm(rows)))
    norm_gelu(features[:, :, :1, :1], norm)  # neither, being a part of larger images
    norm_gelu(features, norm.eval())
    norm_gelu(features.double(), norm.double().train())


@pytest.mark.parametrize("activation, same", [("gelu", False), ("silu", True)])
def test_a_network_trains_the_same_with_it(activation: str, same: bool) -> None:
    """Nearly: Winograd's rounding is there as well. Other activations are torch's, to the bit."""
    torch.manual_seed(0)
    model = speednet(widths=(8, 16, 16), activation=activation).to(memory_format=torch.channels_last).train()
    images = torch.rand(20, 3, 32, 32).to(memory_format=torch.channels_last)
    found = []
    for _ in range(2):
        model.zero_grad()
        model(images).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        assert use_compiled(model) == ""
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.in_c = False  # type: ignore[assignment]
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after) == same
        torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-5)
