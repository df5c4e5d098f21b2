"""Batch normalisation (Ioffe and Szegedy 2015) and GELU (Hendrycks and Gimpel 2016) as one operation.

Both are bound by memory. `norm_gelu.c` passes over the features twice a direction, where PyTorch has four and five
passes, which takes half the time.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar.kernels.build import call, fits, is_plain, library

SOURCE = "norm_gelu.c"
BLOCK = 32_768  # features of a block, 128 KiB: half of a small core's second-level cache
MOST_PIXELS = 512  # of a block: longer sums in fp32 round more


def norm_gelu(features: Tensor, norm: nn.BatchNorm2d) -> Tensor | None:
    """What `ops.batch_norm_gelu` gives, by the native kernel; None where that does not fit."""
    if not (norm.training and fits(features) and is_supported(norm)):
        return None
    if norm.num_features != features.shape[1] or features[:, 0].numel() == 1:
        return None  # PyTorch has a message for either
    compiled = library(SOURCE)
    if compiled is None:
        return None
    activated, mean, variance = NormGelu.apply(features, norm.weight, norm.bias, norm.eps, compiled)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
        norm.running_var.lerp_(variance, norm.momentum)  # type: ignore[union-attr, arg-type]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    result: Tensor = activated
    return result


def is_supported(norm: nn.BatchNorm2d) -> bool:
    """Whether it has fp32 weight, bias and running statistics, updated with a fixed momentum, all on the CPU."""
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        type(norm) is nn.BatchNorm2d
        and norm.momentum is not None
        and all(tensor is not None and is_plain(tensor) for tensor in tensors)
    )


class NormGelu(torch.autograd.Function):
    """Activations, and the mean and unbiased variance [C] of this batch.

    Takes features [N, C, H, W] in channels-last memory, weight and bias [C], eps, and the compiled source.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float, compiled: ctypes.CDLL
    ) -> tuple[Tensor, Tensor, Tensor]:
        sizes, threads = sizes_of(features), torch.get_num_threads()
        mean, variance = moments(features, compiled)  # [C], float64
        center = mean.float()
        offset = mean - center  # what rounding took from the mean
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        shift = bias - scale * offset
        factors = (center, scale.float(), shift.float())
        activated = torch.empty_like(features)
        call(compiled, "activate", features, *factors, activated, sizes=sizes, threads=threads)
        ctx.save_for_backward(features, *factors, scale, inverse, offset)
        ctx.compiled = compiled
        num = sizes[0]
        statistics = center, (variance * num / (num - 1)).float()
        ctx.mark_non_differentiable(*statistics)
        return activated, *statistics

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        features, center, scale32, shift32, scale, inverse, offset = ctx.saved_tensors
        sizes, threads = sizes_of(features), torch.get_num_threads()
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        grad_z, sums = torch.empty_like(features), torch.empty(num_blocks(sizes), 2, sizes[1])
        tensors = (features, center, scale32, shift32, grad_output, grad_z, sums)
        call(ctx.compiled, "sum_gradients", *tensors, sizes=sizes, threads=threads)
        grad_bias, products = sums.sum(0, dtype=torch.float64)  # of grad_z, and of grad_z (features - center)
        # Ioffe and Szegedy, section 3: z = weight y + bias, y = inverse (features - mean),
        # grad_input = scale (grad_z - mean(grad_z) - y mean(grad_z y)).
        grad_weight = inverse * (products - offset * grad_bias)
        grad_input = None
        if ctx.needs_input_grad[0]:
            slope = -scale * inverse * grad_weight / sizes[0]
            constant = -scale * grad_bias / sizes[0] - slope * offset
            factors = (center, scale32, slope.float(), constant.float())
            call(ctx.compiled, "finish_gradients", features, *factors, grad_z, sizes=sizes, threads=threads)
            grad_input = grad_z
        needed = ctx.needs_input_grad
        return (
            grad_input,
            grad_weight.float() if needed[1] else None,
            grad_bias.float() if needed[2] else None,
            None,
            None,
        )


def moments(features: Tensor, compiled: ctypes.CDLL) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of features [N, C, H, W] over all pixels, in float64.

    Each block's are differences from its own mean; they are combined as by Chan, Golub and LeVeque 1979, "Updating
    formulae and a pairwise algorithm for computing sample variances", so that a large mean takes no digits from a small
    variance.
    """
    sizes = sizes_of(features)
    num, channels, rows = sizes
    sums = torch.empty(num_blocks(sizes), 3, channels)
    call(compiled, "sum_features", features, sums, sizes=sizes, threads=torch.get_num_threads())
    shift, differences, squares = sums.double().unbind(1)  # each [blocks, C]
    counts = torch.full((len(sums), 1), rows, dtype=torch.float64)
    counts[-1] = num - rows * (len(sums) - 1)
    block_mean = shift + differences / counts
    mean = (counts * block_mean).sum(0) / num
    within = squares - differences.square() / counts
    return mean, (within + counts * (block_mean - mean).square()).sum(0) / num


def sizes_of(features: Tensor) -> tuple[int, int, int]:
    """Pixels of all images, channels, and pixels of a block: what the functions of `norm_gelu.c` end with."""
    num_images, channels, height, width = features.shape
    return num_images * height * width, channels, max(1, min(MOST_PIXELS, BLOCK // channels))


def num_blocks(sizes: tuple[int, int, int]) -> int:
    """Blocks of so many pixels; the last one may have fewer."""
    return -(-sizes[0] // sizes[2])
