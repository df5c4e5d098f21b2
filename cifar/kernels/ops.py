"""Each operation that has a native kernel as one function, with the same result whether that can be used or not.

The native kernel is used for fp32 features in channels-last memory of a CPU, with a multiple of 8 channels where not
said otherwise; not under autocast, nor while the network is compiled, traced or exported. For everything else, with
`CIFAR_KERNELS=pytorch`, and where there is no C compiler, PyTorch's operations do the same (the PyTorch fallback). The
two differ by rounding alone, gradients included; a native kernel's gradients cannot be differentiated again.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cifar.kernels import conv5x5, norm_gelu, winograd


def conv3x3(features: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """3×3 convolution with padding 1 and without bias; native by Winograd's method (Lavin and Gray 2016).

    Args:
        features: [N, C, H, W].
        weight: [K, C, 3, 3]; K must be a multiple of 8 as well for the native kernel.
        stride: in pixels; the native kernel has 1 only.

    Returns:
        [N, K, ceil(H / stride), ceil(W / stride)].

    Raises:
        ValueError: the weight is not [K, C, 3, 3].
        RuntimeError: as PyTorch's, where shapes or types do not go together.
        MemoryError: no memory for the native kernel's buffers, here or in the backward pass.
    """
    check_filters(weight, side=3)
    outputs = winograd.convolve(features, weight) if stride == 1 else None
    return F.conv2d(features, weight, stride=stride, padding=1) if outputs is None else outputs


def conv3x3_pool(features: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution as of `conv3x3`, then 2×2 max pooling; the native kernel does not write what is not the maximum.

    Args:
        features: [N, C, H, W], at least 2×2 pixels.
        weight: [K, C, 3, 3].

    Returns:
        [N, K, H // 2, W // 2].

    Raises:
        ValueError, RuntimeError, MemoryError: as of `conv3x3`.
    """
    check_filters(weight, side=3)
    outputs = winograd.convolve(features, weight, pool=True)
    return F.max_pool2d(F.conv2d(features, weight, padding=1), 2) if outputs is None else outputs


def conv5x5_pool_relu(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """5×5 convolution with padding 2 and bias, 2×2 max pooling and ReLU: the small network's layer, LeCun et al. 1998.

    Args:
        features: [N, C, H, W], at least 2×2 pixels. The native kernel also takes 1 or 3 channels, if these need no
            gradient.
        weight: [K, C, 5, 5]; K must be a multiple of 8 for the native kernel. It is compiled for each pair of C and K.
        bias: [K].

    Returns:
        [N, K, H // 2, W // 2].

    Raises:
        ValueError: the weight is not [K, C, 5, 5].
        RuntimeError, MemoryError: as of `conv3x3`.
    """
    check_filters(weight, side=5)
    outputs = conv5x5.convolve(features, weight, bias)
    return F.max_pool2d(F.conv2d(features, weight, bias, padding=2), 2).relu() if outputs is None else outputs


def batch_norm_gelu(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation (Ioffe and Szegedy 2015), then GELU (Hendrycks and Gimpel 2016).

    The native kernel is that of training; in evaluation, where there are no statistics to compute, PyTorch is used.

    Args:
        features: [N, C, H, W].
        norm: over C channels; in training its running statistics are updated.

    Returns:
        [N, C, H, W].

    Raises:
        ValueError: in training, there is a single value a channel.
        RuntimeError: as PyTorch's, where shapes or types do not go together.
    """
    outputs = norm_gelu.norm_gelu(features, norm)
    return F.gelu(norm(features)) if outputs is None else outputs


def check_filters(weight: Tensor, *, side: int) -> None:
    """Refuse filters of another size, which padding would not fit.

    Raises:
        ValueError: names the shape that is expected.
    """
    if weight.dim() != 4 or weight.shape[2:] != (side, side):
        raise ValueError(f"The weight is {list(weight.shape)}: it must be [K, C, {side}, {side}].")
