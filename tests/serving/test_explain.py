"""Grad-CAM against gradients taken by hand and by finite differences; maps whose bright place is known beforehand."""

import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, load
from cifar.errors import InputError, WorldError
from cifar.models import MODELS
from cifar.models.layers import Normalise
from cifar.models.pretrained import build_timm
from cifar.models.resnet import resnet20
from cifar.models.vit import VisionTransformer, vit_tiny
from cifar.serving.classifier import Predictions
from cifar.serving.explain import GRAD_CAM, ROLLOUT, describe, enlarge, explain, grad_cam, method_of, scale

OURS = [name for name in MODELS if name not in ("previt", "resnet110", "vit-large")]  # those take long


class Corner(nn.Module):
    """Pixels of the upper left quarter alone, the others black."""

    def forward(self, images: Tensor) -> Tensor:
        mask = torch.zeros(32, 32)
        mask[:16, :16] = 1
        return images * mask


def tiny() -> tuple[nn.Sequential, nn.Module]:
    """A network of one convolution, bend and two layers behind, and the layer to look at."""
    torch.manual_seed(0)
    bend = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), bend, nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)
    ).eval(), bend


@pytest.fixture(scope="module")
def image(sample: Dataset) -> Tensor:
    return load(sample, "train").images[0]


@pytest.fixture
def pixels(image: Tensor) -> Tensor:
    return image[None].float() / 255


@pytest.mark.parametrize("label", [None, 0, 7])
def test_grad_cam_by_finite_differences(pixels: Tensor, label: int | None) -> None:
    network, bend = tiny()
    network = network.double().requires_grad_(False)
    pixels = pixels.double()
    features = network[:2](pixels)[0]  # [4, 4, 4]
    logits = network(pixels)[0]
    target = int(logits.argmax()) if label is None else label
    step, slow = 1e-5, torch.zeros(4, 4, dtype=torch.float64)
    for channel in range(4):
        gradient = 0.0
        for row in range(4):
            for column in range(4):
                moved = features.clone()
                moved[channel, row, column] += step
                gradient += float((network[2:](moved[None])[0, target] - logits[target]) / step) / 16
        slow += gradient * features[channel].detach()
    slow = slow.clamp_min(0)
    found = grad_cam(network, bend, pixels, label=label)
    assert torch.allclose(found, slow, atol=1e-6)
    assert found.max() > 0


@pytest.mark.parametrize("label", [None, 3])
def test_grad_cam_before_a_mean_and_a_head_is_the_class_activation_map(image: Tensor, label: int | None) -> None:
    """Zhou et al. 2016: there the features weighted by the head's own weights."""
    torch.manual_seed(0)
    network = resnet20().eval()
    with torch.no_grad():
        pixels = image[None].float() / 255
        features = network.blocks(network.stem(network.normalise(pixels)))[0]
        target = int(network(pixels).argmax()) if label is None else label
        slow = torch.einsum("c,chw->hw", network.head.weight[target], features).clamp_min(0)
    expected = enlarge(slow / slow.max())
    assert torch.allclose(explain(network, image, label=label), expected / expected.max(), atol=1e-4)


def test_a_network_that_sees_one_corner_lights_up_that_corner(pixels: Tensor) -> None:
    network, bend = tiny()
    nn.init.zeros_(network[0].bias)
    heat = enlarge(grad_cam(nn.Sequential(Corner(), *network), bend, pixels))
    assert heat[:12, :12].max() > 0
    assert heat[20:].abs().max() == heat[:, 20:].abs().max() == 0
    network, bend = tiny()
    elsewhere = enlarge(grad_cam(network, bend, pixels, label=1))
    assert max(elsewhere[20:].max(), elsewhere[:, 20:].max()) > 0  # without the mask it looks elsewhere too


def test_a_transformer_that_attends_to_the_bright_patch_lights_it_up() -> None:
    """Keys are the brightness of a patch, queries ask for it."""
    network = VisionTransformer(8, depth=1, num_heads=1, plain=True).eval()
    with torch.no_grad():
        for parameter in (network.positions, network.patches.weight, network.patches.bias):
            parameter.zero_()
        network.normalise = Normalise((0.0,) * 3, (1.0,) * 3)
        network.patches.weight[0] = 1 / 48
        attention = network.blocks[0].attention
        attention.qkv.weight.zero_()
        attention.qkv.bias[0] = 3
        attention.qkv.weight[8, 0] = 3
    for top, left in ((0, 0), (28, 28), (12, 20)):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[:, top : top + 4, left : left + 4] = 255
        heat = explain(network, image)
        assert divmod(int(heat.argmax()), 32)[0] // 4 == top // 4
        assert divmod(int(heat.argmax()), 32)[1] // 4 == left // 4
        assert heat.max() == 1
        assert heat.mean() < 0.1


