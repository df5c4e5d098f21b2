"""Residual networks for 32×32 pixels (He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2).

The paper's CIFAR networks have three stages of 16, 32 and 64 channels with n blocks of two convolutions each, 6n + 2
layers. Their shortcuts are the paper's option A, since section 4.2 says so ("identity shortcuts in all cases"): where
the shape changes, every second pixel is taken and the new channels are zero.

`resnet18` is the paper's ImageNet network with a stem of one 3×3 convolution in place of the 7×7 and the pooling, and
projection shortcuts (option B), as it is commonly trained on CIFAR-10.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cifar.models.layers import Conv3x3, Normalise


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut around them.

    Args:
        num_in, num_out: channels before and after.
        stride: of the first convolution, and of the shortcut.
        projection: where the shape changes, a normalised 1×1 convolution (option B) in place of padding (option A).
    """

    def __init__(self, num_in: int, num_out: int, *, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = Conv3x3(num_in, num_out, stride=stride)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = Conv3x3(num_out, num_out)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.shortcut: nn.Module
        if stride == 1 and num_in == num_out:
            self.shortcut = nn.Identity()
        elif projection:
            conv = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(num_out))
        else:
            self.shortcut = PaddedShortcut(num_out - num_in, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(features)), inplace=True)
        branch = self.norm2(self.conv2(branch))
        return F.relu(branch + self.shortcut(features), inplace=True)  # [N, num_out, H / stride, W / stride]


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and `num_new` channels of zeros, half of them on either side."""

    def __init__(self, num_new: int, *, stride: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, num_new // 2, num_new - num_new // 2)
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features[:, :, :: self.stride, :: self.stride], self.padding)


class ResNet(nn.Module):
    """A 3×3 stem, stages of residual blocks that halve the side and widen, the mean over pixels, a linear head.

    Args:
        widths: channels of each stage.
        num_blocks: residual blocks in each stage.
        projection: shortcuts of option B in place of option A.
    """

    def __init__(self, widths: tuple[int, ...], *, num_blocks: int, projection: bool) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages, num_in = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(Block(num_in, width, stride=stride, projection=projection))
                num_in = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(num_in, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(self.normalise(images)))  # [N, C, H, W]
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def resnet20(*, projection: bool = False) -> ResNet:
    """ResNet-20: 269,722 parameters. He et al. report 91.25 % test after 64,000 steps."""
    return thin_resnet(3, projection=projection)


def resnet32(*, projection: bool = False) -> ResNet:
    """ResNet-32: 464,154 parameters. He et al. report 92.49 %."""
    return thin_resnet(5, projection=projection)


def resnet44(*, projection: bool = False) -> ResNet:
    """ResNet-44: 658,586 parameters. He et al. report 92.83 %."""
    return thin_resnet(7, projection=projection)


def resnet56(*, projection: bool = False) -> ResNet:
    """ResNet-56: 853,018 parameters. He et al. report 93.03 %."""
    return thin_resnet(9, projection=projection)


def resnet110(*, projection: bool = False) -> ResNet:
    """ResNet-110: 1,727,962 parameters. He et al. report 93.57 %."""
    return thin_resnet(18, projection=projection)


def thin_resnet(num_blocks: int, *, projection: bool) -> ResNet:
    """The paper's network for CIFAR-10 with 6 · num_blocks + 2 layers; with option B for weights of others alone."""
    return ResNet((16, 32, 64), num_blocks=num_blocks, projection=projection)


def resnet18() -> ResNet:
    """ResNet-18 with a stem for 32 pixels: 11,173,962 parameters. Users report 95.5 % after 200 epochs."""
    return ResNet((64, 128, 256, 512), num_blocks=2, projection=True)
