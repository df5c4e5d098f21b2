"""5×5 convolutions of few channels, the largest of each 2×2 outputs and ReLU as one, on a processor.

Few channels do not fill the vectors that torch convolves in, and halving and ReLU are passes over memory. `conv5x5.c`
keeps all of it in registers, and goes back only through the outputs that were the largest of four and above zero.
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
    assert (conv.kernel_size, conv.stride, conv.padding) == ((5, 5), (1, 1), (2, 2)), "another convolution"
    assert conv.bias is not None, "a bias is added"
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
        outputs = torch.empty(num_images, len(weight), height // 2, width // 2, memory_format=torch.channels_last)
        places = torch.empty_like(outputs, dtype=torch.uint8)
        filters = weight.view(-1, LANES, num_in, 5, 5).permute(0, 3, 4, 2, 1).contiguous()
        tensors = (features, filters, bias, outputs, places)
        call(compiled(num_in, len(weight)), "forward", *tensors, lengths=(num_images, height, width))
        ctx.save_for_backward(features, weight, places)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        features, weight, places = ctx.saved_tensors
        num_images, num_in, height, width = features.shape
        num_out, threads, run = len(weight), torch.get_num_threads(), -(-5 * num_in // LANES) * LANES
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        filters = weight.permute(0, 2, 3, 1).contiguous()
        of_filters = torch.zeros(threads, num_out, 5, run)
        of_bias = torch.zeros(threads, num_out)
        tensors = (features, gradients, places, filters, of_features, of_filters, of_bias)
        call(compiled(num_in, num_out), "backward", *tensors, lengths=(num_images, height, width))
        of_weight = of_filters.sum(0)[..., : 5 * num_in].reshape(num_out, 5, 5, num_in).permute(0, 3, 1, 2)
        return of_features, of_weight, of_bias.sum(0)


def compiled(num_in: int, num_out: int) -> ctypes.CDLL | None:
    """`conv5x5.c` for so many channels in and out."""
    return library("conv5x5.c", *definitions(num_in, num_out))


def definitions(num_in: int, num_out: int) -> tuple[str, ...]:
    """What `conv5x5.c` is compiled with."""
    return f"-DIN={num_in}", f"-DOUT={num_out}"
