"""Weights of other people's networks: their own definitions, written as they write them, against ours with the file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hub_server import TINY, Hub, hub_environment
from safetensors.torch import load, save_file
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models import build_model
from cifar.models.foreign import foreign_network, with_our_names
from cifar.models.layers import MEAN, STD
from cifar.recipes import recipe_for

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class TheirBlock(nn.Module):
    """As torchvision, kuangliu, akamaster and chenyaofo name the layers of a residual block."""

    def __init__(self, num_in: int, num_out: int, *, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.stride, self.num_new, self.name = stride, num_out - num_in, ""
        if shortcut and (stride > 1 or num_in != num_out):
            self.name = shortcut
            setattr(
                self,
                shortcut,
                nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out)),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.name:
            short = getattr(self, self.name)(x)
        elif self.num_new:
            short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.num_new // 2, self.num_new // 2))
        else:
            short = x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + short)


class TheirResNet(nn.Module):
    """Stages under layer1, layer2 and so on, and a head whose name differs from author to author."""

    def __init__(self, widths: tuple[int, ...], num_blocks: int, *, head: str, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        num_in = widths[0]
        for stage, width in enumerate(widths, 1):
            blocks = []
            for index in range(num_blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(TheirBlock(num_in, width, stride=stride, shortcut=shortcut))
                num_in = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.num_stages, self.head_name = len(widths), head
        setattr(self, head, nn.Linear(num_in, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head_name)(x.mean((2, 3)))  # type: ignore[no-any-return]


def their_network(model: str) -> TheirResNet:
    torch.manual_seed(0)
    makers: dict[str, Callable[[], TheirResNet]] = {
        "akamaster": lambda: TheirResNet((16, 32, 64), 3, head="linear", shortcut=""),
        "chenyaofo": lambda: TheirResNet((16, 32, 64), 3, head="fc", shortcut="downsample"),
        "kuangliu": lambda: TheirResNet((64, 128, 256, 512), 2, head="linear", shortcut="shortcut"),
    }
    network = makers[model]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # otherwise an exchanged mean and bias would not be noticed
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def pixels(num_images: int = 4) -> Tensor:
    return torch.rand(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def as_normalised(images: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
    return (images - mean) / std


@pytest.mark.parametrize("author, model, prefix, wrapper", [
    ("akamaster", "resnet20", "module.", "state_dict"), ("chenyaofo", "resnet20", "", ""),
    ("kuangliu", "resnet18", "module.", "net"), ("akamaster", "resnet20", "_orig_mod.", ""),
])  # fmt: skip
def test_logits_are_those_of_their_own_network(
    author: str, model: str, prefix: str, wrapper: str, tmp_path: Path
) -> None:
    theirs, path = their_network(author), tmp_path / "theirs.pth"
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save({wrapper: state, "best_prec1": 91.7} if wrapper else state, path)
    network = foreign_network(str(path), model, normalise=IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels()), theirs(as_normalised(pixels(), IMAGENET)), rtol=1e-4, atol=1e-4)
    assert not network.training


def test_half_precision_and_safetensors_are_read_and_statistics_default_to_those_of_cifar10(tmp_path: Path) -> None:
    theirs = their_network("akamaster").half().float()
    save_file({name: tensor.half() for name, tensor in theirs.state_dict().items()}, tmp_path / "half.safetensors")
    network = foreign_network(str(tmp_path / "half.safetensors"), "resnet20", normalise=None)
    with torch.no_grad():
        expected = theirs(as_normalised(pixels(), (MEAN, STD)))
        torch.testing.assert_close(network(pixels()), expected, rtol=1e-4, atol=1e-4)


def test_a_network_of_timm_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build_model(recipe_for("timm:test_resnet"))
    torch.save(ours.network.state_dict(), tmp_path / "inner.pth")  # type: ignore[union-attr, operator]
    network = foreign_network(str(tmp_path / "inner.pth"), "timm:test_resnet", normalise=IMAGENET)
    with torch.no_grad():
        expected = ours.eval().network(as_normalised(pixels(), IMAGENET))  # type: ignore[operator]
        torch.testing.assert_close(network(pixels()), expected, rtol=1e-4, atol=1e-4)


def test_statistics_of_our_own_weights_are_kept(tmp_path: Path) -> None:
    ours = build_model(recipe_for("cnn"))
    ours.normalise.mean.fill_(0.3)  # type: ignore[union-attr, operator]
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    network = foreign_network(str(tmp_path / "ours.pth"), "cnn", normalise=None)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels()), ours.eval()(pixels()))


def test_weights_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    theirs = their_network("akamaster")
    theirs.linear = nn.Linear(64, 100)
    torch.save(theirs.state_dict(), tmp_path / "hundred.pth")
    with pytest.raises(InputError, match="is of 100 classes and CIFAR-10 has 10"):
        foreign_network(str(tmp_path / "hundred.pth"), "resnet20", normalise=None)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(their_network("akamaster").state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"theirs.pth does not fit resnet32: .* is missing"):
        foreign_network(str(tmp_path / "theirs.pth"), "resnet32", normalise=None)


def test_names_without_stages_stay() -> None:
    tensors = {"head.weight": torch.zeros(1), "conv1.weight": torch.zeros(1)}
    assert with_our_names(tensors) == tensors


def test_a_network_of_the_hub_by_its_name(hub: Hub, tmp_path: Path) -> None:
    """With the statistics and the size of its configuration; a second time without a network."""
    program = (
        "import torch; from cifar.models.foreign import foreign_network\n"
        f"network = foreign_network('timm:hf_hub:timm/{TINY}', '', normalise=None)\n"
        "print(network.image_size, [round(value, 3) for value in network.normalise.mean.flatten().tolist()])\n"
        "print(network.network.head.weight.sum().item())"
    )
    for offline in (False, True):
        environment = hub_environment(hub.url, tmp_path / "home", offline=offline)
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        size, weight = done.stdout.splitlines()
        assert size == "160 [0.5, 0.4, 0.3]"
        assert float(weight) == pytest.approx(load(hub.body)["head.weight"].sum().item(), rel=1e-5)
