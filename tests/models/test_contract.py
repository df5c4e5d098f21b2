"""One suite over all networks: every one takes pixels in [0, 1], [N, 3, 32, 32], and gives [N, 10] logits."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from cifar.errors import InputError
from cifar.models import FACTORIES, build_model, prepare_model
from cifar.recipes import Recipe, recipe_for, with_settings
from cifar.recipes.names import MODELS, check_name

# Large ones differ from their family by numbers alone: they are built and counted in test_networks.
NAMES = [
    name for name in MODELS if name not in {"resnet32", "resnet44", "resnet56", "resnet110", "vit-medium", "vit-large"}
]


def recipe_of(name: str, *settings: str) -> Recipe:
    if name == "previt":
        settings = ("model_name=vit_tiny_patch16_224", "image_size=32", *settings)
    return with_settings(recipe_for(name), [f"model={name}", *settings])


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe_of(name), pretrained=False)


def some_images(num: int = 4) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_become_finite_logits_and_gradients_reach_every_trained_parameter(name: str) -> None:
    model = build(name)
    logits = model(some_images())
    assert logits.shape == (4, 10)
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, torch.tensor([0, 3, 7, 9])).backward()
    for parameter, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None, parameter
            assert torch.isfinite(tensor.grad).all(), parameter
            assert tensor.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_independent_of_the_batch(name: str) -> None:
    model = build(name).eval()
    images = some_images()
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(logits, model(images))
        torch.testing.assert_close(logits[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(name: str) -> None:
    model = build(name).eval()
    images = some_images()
    with torch.no_grad():
        logits = model(images)
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            model(images.contiguous(memory_format=torch.channels_last)), logits, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    model = build(name).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(5)
    other = build_model(recipe_of(name), pretrained=False).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(model(some_images()), other(some_images()))


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_comes_first(name: str) -> None:
    model = build(name).eval()
    images = some_images()
    stripped = copy.deepcopy(model)
    stripped.normalise = nn.Identity()
    mean, std = model.normalise.mean, model.normalise.std
    with torch.no_grad():
        torch.testing.assert_close(model(images), stripped((images - mean) / std))
        assert not torch.allclose(model(images), stripped(images))


@pytest.mark.parametrize("name", NAMES)
def test_preparing_takes_statistics_over_unless_they_belong_to_weights(name: str) -> None:
    model = build(name)
    before = model.normalise.mean.clone()
    images = torch.randint(0, 100, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    prepare_model(model, images)
    if name == "previt":
        assert torch.equal(model.normalise.mean, before)
    else:
        expected = (images.double() / 255).mean((0, 2, 3))
        torch.testing.assert_close(model.normalise.mean.flatten().double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_every_name_is_valid(name: str) -> None:
    check_name(name)


def test_names_behind_a_colon_are_left_to_building() -> None:
    check_name("timm:resnet18")
    check_name("some.package:function")


def test_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"no model 'vit-tny'\. Did you mean vit-tiny\? Choose from cnn, resnet20"
    ) as caught:
        check_name("vit-tny")
    for name in MODELS:
        assert name in str(caught.value)
    for name in ("", ":", "timm:", ":function", "quxx"):
        with pytest.raises(InputError, match="Choose from"):
            check_name(name)


def test_options_that_a_network_ignores_are_refused() -> None:
    with pytest.raises(InputError, match=r"dropout is 0\.1, but cnn takes no options: leave it out"):
        build_model(recipe_of("cnn", "dropout=0.1"))
    with pytest.raises(InputError, match="image_size is 64, but vit takes dropout, drop_path: leave it out"):
        build_model(recipe_of("vit", "image_size=64"))


def test_options_reach_the_network() -> None:
    model = build_model(recipe_of("vit-tiny", "dropout=0.25", "drop_path=0.5"))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert [block.skip.probability for block in model.blocks] == pytest.approx([0, 1 / 6, 1 / 3, 0.5])


def test_early_images_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(InputError, match="early_image_size is 24: cnn takes no images of that size"):
        build_model(recipe_of("cnn", "early_image_size=24", "early_epochs=1"))


@pytest.mark.parametrize("name", ["resnet20", "speednet", "vit"])
def test_early_images_of_a_network_that_takes_any_size(name: str) -> None:
    assert build_model(recipe_of(name, "early_image_size=24", "early_epochs=1")).training


def test_early_images_that_a_network_would_enlarge_are_refused() -> None:
    with pytest.raises(InputError, match="early_image_size is 32, which previt enlarges"):
        build_model(recipe_of("previt", "image_size=64", "early_image_size=32", "early_epochs=1"), pretrained=False)


def test_names_and_factories_are_the_same() -> None:
    assert tuple(FACTORIES) == MODELS


@pytest.mark.parametrize("name", ["resnet20", "speednet", "previt"])
def test_a_model_has_no_switch_for_epochs_or_kernels(name: str) -> None:
    for module in build(name).modules():
        assert not {"early", "in_c", "early_image_size"} & set(vars(module))
