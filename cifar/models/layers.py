"""What several networks share: normalisation, with which every one starts, the 3×3 convolution, and resizing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.kernels.ops import conv3x3

# Statistics of the 50,000 training images, in units of [0, 1].
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel.

    Both are buffers, saved with the weights: a trained network carries the statistics it was trained with.

    Args:
        mean, std: of each channel, in units of [0, 1]; CIFAR-10's own where none are given.
        frozen: whether the statistics belong to pretrained weights, so that `fit` leaves them alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD, *, frozen: bool = False) -> None:
        super().__init__()
        self.frozen = frozen
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std  # [N, 3, H, W]

    def fit(self, images: Tensor) -> None:
        """Take over mean and deviation of these images, unless the layer is frozen.

        Args:
            images: uint8 [N, 3, H, W]: the training part alone, so that no fold sees statistics of its validation part.
        """
        if not self.frozen:
            mean, std = pixel_statistics(images)
            self.mean.copy_(mean.view(1, 3, 1, 1))
            self.std.copy_(std.view(1, 3, 1, 1))

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}, frozen={self.frozen}"


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with padding 1 and without bias, by the native kernel where there is one (`kernels/ops.py`)."""

    def __init__(self, num_in: int, num_out: int, *, stride: int = 1) -> None:
        super().__init__(num_in, num_out, 3, stride=stride, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return conv3x3(features, self.weight, stride=self.stride[0])  # [N, K, H / stride, W / stride]


def resize(pixels: Tensor, size: int) -> Tensor:
    """Images of another size: bilinear to a smaller one, bicubic to a larger one, both antialiased.

    Args:
        pixels: float [N, 3, H, W] in [0, 1].
        size: pixels a side.

    Returns:
        [N, 3, size, size]; the same tensor, if that is its size.
    """
    height, width = pixels.shape[2:]
    if (height, width) == (size, size):
        return pixels
    if size < max(height, width):
        return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    larger = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return larger.clamp(0, 1)  # bicubic overshoots at edges; an 8-bit image could not


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels of all images, exact but for the last rounding.

    Args:
        images: uint8 [N, 3, H, W].

    Returns:
        mean [3] and std [3], float64, in units of [0, 1]. A channel of one colour has deviation 1/255, to divide by.

    Raises:
        ValueError: no images, or not bytes.
    """
    if images.dtype != torch.uint8 or len(images) == 0:
        raise ValueError(f"Statistics need uint8 images, at least one: these are {images.dtype}, {len(images)}.")
    # How often each byte occurs tells both sums, three times faster than adding up pixels and their squares.
    counts = [torch.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(3)]
    occurrences, values = torch.stack(counts).cpu(), torch.arange(256)  # [3, 256]
    num_pixels = images.numel() // 3
    mean = (occurrences * values).sum(1).double() / num_pixels  # [3], in bytes
    variance = (occurrences * values.square()).sum(1).double() / num_pixels - mean.square()
    std = variance.clamp_min(0).sqrt()
    return mean / 255, std.where(std > 0, 1.0) / 255