@pytest.mark.parametrize("name", OURS)
def test_every_network_has_a_map_in_range_and_is_left_as_it_was(name: str, image: Tensor) -> None:
    torch.manual_seed(0)
    network = MODELS[name]().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heat = explain(network, image)
    assert heat.shape == (32, 32)
    assert heat.dtype == torch.float32
    assert heat.min() >= 0
    assert heat.max() == 1 or not heat.any()
    assert not heat.requires_grad
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert method_of(network) is (ROLLOUT if name.startswith("vit") else GRAD_CAM)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_networks_of_timm(name: str, image: Tensor) -> None:
    torch.manual_seed(0)
    network = build_timm(name, pretrained=False, size_of_weights=False, image_size=64 if name != "test_vit" else 0)
    heat = explain(network, image)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert method_of(network) is (ROLLOUT if name == "test_vit" else GRAD_CAM)


def test_classes(image: Tensor) -> None:
    torch.manual_seed(0)
    network = MODELS["cnn"]().eval()
    with torch.no_grad():
        likeliest = int(network(image[None].float() / 255).argmax())
    heats = [explain(network, image, label=label) for label in range(10)]
    assert torch.equal(explain(network, image), heats[likeliest])
    assert len({tuple(heat.flatten().tolist()) for heat in heats}) > 1
    with pytest.raises(InputError, match="same for every class"):
        explain(vit_tiny(), image, label=0)


def test_what_cannot_be_explained_is_refused(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Sequential cannot be explained"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), image)
    with pytest.raises(InputError, match="vit3 cannot be explained: attention rollout needs"):
        explain(build_timm("test_vit3", pretrained=False, size_of_weights=False), image)
    with pytest.raises(InputError, match="one cell"):  # 32 pixels halved five times
        explain(build_timm("test_resnet", pretrained=False, size_of_weights=False), image)
    tokens = nn.Flatten(2)
    with pytest.raises(InputError, match="no map of channels"):
        grad_cam(nn.Sequential(tokens, nn.Flatten(), nn.Linear(3072, 10)), tokens, image[None].float())
    with pytest.raises(InputError, match="no map of channels"):  # a layer that is not called
        grad_cam(tiny()[0], nn.ReLU(), image[None].float())
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(WorldError, match=r'pip install "cifar\[explain\]"'):
        explain(resnet20(), image)
    assert explain(vit_tiny(), image).max() == 1  # which needs no captum


def test_constant_maps_are_zero() -> None:
    for value in (0.0, 1 / 64, 7.0):
        constant = torch.full((32, 32), value)
        noisy = constant * (1 + 1e-7 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
        for heat in (constant, noisy):
            assert not scale(heat, lowest_is_zero=True).any()
    assert not scale(torch.zeros(32, 32), lowest_is_zero=False).any()
    everywhere = scale(torch.full((32, 32), 3.0), lowest_is_zero=False)  # evidence in every place alike
    assert torch.equal(everywhere, torch.ones(32, 32))
    ramp = torch.linspace(2, 4, 1024).view(32, 32)
    assert (scale(ramp, lowest_is_zero=True).min(), scale(ramp, lowest_is_zero=False).min()) == (0, 0.5)
    with torch.no_grad():
        network = vit_tiny().eval()
        network.positions.zero_()
        for block in network.blocks:
            block.attention.qkv.weight.zero_()  # every token attends to all alike
    assert not explain(network, torch.full((3, 32, 32), 9, dtype=torch.uint8)).any()


@pytest.mark.parametrize("side", [3, 4, 8, 14, 32, 37])
def test_enlarging_keeps_places(side: int) -> None:
    heat = torch.zeros(side, side)
    heat[0, -1] = 1
    large = enlarge(heat)
    assert large.shape == (32, 32)
    assert int(large.argmax()) // 32 <= 32 // side
    assert int(large.argmax()) % 32 >= 32 - 32 // side - 1
    assert torch.allclose(enlarge(torch.ones(side, side)), torch.ones(32, 32))
    if side == 8:
        slow = F.interpolate(heat[None, None], (32, 32), mode="bilinear")[0, 0]
        assert torch.allclose(large, slow, atol=1e-6)


def test_a_network_may_be_in_use_meanwhile(image: Tensor) -> None:
    """Nothing is hooked to it: predictions and explanations of other images in other threads change no map."""
    torch.manual_seed(0)
    network = MODELS["cnn"]().eval()
    images = torch.stack([image, 255 - image, image.flip(1), image.flip(2)])
    alone = [explain(network, one) for one in images]
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = explain(network, images[number])
            with torch.inference_mode():
                network(torch.rand(5, 3, 32, 32))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(found[number], alone[number]) for number in range(4))


def test_the_words() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.0, 0.1, 0, 0, 0, 0, 0, 0]])
    answer, looked_at, text = describe(Predictions(probs), GRAD_CAM)
    assert answer == "airplane 60.0%, then automobile 30.0%"
    assert looked_at == "what speaks for airplane"
    assert "Selvaraju" in text
    assert "does not show" in text
    assert describe(Predictions(probs), GRAD_CAM, label=3)[:2] == (
        "airplane 60.0%, then automobile 30.0%; cat 10.0%", "what speaks for cat",
    )  # fmt: skip
    _, looked_at, text = describe(Predictions(probs), ROLLOUT)
    assert looked_at == "what is attended to"
    assert "Abnar" in text
    assert "same for every class" in text
