"""Batch normalisation and GELU as one, on a processor: half of their time, which is memory's.

`norm_gelu.c` does the passes over the features, in two a direction where torch has four and five.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar.models.compiled import call, fits, library

SOURCE = "norm_gelu.c"


def norm_gelu(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """GELU of normalised features; step by step by torch where C does not fit.

    Args:
        features: [N, C, H, W].
        norm: whose scale is 1; in training it keeps means and variances as torch's does.

    Returns:
        [N, C, H, W] in channels-last memory.
    """
    if not (norm.training and fits(features) and features[:, 0].numel() > 1):
        return F.gelu(norm(features))
    activated, mean, variance = NormGelu.apply(features, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance, norm.momentum)
        norm.num_batches_tracked += 1
    result: Tensor = activated
    return result


class NormGelu(torch.autograd.Function):
    """Features [N, C, H, W] and biases [C] to activations, and to the means and variances [C] of this batch."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        lengths = lengths_of(features)
        sums = torch.empty(len(features), 2, features.shape[1])
        call(library(SOURCE), "sum_features", features, sums, lengths=lengths)
        num = features[:, 0].numel()
        mean, square = sums.sum(0, dtype=torch.float64) / num  # in double, lest their difference lose its digits
        variance = square - mean**2
        scale = (variance + eps).rsqrt()
        shift = bias - scale * mean
        scale, shift = scale.float(), shift.float()
        activated = torch.empty_like(features)
        call(library(SOURCE), "activate", features, scale, shift, activated, lengths=lengths)
        ctx.save_for_backward(features, scale, shift, bias)
        found = mean.float(), (variance * num / (num - 1)).float()
        ctx.mark_non_differentiable(*found)
        return activated, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        features, scale, shift, bias = ctx.saved_tensors
        lengths, num = lengths_of(features), features[:, 0].numel()
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        of_z, sums = torch.empty_like(features), torch.empty(len(features), 2, features.shape[1])
        call(library(SOURCE), "sum_gradients", features, scale, shift, gradients, of_z, sums, lengths=lengths)
        of_bias, products = sums.sum(0, dtype=torch.float64)
        # z = y + bias, y of mean 0 and variance 1 over the batch (Ioffe and Szegedy 2015, section 3):
        # of_features = scale (of_z - mean(of_z) - y mean(of_z y)), y = scale features + shift - bias.
        mean = of_bias / num
        slope = (products - bias * of_bias) / num
        by_feature = -(scale**2) * slope
        constant = -scale * (mean + (shift - bias) * slope)
        factors = (scale, by_feature.float(), constant.float())
        call(library(SOURCE), "give_back", features, *factors, of_z, lengths=lengths)
        return of_z, of_bias.float(), None


def lengths_of(features: Tensor) -> tuple[int, int, int]:
    """Images, pixels of an image, channels: what the functions of `norm_gelu.c` end with."""
    num_images, channels, height, width = features.shape
    return num_images, height * width, channels
