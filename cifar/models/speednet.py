"""The small fast network: whitened patches, three blocks, a head.

After Keller Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", and Page 2019, "How to train your ResNet".
The first layer is not learned: a 2×2 convolution whose outputs are decorrelated and of equal variance over the training
images, which spares the first steps of training. What follows starts as near to the identity as its shape allows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.kernels.ops import batch_norm_gelu, conv3x3, conv3x3_pool
from cifar.models.layers import Conv3x3, Normalise

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU}
WHITENING_IMAGES = 5_000
LOGIT_SCALE = 1 / 256  # of a head of unit deviation: small logits make the first steps gentle


def whitening_filters(images: Tensor, size: int = 2, eps: float = 5e-4) -> Tensor:
    """Convolution filters that decorrelate image patches (Page 2019, "How to train your ResNet 8").

    The variance is taken about zero, as a convolution sees it: give images whose mean is 0.

    Args:
        images: float pixels, normalised, [N, 3, H, W]; a few thousand are enough.
        size: side of a patch in pixels.
        eps: added to the eigenvalues (variance of pixel values) before the root.

    Returns:
        [2·3·size², 3, size, size]: the scaled eigenvectors, largest variance first, then the same negated.

    Raises:
        ValueError: fewer images than filters.
    """
    num_filters = 3 * size**2
    if len(images) < 2 * num_filters:
        raise ValueError(f"Whitening needs at least {2 * num_filters} images: there are {len(images)}.")
    second = torch.zeros(num_filters, num_filters, dtype=torch.float64, device=images.device)
    num_patches = 0
    for part in torch.split(images, 500):
        patches = F.unfold(part, size).double()  # [n, 3·size², L]
        second += (patches @ patches.mT).sum(0)
        num_patches += patches.shape[0] * patches.shape[2]
    variances, vectors = torch.linalg.eigh(second.cpu() / num_patches)  # ascending; vectors are columns
    filters = (vectors / (variances + eps).sqrt()).T.flip(0)  # [3·size², 3·size²]
    filters = filters.view(num_filters, 3, size, size).to(images.dtype)
    return torch.cat([filters, -filters])


class Whitening(nn.Module):
    """A frozen 2×2 convolution to 24 channels with a learned bias; until `fit`, its filters are random.

    The filters are a buffer: saved with the weights, seen by no optimiser.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(24, 3, 2, 2) / 12**0.5)
        self.bias = nn.Parameter(torch.zeros(24))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters, self.bias)  # [N, 24, H - 1, W - 1]

    def fit(self, images: Tensor) -> None:
        """Take over the whitening filters of these images: float, normalised, [N, 3, H, W]."""
        self.filters.copy_(whitening_filters(images))


class Block(nn.Module):
    """Convolution, 2×2 max pooling, normalisation, activation; convolution, normalisation, activation."""

    def __init__(self, num_in: int, num_out: int, *, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            identity_conv(num_in, num_out), nn.MaxPool2d(2), unscaled_norm(num_out), ACTIVATIONS[activation](),
            identity_conv(num_out, num_out), unscaled_norm(num_out), ACTIVATIONS[activation](),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        conv1, _, norm1, _, conv2, norm2, activation = self.layers
        features = norm_activation(conv3x3_pool(features, conv1.weight), norm1, activation)  # type: ignore[arg-type]
        features = conv3x3(features, conv2.weight)  # type: ignore[arg-type]
        return norm_activation(features, norm2, activation)  # type: ignore[arg-type] # [N, num_out, H // 2, W // 2]


def norm_activation(features: Tensor, norm: nn.BatchNorm2d, activation: nn.Module) -> Tensor:
    """Normalisation and activation, fused if that is GELU: [N, C, H, W] → [N, C, H, W]."""
    if isinstance(activation, nn.GELU):
        return batch_norm_gelu(features, norm)
    activated: Tensor = activation(norm(features))
    return activated


def identity_conv(num_in: int, num_out: int) -> Conv3x3:
    """A 3×3 convolution whose first filters hand the input channels on; the others are random."""
    conv = Conv3x3(num_in, num_out)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:num_in])
    return conv


def unscaled_norm(num_channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with a learned bias, a scale that stays 1, and a memory as short as the training."""
    norm = nn.BatchNorm2d(num_channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class SpeedNet(nn.Module):
    """Normalisation, whitening, three blocks, max pooling of what is left of the image, a linear head.

    Takes images of 9 pixels a side or more: smaller ones leave nothing behind three poolings.

    Args:
        widths: channels of the three blocks.
        activation: gelu, silu or relu; silu costs a CPU less than gelu, relu least.

    Raises:
        InputError: an activation that is not one of the three, or not three widths.
    """

    def __init__(self, widths: tuple[int, ...], *, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"There is no activation {activation!r}: choose from {', '.join(ACTIVATIONS)}.")
        if len(widths) != 3 or min(widths) < 1:
            raise InputError(f"widths is {widths}: it must be three numbers of channels, such as 64, 256, 256.")
        self.normalise = Normalise()
        self.whitening = Whitening()
        self.activation = ACTIVATIONS[activation]()
        blocks = [Block(a, b, activation=activation) for a, b in zip((24, *widths), widths, strict=False)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], 10, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, images: Tensor) -> Tensor:
        features = self.activation(self.whitening(self.normalise(images)))  # [N, 24, 31, 31]
        features = self.blocks(features)  # [N, C, 3, 3]
        features = F.max_pool2d(features, features.shape[-1])  # [N, C, 1, 1]
        logits: Tensor = self.head(features.flatten(1))
        return logits * LOGIT_SCALE

    def fit(self, images: Tensor) -> None:
        """Fit the whitening to the first 5,000 of uint8 training images [N, 3, 32, 32]; normalisation is fitted."""
        pixels = images[:WHITENING_IMAGES].float() / 255
        self.whitening.fit(self.normalise(pixels))


def speednet(*, widths: tuple[int, ...] = (64, 256, 256), activation: str = "gelu") -> SpeedNet:
    """As wide as airbench's for 94 %."""
    return SpeedNet(widths, activation=activation)


def speednet_narrow() -> SpeedNet:
    """Half as wide, a third of the work."""
    return speednet(widths=(32, 128, 128))


def speednet_large() -> SpeedNet:
    """As wide as airbench's for 95 %."""
    return speednet(widths=(128, 384, 384))
