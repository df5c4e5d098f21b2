"""3×3 convolutions with a sixth to four ninths of the multiplications: Winograd's method on a processor.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. The work is done by `winograd.c`,
compiled here for a size of tiles when it is first needed, in a second. The larger the tiles, the fewer multiplications
and the more rounding: the root mean square of the errors, of that of the values, is about 1e-6 for tiles of 4×4 pixels
and 3e-5 for those of 8×8, where bf16 has 2e-3 and torch's fp32 3e-7.
"""

import ctypes
import functools
import math
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar.models.compiled import LANES, call, fits, library

PANEL = 16  # as in the source
# By the side of a tile: the positive ones of its interpolation points, which are 0, these, their opposites and, for a
# tile of even side, infinity. Of all sets of simple fractions tried, these round nearly least.
POSITIVE_POINTS = {
    2: ("1",),
    3: ("3/4", "2"),
    4: ("2/3", "3/2"),
    5: ("1/2", "5/4", "3"),
    6: ("1/2", "1", "2"),
    7: ("1/2", "1", "3/2", "4"),
    8: ("2/5", "3/4", "4/3", "5/2"),
}
Map = list[list[Fraction]]


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a border of zeros and without bias; by Winograd's method while `in_c` is set.

    That holds for a stride of 1, in fp32 on a processor, channels in eights and channels-last memory; else torch
    convolves as ever, and so it does when the network is compiled or exported.
    """

    def __init__(self, num_in: int, num_out: int, *, stride: int = 1) -> None:
        super().__init__(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.in_c = False

    def forward(self, features: Tensor) -> Tensor:
        return self.convolve(features) if self.suits(features) else super().forward(features)

    def halved(self, features: Tensor) -> Tensor:
        """The largest of each 2×2 outputs, [N, K, H // 2, W // 2]; the others are not written by Winograd's method."""
        if self.suits(features) and min(features.shape[2:]) > 1:
            return self.convolve(features, halve=True)
        return F.max_pool2d(self(features), 2)

    def suits(self, features: Tensor) -> bool:
        """Whether these features [N, C, H, W] are convolved by Winograd's method."""
        return self.in_c and self.stride == (1, 1) and fits(features) and len(self.weight) % LANES == 0

    def convolve(self, features: Tensor, *, halve: bool = False) -> Tensor:
        """By Winograd's method."""
        result: Tensor = WinogradConvolution.apply(features, self.weight, halve)  # type: ignore[no-untyped-call]
        return result


class WinogradConvolution(torch.autograd.Function):
    """Features [N, C, H, W] and weight [K, C, 3, 3] to [N, K, H, W], or halved, channels-last all of them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, halve: bool) -> Tensor:
        height, width = (length // 2 if halve else length for length in features.shape[2:])
        outputs = torch.empty(len(features), len(weight), height, width, memory_format=torch.channels_last)
        places = torch.empty_like(outputs, dtype=torch.uint8) if halve else None
        side = tile_side(*features.shape[2:], halve=halve)
        tensors = (features, at_points(weight, side=side), outputs, places)
        call(compiled(side), "winograd_forward", *tensors, lengths=lengths(features, weight))
        ctx.save_for_backward(features, weight, places)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        features, weight, places = ctx.saved_tensors
        side = tile_side(*features.shape[2:], halve=places is not None)
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        transposed = at_points(weight.transpose(0, 1), side=side)  # [P, panels of C, K, 16]
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        of_filters = torch.empty(filters_shape(weight, side=side))
        tensors = (features, gradients, places, transposed, of_features, of_filters)
        call(compiled(side), "winograd_backward", *tensors, lengths=lengths(features, weight))
        of_weight = torch.empty_like(weight)
        call(compiled(side), "filters_from_points", of_filters, of_weight, lengths=strides(of_weight))
        return of_features, of_weight, None


def tile_side(height: int, width: int, *, halve: bool = False) -> int:
    """Of the tiles that there are, the side of those that need the fewest multiplications for outputs of this size.

    Args:
        halve: choose among those that no 2×2 outputs lie across.
    """
    sides = [side for side in POSITIVE_POINTS if not halve or side % 2 == 0 or side >= max(height, width)]
    return min(sides, key=lambda side: -(-height // side) * -(-width // side) * (side + 2) ** 2)


@functools.cache
def maps(side: int) -> tuple[Map, Map, Map]:
    """How much of input pixels [P, P], weights [P, 3] and output pixels [P, side] is in P = side + 2 points, in a row.

    The construction is Toom's and Cook's: values of polynomials at the points, and back through Lagrange's. Outputs
    of pixels d and weights g are of_outputᵀ [(of_filter g) ⊙ (of_input d)].
    """
    points = [Fraction(0)]
    points += [sign * Fraction(point) for point in POSITIVE_POINTS[side] for sign in (1, -1)]
    at_infinity = side % 2 == 0
    of_input, of_filter, of_output = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        of_input.append(coefficients(others, length=side + 2))
        scale = math.prod(point - other for other in others)
        of_filter.append([point**power / scale for power in range(3)])
        of_output.append([point**power for power in range(side)])
    if at_infinity:
        of_input.append(coefficients(points, length=side + 2))
        of_filter.append([Fraction(power == 2) for power in range(3)])
        of_output.append([Fraction(power == side - 1) for power in range(side)])
    return of_input, of_filter, of_output


def coefficients(roots: list[Fraction], *, length: int) -> list[Fraction]:
    """Of the polynomial with these roots, the constant first, filled up with zeros."""
    found = [Fraction(1)]
    for root in roots:
        found = [lower - root * same for lower, same in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found + [Fraction(0)] * (length - len(found))


def at_points(weight: Tensor, *, side: int) -> Tensor:
    """Filters [K, C, 3, 3], in whatever order in memory, at their points: of `filters_shape`."""
    filters = torch.empty(filters_shape(weight, side=side))
    call(compiled(side), "filters_to_points", weight, filters, lengths=strides(weight))
    return filters


def filters_shape(weight: Tensor, *, side: int) -> tuple[int, ...]:
    """As `winograd.c` reads filters [K, C, 3, 3]: [P, panels of K, C filled up, 16]."""
    num_out, num_in = (-(-num_channels // PANEL) * PANEL for num_channels in weight.shape[:2])
    return (side + 2) ** 2, num_out // PANEL, num_in, PANEL


def strides(weight: Tensor) -> tuple[int, ...]:
    """Channels in and out, and how far apart in memory two channels out, two in and two weights of a filter are."""
    num_out, num_in = weight.shape[:2]
    by_out, by_in, by_row, by_weight = weight.stride()
    assert weight.dtype == torch.float32, f"float32 is expected, {weight.dtype} given"
    assert by_row == 3 * by_weight, f"the weights of a filter must be evenly apart: strides {weight.stride()}"
    return num_in, num_out, by_out, by_in, by_weight


def lengths(features: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Images, height, width, channels in and out: what the functions of `winograd.c` end with."""
    num_images, num_in, height, width = features.shape
    return num_images, height, width, num_in, len(weight)


def compiled(side: int) -> ctypes.CDLL | None:
    """`winograd.c` for tiles of this side."""
    return library("winograd.c", *definitions(side))


@functools.cache
def definitions(side: int) -> tuple[str, ...]:
    """What `winograd.c` is compiled with: the side of the tiles, and the maps as lists in C."""
    lists = [",".join(f"{float(value)!r}f" for row in found for value in row) for found in maps(side)]
    names = ("OF_INPUT", "OF_FILTER", "OF_OUTPUT")
    return f"-DOUT={side}", *(f"-D{name}={{{values}}}" for name, values in zip(names, lists, strict=True))
