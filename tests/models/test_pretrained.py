"""timm's networks: weights from files and from the hub, sizes, and the functions that users bring."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from cifar.errors import InputError, WorldError
from cifar.models import build_model
from cifar.models.layers import resize
from cifar.models.pretrained import Pretrained, build_timm, create, previt
from cifar.models.repair import repair_torchvision
from cifar.models.weights import read_weights
from cifar.recipes import Recipe, recipe_for, with_settings

TINY = "vit_tiny_patch16_224"


def tiny(size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return create(TINY, image_size=size)


def images(num: int = 2) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def recipe_of(model: str, *settings: str) -> Recipe:
    return with_settings(recipe_for(model), [f"model={model}", *settings])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny transformer for 32 pixels, with a head of 10 classes."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tiny().state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "state dict", "wrapped", "prefixed"])
def test_files_give_the_same_logits_back(form: str, tmp_path: Path) -> None:
    net = tiny().eval()
    state = net.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "state dict":
        torch.save(state, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save({f"module._orig_mod.{key}": tensor for key, tensor in state.items()}, path)
    torch.manual_seed(9)
    model = previt(model_name=TINY, weights=str(path), image_size=32).eval()
    with torch.no_grad():
        assert torch.equal(model(images()), net((images() - 0.5) / 0.5))


def test_a_head_of_other_classes_is_replaced(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["head.weight"], state["head.bias"] = torch.rand(1000, 192), torch.rand(1000)
    save_file(state, tmp_path / "w.safetensors")
    model = previt(model_name=TINY, weights=str(tmp_path / "w.safetensors"), image_size=32)
    assert model.network.head.weight.shape == (10, 192)
    assert torch.equal(model.network.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])


def test_positions_are_interpolated_and_stay_as_they_are_at_their_own_size(tmp_path: Path) -> None:
    net = tiny(64).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    same = previt(model_name=TINY, weights=str(tmp_path / "w.safetensors"), image_size=64).eval()
    large = F.interpolate(images(), 64, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        assert torch.equal(same.network.forward_features(large), net.forward_features(large))
        assert torch.equal(same(images()), net((large - 0.5) / 0.5))
    other = previt(model_name=TINY, weights=str(tmp_path / "w.safetensors"), image_size=96).eval()
    assert other.network.pos_embed.shape == (1, 1 + 36, 192)
    grid = net.pos_embed[:, 1:].view(1, 4, 4, 192).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, 6, mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 36, 192)
    torch.testing.assert_close(other.network.pos_embed[:, 1:], expected)
    assert torch.equal(other.network.pos_embed[:, :1], net.pos_embed[:, :1])


def test_early_images_are_smaller_and_share_the_positions(weights: Path) -> None:
    """Given another size, the network is one of that size whose positions are interpolated from its own."""
    sizes = {"image_size": 64, "other_image_size": 48}
    torch.manual_seed(0)  # of the head
    plain = previt(model_name=TINY, weights=str(weights), image_size=64).eval()
    torch.manual_seed(0)
    model = previt(model_name=TINY, weights=str(weights), **sizes).eval()
    small = create(TINY, image_size=48).eval()
    state = plain.network.state_dict()
    grid = state["pos_embed"][:, 1:].view(1, 4, 4, 192).permute(0, 3, 1, 2)
    coarse = F.interpolate(grid, 3, mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 9, 192)
    small.load_state_dict(state | {"pos_embed": torch.cat([state["pos_embed"][:, :1], coarse], dim=1)})
    with torch.no_grad():
        torch.testing.assert_close(model(images()), plain(images()))
        assert model.enlarge(images()).shape == (2, 3, 64, 64)
        resized = resize(images(), 48)
        assert torch.equal(model.enlarge(resized), (resized - 0.5) / 0.5)
        torch.testing.assert_close(model(resized), small((resized - 0.5) / 0.5))
    with pytest.raises(InputError, match=r"early_image_size is 40: .* choose 32 or 48"):
        previt(model_name=TINY, weights=str(weights), image_size=64, other_image_size=40)


def test_a_network_without_weights_has_the_shape_of_one_with(weights: Path) -> None:
    recipe = recipe_of("previt", f"model_name={TINY}", f"weights={weights}", "image_size=32")
    trained = build_model(recipe).eval()
    gone = with_settings(recipe, ["weights=absent.safetensors"])
    again = build_model(gone, pretrained=False).eval()
    again.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images()), trained(images()))


def test_previt_is_a_vit_b16_of_imagenet_21k_at_224_pixels() -> None:
    with torch.device("meta"):
        model = previt(pretrained=False)
    assert model.image_size == 224
    assert model.normalise.frozen
    assert sum(parameter.numel() for parameter in model.parameters()) == 85_806_346


def test_weights_of_another_network_name_what_does_not_fit(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not fit resnet18: conv1\.weight is missing; .* more\."):
        build_timm("resnet18", weights=str(weights), size_of_weights=True)
    state = tiny().state_dict()
    state["norm.weight"] = torch.ones(7)
    del state["blocks.0.norm1.bias"]
    save_file(state, tmp_path / "w.safetensors")
    complaint = r"blocks\.0\.norm1\.bias is missing; norm\.weight is \[7\] instead of \[192\]\."
    with pytest.raises(InputError, match=complaint):
        previt(model_name=TINY, weights=str(tmp_path / "w.safetensors"), image_size=32)


def test_missing_truncated_and_senseless_files(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"nowhere\.pth does not exist: name a file"):
        read_weights(tmp_path / "nowhere.pth")
    with pytest.raises(WorldError, match=r"model\.safetensors does not exist: name a file"):
        read_weights(tmp_path)  # as if it were a run's folder
    torch.save(tiny().state_dict(), tmp_path / "whole.pth")
    for name, whole in (("cut.safetensors", weights), ("cut.pth", tmp_path / "whole.pth")):
        for length in (0, 5, 1_000, whole.stat().st_size - 100):
            (tmp_path / name).write_bytes(whole.read_bytes()[:length])
            with pytest.raises(WorldError, match=r"cut\.\w+ (cannot be read|is damaged)") as caught:
                read_weights(tmp_path / name)
            assert "\n" not in str(caught.value)
    (tmp_path / "new.pth").write_bytes(pickle.dumps({"a": 1}, protocol=5))
    with pytest.raises(WorldError, match="cannot be read"):
        read_weights(tmp_path / "new.pth")
    (tmp_path / "text.pth").write_text("these are no weights")
    with pytest.raises(WorldError, match=r"text\.pth (cannot be read|is damaged)"):
        read_weights(tmp_path / "text.pth")
    for senseless in ([torch.ones(2)], {"a": 1}, {}, torch.ones(3)):
        torch.save(senseless, tmp_path / "list.pth")
        with pytest.raises(InputError, match="holds no weights"):
            read_weights(tmp_path / "list.pth")


class Malicious:
    """Unpickled by the plain loader, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_of_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    torch.save({"head.weight": Malicious(target)}, tmp_path / "new.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"head.weight": Malicious(target)}, protocol=2))
    for name in ("new.pth", "plain.pth"):
        with pytest.raises(WorldError, match="would execute code"):
            read_weights(tmp_path / name)
        assert not target.exists()


def test_timm_networks_start_at_32_pixels_where_they_can() -> None:
    small = build_model(recipe_of("timm:resnet10t"))
    assert isinstance(small, Pretrained)
    assert (small.image_size, small.normalise.frozen) == (32, False)
    assert build_timm(TINY, pretrained=False, size_of_weights=False).image_size == 224
    assert build_timm("resnet10t", pretrained=False, image_size=64, size_of_weights=False).image_size == 64
    assert build_timm("resnet10t", pretrained=False, size_of_weights=True).image_size == 176


def test_timm_takes_rates_of_dropout_or_says_that_it_does_not() -> None:
    model = build_timm(TINY, pretrained=False, image_size=32, dropout=0.3, drop_path=0.2, size_of_weights=False)
    assert model.network.head_drop.p == 0.3
    assert model.network.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"does not take drop_path_rate .* leave"):
        build_timm("vgg11", pretrained=False, drop_path=0.2, size_of_weights=False)


