"""3×3 convolution with a sixth to four ninths of the multiplications, by Winograd's method.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. `winograd.c` does the work,
compiled for each size of tiles. The larger the tiles, the fewer multiplications and the more rounding: the root mean
square of the errors, relative to that of the values, is about 1e-6 for tiles of 4×4 pixels and 3e-5 for those of 8×8,
where bf16 has 2e-3 and PyTorch's fp32 3e-7.
"""

import ctypes
import functools
import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar.kernels.build import LANES, call, fits, library

PANEL = 16  # as in the source
# By the side of a tile: its positive interpolation points. All of them are 0, these, their opposites and, for a tile of
# even side, infinity. Of all sets of simple fractions tried, these round nearly least.
POSITIVE_POINTS = {
    2: ("1",),
    3: ("3/4", "2"),
    4: ("2/3", "3/2"),
    5: ("1/2", "5/4", "3"),
    6: ("1/2", "1", "2"),
    7: ("1/2", "1", "3/2", "4"),
    8: ("2/5", "3/4", "4/3", "5/2"),
}
Matrix = list[list[Fraction]]


def convolve(features: Tensor, weight: Tensor, *, pool: bool = False) -> Tensor | None:
    """What `ops.conv3x3`, or `ops.conv3x3_pool`, gives, by the native kernel; None where that does not fit."""
    if not (
        fits(features, weight)
        and features.shape[1] == weight.shape[1]
        and len(weight) % LANES == 0
        and weight.stride(2) == 3 * weight.stride(3)  # the weights of a filter lie evenly apart
        and (not pool or min(features.shape[2:]) > 1)
    ):
        return None
    side = tile_side(*features.shape[2:], pool=pool)
    compiled = compile_for(side)
    if compiled is None:
        return None
    result: Tensor = Winograd.apply(features, weight, pool, side, compiled)  # type: ignore[no-untyped-call]
    return result


class Winograd(torch.autograd.Function):
    """Features [N, C, H, W] and weight [K, C, 3, 3] → [N, K, H, W], or pooled; features in channels-last memory.

    Further arguments: whether to pool, the side of the tiles, and the source compiled for it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pool: bool, side: int, compiled: ctypes.CDLL) -> Tensor:
        height, width = (length // 2 if pool else length for length in features.shape[2:])
        outputs = torch.empty(len(features), len(weight), height, width, memory_format=torch.channels_last)
        argmax = torch.empty_like(outputs, dtype=torch.uint8) if pool else None
        tensors = (features, transform_filters(weight, side=side, compiled=compiled), outputs, argmax)
        call(compiled, "winograd_forward", *tensors, sizes=sizes_of(features, weight), threads=torch.get_num_threads())
        ctx.save_for_backward(features, weight, argmax)
        ctx.side, ctx.compiled = side, compiled
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        features, weight, argmax = ctx.saved_tensors
        threads = torch.get_num_threads()
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        transposed = transform_filters(weight.transpose(0, 1), side=ctx.side, compiled=ctx.compiled)
        grad_input = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        grad_filters = torch.empty(domain_shape(weight, side=ctx.side))
        tensors = (features, grad_output, argmax, transposed, grad_input, grad_filters)
        call(ctx.compiled, "winograd_backward", *tensors, sizes=sizes_of(features, weight), threads=threads)
        grad_weight = torch.empty_like(weight)
        sizes = layout(grad_weight)
        call(ctx.compiled, "transform_grad_filters", grad_filters, grad_weight, sizes=sizes, threads=threads)
        return grad_input, grad_weight, None, None, None


def tile_side(height: int, width: int, *, pool: bool = False) -> int:
    """The side of the tiles that need the fewest multiplications for outputs of this size.

    Args:
        pool: count only the outputs that 2×2 pooling takes.
    """
    if pool:
        height, width = height // 2 * 2, width // 2 * 2
    return min(POSITIVE_POINTS, key=lambda side: -(-height // side) * -(-width // side) * (side + 2) ** 2)


@functools.cache
def transform_matrices(side: int) -> tuple[Matrix, Matrix, Matrix]:
    """Input [P, P], filter [P, 3] and output [P, side] transform matrices, P = side + 2: a row an interpolation point.

    The construction is Toom's and Cook's: values of polynomials at the points, and back by Lagrange interpolation. The
    outputs of pixels d and weights g in one dimension are outputᵀ [(filter g) ⊙ (input d)].
    """
    points = [Fraction(0)]
    points += [sign * Fraction(point) for point in POSITIVE_POINTS[side] for sign in (1, -1)]
    at_infinity = side % 2 == 0
    input_rows, filter_rows, output_rows = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        input_rows.append(coefficients(others, length=side + 2))
        scale = math.prod(point - other for other in others)
        filter_rows.append([point**power / scale for power in range(3)])
        output_rows.append([point**power for power in range(side)])
    if at_infinity:
        input_rows.append(coefficients(points, length=side + 2))
        filter_rows.append([Fraction(power == 2) for power in range(3)])
        output_rows.append([Fraction(power == side - 1) for power in range(side)])
    return input_rows, filter_rows, output_rows


def coefficients(roots: list[Fraction], *, length: int) -> list[Fraction]:
    """Of the polynomial with these roots, the constant first, filled up with zeros."""
    product = [Fraction(1)]
    for root in roots:
        pairs = zip([Fraction(0), *product], [*product, Fraction(0)], strict=True)
        product = [lower - root * same for lower, same in pairs]
    return product + [Fraction(0)] * (length - len(product))


def transform_filters(weight: Tensor, *, side: int, compiled: ctypes.CDLL) -> Tensor:
    """Filters [K, C, 3, 3], in channels-first or channels-last memory, in the transform domain, of `domain_shape`."""
    filters = torch.empty(domain_shape(weight, side=side))
    call(compiled, "transform_filters", weight, filters, sizes=layout(weight), threads=torch.get_num_threads())
    return filters


def domain_shape(weight: Tensor, *, side: int) -> tuple[int, ...]:
    """Of filters [K, C, 3, 3] in the transform domain: [P², panels of K, C filled up to whole panels, 16]."""
    num_out, num_in = (-(-num_channels // PANEL) * PANEL for num_channels in weight.shape[:2])
    return (side + 2) ** 2, num_out // PANEL, num_in, PANEL


def layout(weight: Tensor) -> tuple[int, ...]:
    """Input and output channels, and the distances in memory of two output channels, input channels and weights."""
    num_out, num_in = weight.shape[:2]
    out_stride, in_stride, _, position_stride = weight.stride()
    return num_in, num_out, out_stride, in_stride, position_stride


def sizes_of(features: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Images, height, width, input and output channels: what the functions of `winograd.c` end with."""
    num_images, num_in, height, width = features.shape
    return num_images, height, width, num_in, len(weight)


def compile_for(side: int) -> ctypes.CDLL | None:
    """`winograd.c` for tiles of this side."""
    return library("winograd.c", *definitions(side))


@functools.cache
def definitions(side: int) -> tuple[str, ...]:
    """What `winograd.c` is compiled with: the side of the tiles, and the transform matrices as lists in C."""
    lists = [",".join(f"{float(value)!r}f" for row in matrix for value in row) for matrix in transform_matrices(side)]
    names = ("INPUT_MATRIX", "FILTER_MATRIX", "OUTPUT_MATRIX")
    return f"-DOUT={side}", *(f"-D{name}={{{values}}}" for name, values in zip(names, lists, strict=True))
