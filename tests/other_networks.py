"""Networks as other people write them: what each does differently broke something once. And small ones of timm."""

import random
import sys
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation  # theirs import torchvision themselves


def small(*layers: nn.Module, width: int = 8) -> nn.Sequential:
    """A convolution, some layers, a head."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=4), *layers, *head)


def torchvision_layers() -> nn.Module:
    return small(Conv2dNormActivation(8, 8))


def late_norm() -> nn.Module:
    """Has no statistics of one image."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=16), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 10))


class Indexed(nn.Module):
    """Like Swin: an index that never changes, here not saved, and one that is; and a mask."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.body = small(nn.BatchNorm2d(8))
        self.table = nn.Parameter(torch.zeros(20))
        self.register_buffer("index", torch.arange(10) + 7, persistent=persistent)
        self.register_buffer("mask", torch.arange(10) % 2 == 0, persistent=persistent)
        self.register_buffer("saved_index", torch.arange(10).int())

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + self.table[self.index] * self.mask + self.table[self.saved_index]  # type: ignore


def indexed() -> nn.Module:
    return Indexed(persistent=False)


def indexed_saved() -> nn.Module:
    return Indexed(persistent=True)


class Shared(nn.Module):
    """One activation and one normalisation under two names each, and a head tied to another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 8, 3)
        self.act1 = self.act2 = nn.PReLU()
        self.norm1 = self.norm2 = nn.BatchNorm2d(8)
        self.head, self.other_head = nn.Linear(8, 10), nn.Linear(8, 10)
        self.other_head.weight = self.head.weight

    def forward(self, images: Tensor) -> Tensor:
        features = self.act1(self.norm1(self.conv1(images)))
        features = self.act2(self.norm2(self.conv2(features))).mean((2, 3))
        return self.head(features) + self.other_head(-features)  # type: ignore[no-any-return]


class Views(nn.Module):
    """Buffers that share memory without being the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()
        self.register_buffer("table", torch.arange(40.0))
        self.register_buffer("first", self.table[:20])
        self.register_buffer("square", self.table.view(4, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + self.first[:10] + self.square[1]  # type: ignore[no-any-return]


class LeNet(nn.Module):
    """Of pytorch-cifar: `view` on what comes out of a convolution needs contiguous memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = out.view(out.size(0), -1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(out)))))  # type: ignore[no-any-return]


class Strided(nn.Module):
    """Reads memory as if it were contiguous, and says nothing where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3072, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.as_strided((len(images), 3072), (3072, 1)))  # type: ignore[no-any-return]


class TrainingView(nn.Module):
    """Needs contiguous memory in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(8 * 8 * 8, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        flat = features.view(len(images), -1) if self.training else features.flatten(1)
        return self.head(flat)  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    """Like GoogLeNet: a second classifier in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.extra = small(nn.BatchNorm2d(8)), small()

    def forward(self, images: Tensor) -> Any:
        logits = self.body(images)
        return (logits, self.extra(images)) if self.training else logits


class InPlace(nn.Module):
    """Normalises the pixels that it is given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.sub_(0.5).div_(0.25))  # type: ignore[no-any-return]


class Drawing(nn.Module):
    """Draws from Python's and NumPy's generators, when it starts and in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()
        self.scale = nn.Parameter(torch.tensor([random.random(), np.random.rand()], dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        noise = random.random() + float(np.random.randn()) if self.training else 0.0
        return self.body(images) * self.scale.sum() + noise * self.scale[0]  # type: ignore[no-any-return]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.phase = small(), nn.Parameter(torch.ones(10, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        return (self.body(images) * self.phase).real


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3, stride=4), nn.Flatten(), nn.LazyLinear(10))


def uncopyable() -> nn.Module:
    """PyTorch's first weight normalisation keeps a tensor that cannot be copied."""
    net = small()
    net[0].weight = nn.Parameter(net[0].weight.detach())
    net.kept = net[0].weight * 2
    return net


def half_used() -> nn.Module:
    """A layer that is never called gets no gradient."""
    net = Auxiliary()
    net.forward = net.body.forward  # type: ignore[method-assign]
    return net


# What is refused, each in a sentence.


class VGG(nn.Module):
    def __init__(self, vgg_name: str) -> None:
        super().__init__()
        self.name = vgg_name


def raising() -> nn.Module:
    raise KeyError("VGG99")


def leaving() -> nn.Module:
    sys.exit(3)


def wide() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=1000)


def nothing_to_train() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten(), nn.AvgPool1d(3, padding=1, stride=3))


def no_parameters() -> nn.Module:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10]

    return Mean()


def frozen() -> nn.Module:
    return small().requires_grad_(False)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).detach()  # type: ignore[no-any-return]


class Classes(Detached):
    def forward(self, images: Tensor) -> Tensor:
        return (self.body(images) > 0).long()  # type: ignore[no-any-return]


class NotFinite(Detached):
    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) / 0  # type: ignore[no-any-return]


class Dictionary(Detached):
    def forward(self, images: Tensor) -> Any:
        return {"logits": self.body(images)} if self.training else self.body(images)


class FailsInTraining(Detached):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise ValueError("targets should not be none when in training mode")
        return self.body(images)  # type: ignore[no-any-return]


class Growing(Detached):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.register_buffer("seen", torch.zeros(len(images)))
        return self.body(images)  # type: ignore[no-any-return]


class TwoAtATime(Detached):
    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.reshape(2, 3, 32, 32))  # type: ignore[no-any-return]


class Expanded(Detached):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(1).expand(10))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + self.zeros  # type: ignore[no-any-return]


class KeepsMore(Detached):
    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)  # type: ignore[no-any-return]

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def half() -> nn.Module:
    return small().half()


# Networks of timm, as small as their arguments let them be.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)},
    ),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}),
    "levit": (
        "levit_128s",
        {"img_size": 32, "embed_dim": (32, 48), "key_dim": 8, "num_heads": (2, 3), "depth": (1, 1)},
    ),
    "tiny_vit": (
        "tiny_vit_5m_224",
        {"embed_dims": (16, 24), "depths": (1, 1), "num_heads": (1, 2), "window_sizes": (4, 4)},
    ),
    "efficientformer": ("efficientformer_l1", {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16)}),
    "efficientformerv2": (
        "efficientformerv2_s0",
        {"img_size": 32, "depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32)},
    ),
    "maxvit": (
        "maxvit_rmlp_pico_rw_256",
        {"img_size": 32, "depths": (1, 1), "embed_dim": (32, 32), "stem_width": 16},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "xcit": (
        "xcit_nano_12_p16_224",
        {"img_size": 32, "depth": 2, "cls_attn_layers": 1, "embed_dim": 32, "num_heads": 2},
    ),
    "densenet": ("densenet121", {"growth_rate": 4, "block_config": (1, 1)}),
    "deit": (
        "deit_tiny_distilled_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    ),
    "cait": ("cait_xxs24_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A function that builds a network of a family."""
    if name not in FAMILIES:
        raise AttributeError(name)
    architecture, options = FAMILIES[name]
    enlarge = [nn.Upsample(224)] if name == "efficientformer" else []
    return lambda: nn.Sequential(*enlarge, timm.create_model(architecture, num_classes=10, **options))
