"""Each architecture against what its paper, its issue or a slow loop says."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from cifar.errors import InputError
from cifar.kernels.build import using
from cifar.models import FACTORIES, prepare_model
from cifar.models.cnn import CNN, layer_by_layer
from cifar.models.layers import MEAN, STD, Normalise, pixel_statistics, resize
from cifar.models.repair import repair_torchvision
from cifar.models.resnet import PaddedShortcut
from cifar.models.speednet import Block, SpeedNet, Whitening, speednet, whitening_filters
from cifar.models.vit import Attention, SkipBranch, VisionTransformer, attend, positions_for


def natural_images(num: int, *, side: int = 32) -> torch.Tensor:
    """uint8 [num, 3, side, side] whose neighbouring pixels and channels are alike, as those of photographs are."""
    generator = torch.Generator().manual_seed(3)
    grey = F.interpolate(torch.rand(num, 1, 8, 8, generator=generator), side, mode="bilinear")
    colour = F.interpolate(torch.rand(num, 3, 16, 16, generator=generator), side, mode="bilinear")
    noise = torch.rand(num, 3, side, side, generator=generator)
    return ((0.6 * grey + 0.3 * colour + 0.1 * noise) * 255).to(torch.uint8)


@pytest.mark.parametrize(
    "name, expected",
    [
        # cnn: (3·25+1)·8 + (8·25+1)·16 + (16·25+1)·32 + (512+1)·64 + (64+1)·32 + (32+1)·10
        ("cnn", 608 + 3_216 + 12_832 + 32_832 + 2_080 + 330),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet18", 11_173_962),
    ],
)
def test_parameter_counts(name: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in FACTORIES[name]().parameters()) == expected


def test_cnn_is_that_of_the_original_project() -> None:
    layers = [module for module in FACTORIES["cnn"]().modules() if not list(module.children())]
    found = []
    for layer in layers[1:]:
        if isinstance(layer, nn.Conv2d):
            found.append((layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, nn.Linear):
            found.append((layer.in_features, layer.out_features))
        elif isinstance(layer, nn.MaxPool2d):
            found.append(("pool", layer.kernel_size, layer.stride))
        else:
            found.append(type(layer))
    assert isinstance(layers[0], Normalise)
    expected: list[object] = []
    for num_in, num_out in ((3, 8), (8, 16), (16, 32)):
        expected += [(num_in, num_out, (5, 5), (1, 1), (2, 2)), ("pool", 2, 2), nn.ReLU]
    assert found == [*expected, (512, 64), nn.ReLU, (64, 32), nn.ReLU, (32, 10)]


def test_cnn_gives_what_relu_before_pooling_gives() -> None:
    model = FACTORIES["cnn"]()
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def relu_first(images: torch.Tensor) -> torch.Tensor:
        features = model.normalise(images)
        for conv in (0, 3, 6):
            features = F.max_pool2d(F.relu(model.features[conv](features)), 2)
        return model.head(features.flatten(1))

    found = []
    for forward in (model, relu_first):
        model.zero_grad()
        logits = forward(images)
        logits.square().sum().backward()
        found.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("name, num_layers", [("resnet20", 20), ("resnet32", 32), ("resnet56", 56), ("resnet18", 18)])
def test_resnets_have_as_many_layers_as_their_names_say(name: str, num_layers: int) -> None:
    modules = FACTORIES[name]().modules()
    layers = [m for m in modules if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))]
    assert len(layers) == num_layers


def test_padded_shortcut_against_a_loop() -> None:
    features = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 8, 3, 3)
    for channel in range(4):
        for row in range(3):
            for column in range(3):
                expected[:, channel + 2, row, column] = features[:, channel, 2 * row, 2 * column]
    assert torch.equal(PaddedShortcut(4, stride=2)(features), expected)


def test_normalise_starts_with_the_statistics_of_cifar10() -> None:
    layer = Normalise()
    images = torch.tensor(MEAN).view(1, 3, 1, 1) + torch.tensor(STD).view(1, 3, 1, 1) * torch.ones(1, 3, 2, 2)
    torch.testing.assert_close(layer(images), torch.ones(1, 3, 2, 2))


def test_fitted_statistics_are_those_of_numpy() -> None:
    images = natural_images(70)
    mean, std = pixel_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean.numpy(), pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), pixels.std((0, 2, 3)), rtol=1e-9)
    layer = Normalise()
    layer.fit(images)
    normalised = layer(images.float() / 255)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_frozen_statistics_stay() -> None:
    layer = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), frozen=True)
    layer.fit(natural_images(2))
    assert torch.equal(layer.mean, torch.full((1, 3, 1, 1), 0.5))


def test_statistics_of_nothing_floats_and_a_single_colour() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pixel_statistics(torch.zeros(0, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        pixel_statistics(torch.zeros(1, 3, 2, 2))
    _, std = pixel_statistics(torch.full((2, 3, 2, 2), 7, dtype=torch.uint8))
    assert (std > 0).all()


def test_whitening_filters_against_a_slow_loop() -> None:
    images = natural_images(40, side=8).double() / 255 - 0.5
    patches = []
    for image in images.numpy():
        for row in range(7):
            for column in range(7):
                patches.append(image[:, row : row + 2, column : column + 2].ravel())
    second = np.mean([np.outer(patch, patch) for patch in patches], axis=0)
    variances, vectors = np.linalg.eigh(second)
    filters = whitening_filters(images, eps=5e-4)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])
    for found, variance, vector in zip(filters[:12].flatten(1).numpy(), variances[::-1], vectors.T[::-1], strict=True):
        expected = vector / math.sqrt(variance + 5e-4)
        np.testing.assert_allclose(found * np.sign(found @ expected), expected, rtol=1e-6, atol=1e-6)


def test_whitened_patches_are_decorrelated() -> None:
    images = natural_images(200).double() / 255
    images -= images.mean((0, 2, 3), keepdim=True)
    outputs = F.conv2d(images, whitening_filters(images, eps=0.0)[:12]).transpose(0, 1).flatten(1)  # [12, patches]
    torch.testing.assert_close(outputs @ outputs.T / outputs.shape[1], torch.eye(12).double(), rtol=0, atol=1e-6)


def test_whitening_needs_images() -> None:
    with pytest.raises(ValueError, match="at least 24 images: there are 23"):
        whitening_filters(torch.rand(23, 3, 4, 4))


def test_preparing_a_speednet_whitens_what_it_sees() -> None:
    torch.manual_seed(0)
    model, images = speednet(), natural_images(100)
    prepare_model(model, images)
    seen = model.normalise(images.float() / 255)
    torch.testing.assert_close(model.whitening.filters, whitening_filters(seen))
    again = speednet()
    prepare_model(again, images)
    assert torch.equal(model.whitening.filters, again.whitening.filters)


def test_whitening_filters_are_no_parameters() -> None:
    layer = Whitening()
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert sorted(layer.state_dict()) == ["bias", "filters"]


def test_speednet_starts_as_the_identity_where_it_can() -> None:
    convs = [module for module in speednet().modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [
        (24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256),
    ]  # fmt: skip
    features = torch.rand(1, 24, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(convs[0](features)[:, :24], features)


def test_speednet_of_the_reference_has_the_widths_and_the_activation_asked_for() -> None:
    model = speednet(activation="silu")
    assert isinstance(model, SpeedNet)
    assert model.head.weight.shape == (10, 256)
    assert model.head.weight.std().item() == pytest.approx(1, abs=1e-5)
    assert sum(isinstance(module, nn.SiLU) for module in model.modules()) == 7
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.bias.requires_grad and not norm.weight.requires_grad for norm in norms)


def test_narrow_speednet_and_wrong_arguments() -> None:
    assert speednet(widths=(8, 16, 16))(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(InputError, match="choose from gelu, silu, relu"):
        speednet(activation="swish")
    with pytest.raises(InputError, match="three numbers of channels"):
        speednet(widths=(8, 16))


@pytest.mark.parametrize("size", [9, 16, 24, 31, 33, 40])
def test_speednet_takes_images_of_nine_pixels_a_side_or_more(size: int) -> None:
    model = speednet(widths=(8, 16, 16))
    assert model(torch.rand(2, 3, size, size)).shape == (2, 10)
    with pytest.raises(RuntimeError, match="too small"):
        model(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["native", "pytorch"])
def test_a_block_of_speednet_is_its_layers_one_after_the_other(activation: str, training: bool, kind: str) -> None:
    torch.manual_seed(0)
    block = Block(8, 16, activation=activation).train(training).to(memory_format=torch.channels_last)
    other = copy.deepcopy(block)
    features = torch.randn(5, 8, 11, 11).to(memory_format=torch.channels_last)
    with using(kind):
        ours = block(features)
    with using("pytorch"):
        right = other.layers(features)
    assert torch.equal(ours, right) == (kind == "pytorch")
    torch.testing.assert_close(ours, right, rtol=1e-3, atol=1e-4)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(dict(block.named_buffers())[name], buffer, rtol=1e-4, atol=1e-5)


def test_cnn_layer_by_layer_is_the_same_network() -> None:
    torch.manual_seed(0)
    model = FACTORIES["cnn"]().to(memory_format=torch.channels_last).eval()
    assert isinstance(model, CNN)
    layers = layer_by_layer(model)
    assert not layers.training
    assert {id(parameter) for parameter in layers.parameters()} == {id(parameter) for parameter in model.parameters()}
    images = torch.rand(20, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(layers(images), model(images), rtol=1e-4, atol=1e-5)
        with using("pytorch"):
            assert torch.equal(layers(images), model(images))
        names = [name for name, _ in layers.named_children()]
        assert layers[: names.index("relu3") + 1](images).shape == (20, 32, 8, 8)


def test_resizing_keeps_or_shrinks_or_enlarges() -> None:
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert resize(pixels, 32) is pixels
    smaller = F.interpolate(pixels, size=(24, 24), mode="bilinear", antialias=True)
    assert torch.equal(resize(pixels, 24), smaller)
    larger = F.interpolate(pixels, size=(64, 64), mode="bicubic", antialias=True)
    assert larger.max() > 1  # bicubic overshoots
    assert torch.equal(resize(pixels, 64), larger.clamp(0, 1))
    constant = torch.full((1, 3, 32, 32), 0.25)
    for size in (9, 24, 48):
        torch.testing.assert_close(resize(constant, size), torch.full((1, 3, size, size), 0.25))


@pytest.mark.parametrize("name", ["cnn", "resnet20", "resnet18", "speednet"])
def test_weights_have_their_names(name: str) -> None:
    """Those of runs that were saved before must load."""
    keys = list(FACTORIES[name]().state_dict())
    expected = {
        "cnn": ["features.0.weight", "features.3.bias", "features.6.weight", "head.4.bias"],
        "resnet20": ["stem.0.weight", "blocks.0.conv1.weight", "blocks.8.norm2.num_batches_tracked"],
        "resnet18": ["blocks.2.shortcut.0.weight", "blocks.7.conv2.weight"],
        "speednet": ["whitening.filters", "blocks.0.layers.0.weight", "blocks.2.layers.5.bias"],
    }[name]  # fmt: skip
    assert set(expected) <= set(keys)
    assert len(keys) == {"cnn": 14, "resnet20": 118, "resnet18": 124, "speednet": 41}[name]


def test_attention_against_a_loop() -> None:
    torch.manual_seed(0)
    layer = Attention(12, num_heads=3)
    tokens = torch.rand(2, 5, 12)
    expected = torch.zeros(2, 5, 12)
    for image in range(2):
        query, key, value = layer.qkv(tokens[image]).split(12, dim=1)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for token in range(5):
                scores = torch.stack([query[token, part] @ key[other, part] / math.sqrt(4) for other in range(5)])
                weights = scores.exp() / scores.exp().sum()
                expected[image, token, part] = sum(weights[other] * value[other, part] for other in range(5))
    torch.testing.assert_close(layer(tokens), layer.out(expected))


def test_attention_on_a_cpu_is_that_of_the_fused_kernel() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 7, 4, requires_grad=True) for _ in range(3)]
    results = [attention(*inputs) for attention in (attend, scaled_dot_product_attention)]
    torch.testing.assert_close(*results)
    for ours, torchs in zip(*(torch.autograd.grad(result.square().sum(), inputs) for result in results), strict=True):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("name, num_patches", [("vit", 64), ("vit-patch", 64), ("vit-tiny", 64)])
def test_transformers_cut_an_image_into_patches_of_four_pixels(name: str, num_patches: int) -> None:
    model = FACTORIES[name]()
    assert isinstance(model, VisionTransformer)
    assert model.patches(torch.rand(1, 3, 32, 32)).flatten(2).shape[2] == num_patches == model.positions.shape[1]
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == (1 if name == "vit-patch" else 4)


def test_positions_tell_tokens_apart() -> None:
    torch.manual_seed(0)
    model = FACTORIES["vit-patch"]().eval()
    image = torch.rand(1, 3, 32, 32)
    swapped = image.clone()
    swapped[:, :, :4, :4], swapped[:, :, 4:8, 8:12] = image[:, :, 4:8, 8:12], image[:, :, :4, :4]
    with torch.no_grad():
        assert not torch.allclose(model(image), model(swapped), atol=1e-6)
        model.positions.zero_()
        torch.testing.assert_close(model(image), model(swapped))


@pytest.mark.parametrize("size", [16, 24, 48])
def test_positions_of_another_image_size_against_timm(size: int) -> None:
    repair_torchvision()
    from timm.layers import resample_abs_pos_embed

    torch.manual_seed(0)
    model = VisionTransformer(16, depth=1, num_heads=2).eval()
    expected = resample_abs_pos_embed(model.positions, new_size=[size // 4] * 2, num_prefix_tokens=0)
    torch.testing.assert_close(positions_for(model.positions, size // 4), expected)
    assert positions_for(model.positions, 8) is model.positions
    assert model(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_skipped_branches_at_both_ends() -> None:
    branch = torch.ones(4_000, 1, 1)
    assert SkipBranch(0.0)(branch) is branch
    assert SkipBranch(0.9).eval()(branch) is branch
    torch.manual_seed(0)
    dropped = SkipBranch(0.25)(branch)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (SkipBranch(0.999_999)(branch) == 0).all()
