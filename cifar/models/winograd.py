"""3×3 convolutions with a quarter to two fifths of the multiplications: Winograd's method on a processor.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. The work is done by `winograd.c`,
compiled here when it is first needed, in a second or two. The result is that of torch's convolution but for rounding,
about five times as large as torch's own.
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
LANES, PANEL = 8, 16  # as in the source
# By the side of a tile: what takes the three weights of a filter's row to the tile's points. The source has the maps of
# pixels that belong to it.
FILTER_MAPS = {
    3: ((1 / 2, 0, 0), (-1 / 2, -1 / 2, -1 / 2), (-1 / 6, 1 / 6, -1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a border of zeros and without bias; by Winograd's method while `winograd` is set.

    That holds for a stride of 1, in fp32 on a processor, channels in eights and channels-last memory; else torch
    convolves as ever, and so it does when the network is compiled or exported.
    """

    def __init__(self, num_in: int, num_out: int, *, stride: int = 1) -> None:
        super().__init__(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.winograd = False

    def forward(self, features: Tensor) -> Tensor:
        if self.winograd and self.stride == (1, 1) and fits(features, self.weight):
            result: Tensor = WinogradConvolution.apply(features, self.weight)  # type: ignore[no-untyped-call]
            return result
        return super().forward(features)


def use_winograd(model: nn.Module) -> str:
    """Have the 3×3 convolutions of a network computed by Winograd's method where it fits.

    Returns:
        a sentence where that cannot be, "" else.
    """
    if any(library(side) is None for side in FILTER_MAPS):
        return "There is no C compiler (cc) here: 3×3 convolutions take about twice as long."
    for module in model.modules():
        if isinstance(module, Conv3x3):
            module.winograd = True
    return ""


def fits(features: Tensor, weight: Tensor) -> bool:
    """Whether this convolution is one that `winograd.c` computes."""
    return (
        not torch.compiler.is_compiling()
        and features.device.type == weight.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and features.shape[1] % LANES == weight.shape[0] % LANES == 0
        and features.is_contiguous(memory_format=torch.channels_last)
        and len(features) > 0
    )


class WinogradConvolution(torch.autograd.Function):
    """Features [N, C, H, W] and weight [K, C, 3, 3] to [N, K, H, W], channels-last all of them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        side = tile_side(*features.shape[2:])
        outputs = torch.empty(len(features), len(weight), *features.shape[2:], memory_format=torch.channels_last)
        call("winograd_forward", features, at_points(weight, side=side), outputs, side=side, shape=(features, weight))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        features, weight = ctx.saved_tensors
        side = tile_side(*features.shape[2:])
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        transposed = at_points(weight.transpose(0, 1), side=side)  # [P, panels of C, K, 16]
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        num_points, num_in, num_out = len(transposed), filled(weight.shape[1]), filled(len(weight))
        of_filters = torch.empty(num_points, num_out // PANEL, num_in, PANEL)
        tensors = (features, gradients, transposed, of_features, of_filters)
        call("winograd_backward", *tensors, side=side, shape=(features, weight))
        of_weight = filter_map(side).T @ of_filters.flatten(1)  # [9, …]
        of_weight = of_weight.view(9, -1, num_in, PANEL).transpose(2, 3).reshape(3, 3, num_out, num_in)
        return of_features, of_weight.permute(2, 3, 0, 1)[: len(weight), : weight.shape[1]]


def tile_side(height: int, width: int) -> int:
    """3 or 4: the side of the tiles that need fewer multiplications for outputs of this size."""
    return min(FILTER_MAPS, key=lambda side: -(-height // side) * -(-width // side) * (side + 2) ** 2)


def filter_map(side: int) -> Tensor:
    """[P, 9]: how much of each weight of a filter is in each of its P = (side + 2)² points."""
    rows = torch.tensor(FILTER_MAPS[side])
    return torch.kron(rows, rows)


def at_points(weight: Tensor, *, side: int) -> Tensor:
    """Filters [K, C, 3, 3] at their points as `winograd.c` reads them: [P, panels of K, C filled up with zeros, 16]."""
    num_out, num_in = filled(len(weight)), filled(weight.shape[1])
    whole = F.pad(weight, (0, 0, 0, 0, 0, num_in - weight.shape[1], 0, num_out - len(weight)))
    panels = whole.permute(2, 3, 0, 1).reshape(9, -1, PANEL, num_in).transpose(2, 3)  # [9, panels, C, 16]
    return (filter_map(side) @ panels.reshape(9, -1)).view(-1, num_out // PANEL, num_in, PANEL)


def filled(num_channels: int) -> int:
    """Channels with those that fill up the last panel."""
    return -(-num_channels // PANEL) * PANEL


def call(name: str, *tensors: Tensor | None, side: int, shape: tuple[Tensor, Tensor]) -> None:
    """Call a function of `winograd.c` with the addresses of tensors and the lengths of what they hold."""
    features, weight = shape
    num_images, num_in, height, width = features.shape
    addresses = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    lengths = [ctypes.c_long(length) for length in (num_images, height, width, num_in, len(weight))]
    compiled = library(side)
    assert compiled is not None
    getattr(compiled, name)(*addresses, *lengths)


@functools.cache
def library(side: int) -> ctypes.CDLL | None:
    """`winograd.c` for tiles of this side, compiled for this processor; None where that fails, as without a compiler.

    It is compiled anew by every process, since a kept one might be found by another kind of processor. It finds torch's
    OpenMP loaded and so shares its threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "winograd.so"
        command = ["cc", *FLAGS, f"-DOUT={side}", str(SOURCE), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            return ctypes.CDLL(str(path))
        except (OSError, subprocess.SubprocessError):
            return None
