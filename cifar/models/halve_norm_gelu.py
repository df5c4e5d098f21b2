"""Halving, batch normalisation and GELU as one, on a processor: half of their time, which is memory's.

`halve_norm_gelu.c` does the passes over the features, in two a direction where torch has five and six.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar.models.compiled import call, fits, library

SOURCE = "halve_norm_gelu.c"


def halve_norm_gelu(features: Tensor, norm: nn.BatchNorm2d, *, halve: bool) -> Tensor:
    """GELU of normalised features, or of the largest of each 2×2 of them; step by step by torch where C does not fit.

    Args:
        features: [N, C, H, W].
        norm: whose scale is 1; in training it keeps means and variances as torch's does.
        halve: whether to take the largest of 2×2 first; an odd last row or column is left out.

    Returns:
        [N, C, H, W], or [N, C, H // 2, W // 2], in channels-last memory.
    """
    if not (norm.training and fits(features) and min(features.shape[2:]) > 1):
        return F.gelu(norm(F.max_pool2d(features, 2) if halve else features))
    activated, mean, variance = HalveNormGelu.apply(features, norm.bias, norm.eps, halve)  # type: ignore[no-untyped-call]
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


class HalveNormGelu(torch.autograd.Function):
    """Features [N, C, H, W] and biases [C] to activations, and to the means and variances [C] of this batch."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor, eps: float, halve: bool) -> tuple[Tensor, Tensor, Tensor]:
        num_images, channels, height, width = features.shape
        normed, places = features, None
        if halve:
            shape = (num_images, channels, height // 2, width // 2)
            normed = torch.empty(shape, memory_format=torch.channels_last)
            places = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        sums = torch.empty(num_images, 2, channels)
        tensors = (features, normed if halve else None, places, sums)
        call(library(SOURCE), "sum_features", *tensors, lengths=(num_images, height, width, channels))
        pixels = normed.shape[2] * normed.shape[3]
        num = num_images * pixels
        mean, square = sums.sum(0, dtype=torch.float64) / num  # in double, lest their difference lose its digits
        variance = square - mean**2
        scale = (variance + eps).rsqrt()
        shift = bias - scale * mean
        scale, shift = scale.float(), shift.float()
        activated = torch.empty_like(normed)
        call(library(SOURCE), "activate", normed, scale, shift, activated, lengths=(num_images, pixels, channels))
        ctx.save_for_backward(normed, places, scale, shift, bias)
        ctx.shape = features.shape
        found = mean.float(), (variance * num / (num - 1)).float()
        ctx.mark_non_differentiable(*found)
        return activated, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normed, places, scale, shift, bias = ctx.saved_tensors
        num_images, channels, height, width = ctx.shape
        pixels = normed.shape[2] * normed.shape[3]
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        of_z, sums = torch.empty_like(normed), torch.empty(num_images, 2, channels)
        tensors = (normed, scale, shift, gradients, of_z, sums)
        call(library(SOURCE), "sum_gradients", *tensors, lengths=(num_images, pixels, channels))
        of_bias, products = sums.sum(0, dtype=torch.float64)
        # z = y + bias, y of mean 0 and variance 1 over the batch (Ioffe and Szegedy 2015, section 3):
        # of_features = scale (of_z - mean(of_z) - y mean(of_z y)), y = scale features + shift - bias.
        mean = of_bias / (num_images * pixels)
        slope = (products - bias * of_bias) / (num_images * pixels)
        by_feature = -(scale**2) * slope
        constant = -scale * (mean + (shift - bias) * slope)
        of_features = torch.empty(ctx.shape, memory_format=torch.channels_last)
        factors = (scale, by_feature.float(), constant.float())
        lengths = (num_images, height, width, channels)
        call(library(SOURCE), "give_back", normed, places, of_z, *factors, of_features, lengths=lengths)
        return of_features, of_bias.float(), None, None
