"""5×5 convolution of few channels, 2×2 max pooling and ReLU as one operation.

Few channels do not fill the vectors that PyTorch convolves in, and pooling and ReLU are passes over memory. `conv5x5.c`
keeps all of it in registers, and its backward pass only follows the outputs that were the maximum and above zero.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar.kernels.build import LANES, call, fits, library


def convolve(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """What `ops.conv5x5_pool_relu` gives, by the native kernel; None where that does not fit."""
    num_out, num_in = weight.shape[:2]
    pixels = num_in in (1, 3) and not features.requires_grad  # the kernel gives few channels no gradient
    if not (
        fits(features, weight, bias, multiple=1 if pixels else LANES)
        and features.shape[1] == num_in
        and bias.shape == (num_out,)
        and num_out % LANES == 0
        and min(features.shape[2:]) > 1
    ):
        return None
    compiled = library("conv5x5.c", *definitions(num_in, num_out))
    if compiled is None:
        return None
    result: Tensor = Conv5x5PoolRelu.apply(features, weight, bias, compiled)  # type: ignore[no-untyped-call]
    return result


class Conv5x5PoolRelu(torch.autograd.Function):
    """Features [N, C, H, W] in channels-last memory, weight [K, C, 5, 5] and bias [K] → [N, K, H // 2, W // 2].

    The last argument is the source, compiled for C and K.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, compiled: ctypes.CDLL) -> Tensor:
        num_images, num_in, height, width = features.shape
        outputs = torch.empty(num_images, len(weight), height // 2, width // 2, memory_format=torch.channels_last)
        argmax = torch.empty_like(outputs, dtype=torch.uint8)
        filters = weight.view(-1, LANES, num_in, 5, 5).permute(0, 3, 4, 2, 1).contiguous()  # [K / 8, 5, 5, C, 8]
        tensors = (features, filters, bias.contiguous(), outputs, argmax)
        sizes = (num_images, height, width)
        call(compiled, "conv5x5_forward", *tensors, sizes=sizes, threads=torch.get_num_threads())
        ctx.save_for_backward(features, weight, argmax)
        ctx.compiled = compiled
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        features, weight, argmax = ctx.saved_tensors
        num_images, num_in, height, width = features.shape
        num_out, threads, row = len(weight), torch.get_num_threads(), -(-5 * num_in // LANES) * LANES
        grad_input = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        filters = weight.permute(0, 2, 3, 1).contiguous()  # [K, 5, 5, C]
        grad_filters = torch.zeros(threads, num_out, 5, row)
        grad_bias = torch.zeros(threads, num_out)
        tensors = (features, grad_output, argmax, filters, grad_input, grad_filters, grad_bias)
        sizes = (num_images, height, width)
        call(ctx.compiled, "conv5x5_backward", *tensors, sizes=sizes, threads=threads)
        grad_weight = grad_filters.sum(0)[..., : 5 * num_in].reshape(num_out, 5, 5, num_in).permute(0, 3, 1, 2)
        return grad_input, grad_weight, grad_bias.sum(0), None


def definitions(num_in: int, num_out: int) -> tuple[str, ...]:
    """What `conv5x5.c` is compiled with for so many channels."""
    return f"-DIN={num_in}", f"-DOUT={num_out}"