def test_wrong_names_and_sizes() -> None:
    with pytest.raises(InputError, match=r"timm has no model 'resnet10x'\. Did you mean .*resnet10t"):
        build_model(recipe_of("timm:resnet10x"))
    with pytest.raises(InputError, match=r"no weights 'resnet18\.no_such_tag': choose from .*resnet18\.a1_in1k"):
        build_model(recipe_of("timm:resnet18.no_such_tag"))
    with pytest.raises(InputError, match="patches of vit_tiny_patch16_224 are 16 pixels, so choose 32 or 48"):
        build_model(recipe_of(f"timm:{TINY}", "image_size=40"))
    with pytest.raises(InputError, match="model_name is 'x', but timm:resnet10t takes weights, image_size"):
        build_model(recipe_of("timm:resnet10t", "model_name=x"))


FACTORIES = """
import torch
from torch import nn

def good(dropout=0.0):
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(3072, 10))

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 11))

def broken():
    return nn.Linear(5, 10)

def nothing():
    return "a network"

class Tuple(nn.Module):
    def forward(self, images):
        return images, images

number = 3
"""


def test_functions_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_networks.py").write_text(FACTORIES)
    (tmp_path / "their_failure.py").write_text("raise OSError('no disk')")
    (tmp_path / "their_script.py").write_text("import argparse, sys; sys.exit('usage: script DATA')")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    model = build_model(recipe_of("their_networks:good", "dropout=0.5"), trust_code=True)
    assert model(images()).shape == (2, 10)
    assert model[1].p == 0.5
    assert model.training
    for name, complaint in {
        "their_networks:wide": r"gives \[2, 11\] for two images: it must give logits \[2, 10\]",
        "their_networks:broken": r"fails on two images \[2, 3, 32, 32\] with RuntimeError",
        "their_networks:nothing": r"returns a str: it must return a torch\.nn\.Module",
        "their_networks:Tuple": r"gives a tuple: it must give logits",
        "their_networks:number": "number is a int, not a function",
        "their_networks:god": r"has no 'god'\. Did you mean good\?",
        "their_failure:good": "importing their_failure fails with OSError: no disk",
        "their_script:good": "importing their_script fails with SystemExit: usage: script DATA",
        "no_such_module:good": "there is no module 'no_such_module'",
    }.items():
        with pytest.raises(InputError, match=complaint):
            build_model(recipe_of(name), trust_code=True)
    with pytest.raises(InputError, match=r"drop_path is 0\.1, but their_networks:good takes dropout: leave it out"):
        build_model(recipe_of("their_networks:good", "drop_path=0.1"), trust_code=True)
    assert sys.path == before


def test_repaired_torchvision_transforms_images() -> None:
    repair_torchvision()
    repair_torchvision()
    from torchvision.transforms import v2

    assert torch.equal(v2.functional.horizontal_flip(images()), images().flip(3))
