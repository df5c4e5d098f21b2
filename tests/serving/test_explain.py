"""Grad-CAM against manual gradients and finite differences; maps whose bright region is known in advance."""

import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, load
from cifar.errors import InputError, WorldError
from cifar.models import FACTORIES
from cifar.models.cnn import layer_by_layer
from cifar.models.layers import Normalise
from cifar.models.pretrained import build_timm
from cifar.models.resnet import resnet20
from cifar.models.vit import VisionTransformer, vit_tiny
from cifar.serving.classifier import Predictions
from cifar.serving.explain import (
    GRAD_CAM,
    ROLLOUT,
    describe,
    enlarge,
    explain,
    feature_layer,
    grad_cam,
    method_of,
    scale,
)

OURS = [name for name in FACTORIES if name not in ("previt", "resnet110", "vit-large")]  # those take long


class Corner(nn.Module):
    """Pixels of the upper left quarter alone, the others black."""

    def forward(self, images: Tensor) -> Tensor:
        mask = torch.zeros(32, 32)
        mask[:16, :16] = 1
        return images * mask


def tiny() -> tuple[nn.Sequential, nn.Module]:
    """A network of one convolution, an activation and two linear layers; and the layer to look at."""
    torch.manual_seed(0)
    activation = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), activation, nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)
    ).eval(), activation


@pytest.fixture(scope="module")
def image(sample: Dataset) -> Tensor:
    return load(sample, "train").images[0]


@pytest.fixture
def pixels(image: Tensor) -> Tensor:
    return image[None].float() / 255


@pytest.mark.parametrize("label", [None, 0, 7])
def test_grad_cam_equals_finite_differences(pixels: Tensor, label: int | None) -> None:
    network, activation = tiny()
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
    heat = grad_cam(network, activation, pixels, label=label)
    assert torch.allclose(heat, slow, atol=1e-6)
    assert heat.max() > 0


@pytest.mark.parametrize("label", [None, 3])
def test_grad_cam_before_a_mean_and_a_head_equals_the_class_activation_map(image: Tensor, label: int | None) -> None:
    """Zhou et al. 2016: the features weighted by the weights of the head."""
    torch.manual_seed(0)
    network = resnet20().eval()
    with torch.no_grad():
        pixels = image[None].float() / 255
        features = network.blocks(network.stem(network.normalise(pixels)))[0]
        target = int(network(pixels).argmax()) if label is None else label
        slow = torch.einsum("c,chw->hw", network.head.weight[target], features).clamp_min(0)
    expected = enlarge(slow / slow.max())
    assert torch.allclose(explain(network, image, label=label), expected / expected.max(), atol=1e-4)


@pytest.mark.parametrize("label", [None, 7])
def test_grad_cam_of_the_cnn_is_that_of_its_last_convolution_before_pooling(image: Tensor, label: int | None) -> None:
    """By hand: 8×8 cells of the last ReLU, of which the network itself only has the 4×4 that are pooled."""
    torch.manual_seed(0)
    network = FACTORIES["cnn"]().eval()
    features = network.normalise(image[None].float() / 255)
    for number in (0, 3, 6):
        features = features if number == 0 else F.max_pool2d(features, 2)
        features = network.features[number](features).relu()
    features.retain_grad()
    logits = network.head(F.max_pool2d(features, 2).flatten(1))[0]
    logits[int(logits.argmax()) if label is None else label].backward()
    assert features.grad is not None
    assert features.shape == (1, 32, 8, 8)
    slow = torch.zeros(8, 8)
    for channel in range(32):
        slow += features.grad[0, channel].mean() * features[0, channel].detach()
    slow = slow.clamp_min(0)
    layers = layer_by_layer(network)
    found = grad_cam(layers, feature_layer(layers), image[None].float() / 255, label=label)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-7)
    assert found.max() > 0
    heat = enlarge(slow)
    assert torch.allclose(explain(network, image, label=label), heat / heat.max(), atol=1e-4)


def test_grad_cam_of_a_network_that_sees_one_corner_is_bright_there(pixels: Tensor) -> None:
    network, activation = tiny()
    nn.init.zeros_(network[0].bias)
    heat = enlarge(grad_cam(nn.Sequential(Corner(), *network), activation, pixels))
    assert heat[:12, :12].max() > 0
    assert heat[20:].abs().max() == heat[:, 20:].abs().max() == 0
    network, activation = tiny()
    elsewhere = enlarge(grad_cam(network, activation, pixels, label=1))
    assert max(elsewhere[20:].max(), elsewhere[:, 20:].max()) > 0  # without the mask it looks elsewhere too


