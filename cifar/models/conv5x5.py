"""5×5 convolutions of few channels, the largest of each 2×2 outputs and ReLU as one, on a processor.

torch convolves the three colours of the images at a fifth of a processor's peak, in channels that do not fill its
vectors, and halving and ReLU are passes over memory; `conv5x5.c` keeps all of it in registers.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar.models.compiled import LANES, call, fits, library


def halved_relu(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """ReLU of the largest of each 2×2 outputs of a convolution; step by step by torch where C does not fit.

    Args:
        features: [N, C, H, W].
        conv: 5×5 with a border of 2 zeros and a bias, to K channels.

    Returns:
        [N, K, H // 2, W // 2].
    """
    pixels = features.shape[1] in (1, 3) and not features.requires_grad
    whole = len(conv.weight) % LANES == 0 and min(features.shape[2:]) > 1 and features.dtype == conv.weight.dtype
    if not (whole and fits(features, in_eights=not pixels)):
        return F.max_pool2d(conv(features), 2).relu()
    result: Tensor = HalvedRelu.apply(features, conv.weight, conv.bias)  # type: ignore[no-untyped-call]
    return result


class HalvedRelu(torch.autograd.Function):
    """Features [N, C, H, W], weight [K, C, 5, 5] and bias [K] to [N, K, H // 2, W // 2], channels-last all of them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        num_images, num_in, height, width = features.shape
        shape = (num_images, len(weight), height // 2, width // 2)
        outputs = torch.empty(shape, memory_format=torch.channels_last)
        places = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        filters = weight.view(-1, LANES, num_in, 5, 5).permute(0, 3, 4, 2, 1).contiguous()
        call(
            compiled(num_in, len(weight)), "forward", features, filters, bias, outputs, places,
            lengths=(num_images, height, width),
        )  # fmt: skip
        ctx.save_for_backward(features, weight, places)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        features, weight, places = ctx.saved_tensors
        num_images, num_in, height, width = features.shape
        num_out, threads = len(weight), torch.get_num_threads()
        of_features = turned = None
        if ctx.needs_input_grad[0]:
            of_features = torch.empty_like(features)
            turned = weight.flip(2, 3).view(num_out, -1, LANES, 5, 5).permute(1, 3, 4, 0, 2).contiguous()
        of_filters = torch.zeros(threads, num_out // LANES, 5, 5, num_in, LANES)
        of_bias = torch.zeros(threads, num_out)
        call(
            compiled(num_in, num_out), "backward", features,
            gradients.contiguous(memory_format=torch.channels_last), places, turned, of_features, of_filters, of_bias,
            lengths=(num_images, height, width),
        )  # fmt: skip
        of_weight = of_filters.sum(0).permute(0, 4, 3, 1, 2).reshape(weight.shape)
        return of_features, of_weight, of_bias.sum(0)


def compiled(num_in: int, num_out: int) -> ctypes.CDLL | None:
    """`conv5x5.c` for so many channels in and out."""
    return library("conv5x5.c", *definitions(num_in, num_out))


def definitions(num_in: int, num_out: int) -> tuple[str, ...]:
    """What `conv5x5.c` is compiled with."""
    return f"-DIN={num_in}", f"-DOUT={num_out}"