def test_rollout_of_a_transformer_that_attends_to_the_brightest_patch_is_bright_there() -> None:
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
def test_every_network_has_a_map_in_range_and_is_not_changed(name: str, image: Tensor) -> None:
    torch.manual_seed(0)
    network = FACTORIES[name]().train()
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
def test_networks_of_timm_are_explained(name: str, image: Tensor) -> None:
    torch.manual_seed(0)
    network = build_timm(name, pretrained=False, size_of_weights=False, image_size=64 if name != "test_vit" else 0)
    heat = explain(network, image)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert method_of(network) is (ROLLOUT if name == "test_vit" else GRAD_CAM)


def test_grad_cam_explains_the_most_likely_class_or_the_given_one(image: Tensor) -> None:
    torch.manual_seed(0)
    network = FACTORIES["cnn"]().eval()
    with torch.no_grad():
        most_likely = int(network(image[None].float() / 255).argmax())
    heats = [explain(network, image, label=label) for label in range(10)]
    assert torch.equal(explain(network, image), heats[most_likely])
    assert len({tuple(heat.flatten().tolist()) for heat in heats}) > 1
    with pytest.raises(InputError, match="same for every class"):
        explain(vit_tiny(), image, label=0)


def test_networks_that_cannot_be_explained_are_refused(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Sequential cannot be explained"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), image)
    with pytest.raises(InputError, match="vit3 cannot be explained: attention rollout needs"):
        explain(build_timm("test_vit3", pretrained=False, size_of_weights=False), image)
    with pytest.raises(InputError, match="one cell"):  # 32 pixels downsampled five times
        explain(build_timm("test_resnet", pretrained=False, size_of_weights=False), image)
    tokens = nn.Flatten(2)
    with pytest.raises(InputError, match="not a map of channels"):
        grad_cam(nn.Sequential(tokens, nn.Flatten(), nn.Linear(3072, 10)), tokens, image[None].float())
    with pytest.raises(InputError, match="not a map of channels"):  # a layer that is not called
        grad_cam(tiny()[0], nn.ReLU(), image[None].float())
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(WorldError, match=r'pip install "cifar\[explain\]"'):
        explain(resnet20(), image)
    assert explain(vit_tiny(), image).max() == 1  # rollout needs no captum


def test_uniform_maps_become_zero() -> None:
    for value in (0.0, 1 / 64, 7.0):
        constant = torch.full((32, 32), value)
        noisy = constant * (1 + 1e-7 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
        for heat in (constant, noisy):
            assert not scale(heat, lowest_is_zero=True).any()
    assert not scale(torch.zeros(32, 32), lowest_is_zero=False).any()
    uniform = scale(torch.full((32, 32), 3.0), lowest_is_zero=False)  # the same evidence everywhere
    assert torch.equal(uniform, torch.ones(32, 32))
    ramp = torch.linspace(2, 4, 1024).view(32, 32)
    assert (scale(ramp, lowest_is_zero=True).min(), scale(ramp, lowest_is_zero=False).min()) == (0, 0.5)
    with torch.no_grad():
        network = vit_tiny().eval()
        network.positions.zero_()
        for block in network.blocks:
            block.attention.qkv.weight.zero_()  # every token attends to all tokens equally
    assert not explain(network, torch.full((3, 32, 32), 9, dtype=torch.uint8)).any()


@pytest.mark.parametrize("side", [3, 4, 8, 14, 32, 37])
def test_enlarging_keeps_positions(side: int) -> None:
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


def test_explanations_do_not_depend_on_other_threads(image: Tensor) -> None:
    """The network gets no hooks: predictions and explanations in other threads change no map."""
    torch.manual_seed(0)
    network = FACTORIES["cnn"]().eval()
    images = torch.stack([image, 255 - image, image.flip(1), image.flip(2)])
    expected = [explain(network, image) for image in images]
    heats: dict[int, Tensor] = {}

    def work(number: int) -> None:
        for _ in range(3):
            heats[number] = explain(network, images[number])
            with torch.inference_mode():
                network(torch.rand(5, 3, 32, 32))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(heats[number], expected[number]) for number in range(4))


def test_describe_names_classes_method_and_limits() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.0, 0.1, 0, 0, 0, 0, 0, 0]])
    answer, looked_at, text = describe(Predictions(probs), GRAD_CAM)
    assert answer == "airplane 60.0%, then automobile 30.0%"
    assert looked_at == "evidence for airplane"
    assert "Selvaraju" in text
    assert "It shows neither" in text
    assert describe(Predictions(probs), GRAD_CAM, label=3)[:2] == (
        "airplane 60.0%, then automobile 30.0%; cat 10.0%", "evidence for cat",
    )  # fmt: skip
    _, looked_at, text = describe(Predictions(probs), ROLLOUT)
    assert looked_at == "attention"
    assert "Abnar" in text
    assert "same for every class" in text
