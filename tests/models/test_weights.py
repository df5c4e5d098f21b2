"""Files of weights as other people write them, into every kind of network; and what is refused in a sentence."""

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cifar.data.split import Split
from cifar.errors import InputError, Remark, WorldError
from cifar.models import build_model, is_pretrained
from cifar.models.weights import read_weights
from cifar.recipes import recipe_for, with_fields
from cifar.training.state import new_state


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return state_of(build_model(recipe_for("cnn")))


@pytest.mark.parametrize("wrapper", ["net", "model_state_dict", "state_dict", "model", "state_dict_ema", ""])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_taken_off(
    wrapper: str, prefix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    prefixed = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in state.items())
    torch.save({wrapper: prefixed, "acc": 91.2, "epoch": 3} if wrapper else prefixed, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("new_format", [True, False])
def test_what_else_a_checkpoint_holds_is_ignored(new_format: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
    """Numbers and arrays of NumPy, and the arguments of the program."""
    extras = {
        "best_ap": np.float64(0.5), "best": np.array([1.0, 2.0]), "args": argparse.Namespace(lr=0.1),
        "count": np.int64(3), "optimizer": {"state": {0: {"step": torch.tensor(3)}}},
    }  # fmt: skip
    checkpoint = {**extras, "model": {**state, "best": np.float32(3)}}
    torch.save(checkpoint, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    read = read_weights(tmp_path / "w.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


class Crash:
    """A scalar of a type that the file describes: NumPy's own functions would make objects of raw bytes."""

    def __reduce__(self) -> tuple[object, ...]:
        dtype = np.dtype("V8")
        return np._core.multiarray.scalar, (dtype, b"\1" * 8)


def test_no_function_of_numpy_reads_a_file(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": state, "x": Crash()}, tmp_path / "w.pth")
    called: list[str] = []
    monkeypatch.setattr(np._core.multiarray, "scalar", lambda *_: called.append("scalar"))
    assert read_weights(tmp_path / "w.pth").keys() == state.keys()
    assert called == []


def test_torchscript_and_whole_modules_are_one_sentence(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch"):
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"net\.pt is a TorchScript program, .*: name a file of its weights"):
        read_weights(tmp_path / "net.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(WorldError, match="would execute code, and was not loaded: save a plain state dict"):
        read_weights(tmp_path / "module.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": np.float64(1)}, protocol=4))
    for name in ("net.pt", "module.pth", "plain.pth"):
        with pytest.raises((InputError, WorldError)) as caught:
            read_weights(tmp_path / name)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_archive_with_a_name_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("é", b"")
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(WorldError, match=r"net\.pth cannot be read .*: fetch it again"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["cnn", "resnet20", "speednet-narrow", "vit-tiny", "other_networks:Shared"])
def test_every_network_starts_from_a_file(name: str, tmp_path: Path) -> None:
    recipe = with_fields(recipe_for(name), model=name)
    torch.manual_seed(1)
    state = state_of(build_model(recipe, trust_code=True))
    torch.save({"net": state}, tmp_path / "w.pth")
    torch.manual_seed(2)
    recipe = with_fields(recipe, weights=str(tmp_path / "w.pth"))
    assert is_pretrained(recipe)
    model = build_model(recipe, trust_code=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    (tmp_path / "w.pth").unlink()
    build_model(recipe, pretrained=False, trust_code=True)


def test_a_network_starts_from_another_run(tmp_path: Path) -> None:
    """By its folder; and from Lightning's files, whose names begin with the module's attribute."""
    torch.manual_seed(5)
    other = build_model(recipe_for("cnn"))
    save_file(state_of(other), tmp_path / "model.safetensors")
    save_file({f"model.{name}": value for name, value in state_of(other).items()}, tmp_path / "lightning.safetensors")
    for path in (tmp_path, tmp_path / "lightning.safetensors"):
        model = build_model(with_fields(recipe_for("cnn"), weights=str(path)))
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorldError, match=r"empty/model\.safetensors does not exist"):
        read_weights(tmp_path / "empty")


def test_what_was_fitted_to_the_images_of_the_weights_stays(few: tuple[Split, Split], tmp_path: Path) -> None:
    """Normalisation and whitening: the weights expect theirs."""
    recipe = recipe_for("speednet")
    state = state_of(build_model(recipe)) | {"normalise.mean": torch.full((1, 3, 1, 1), 0.25)}
    save_file(state, tmp_path / "w.safetensors")
    recipe = with_fields(recipe, weights=str(tmp_path / "w.safetensors"))
    trained = new_state(recipe, few[0], device="cpu", precision="fp32").model
    assert all(torch.equal(tensor, state[key]) for key, tensor in trained.state_dict().items())


def test_a_head_of_other_classes_starts_at_random_and_that_is_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    recipe = with_fields(recipe_for("cnn"), weights=str(tmp_path / "w.safetensors"))
    hundred = state | {"head.4.weight": torch.rand(100, 32), "head.4.bias": torch.rand(100)}
    save_file(hundred, tmp_path / "w.safetensors")
    with pytest.warns(
        Remark, match=r"another number of classes: head\.4\.bias and head\.4\.weight of cnn start at random"
    ):
        model = build_model(recipe)
    for name, tensor in model.state_dict().items():
        if name.startswith("head.4."):
            assert len(tensor) == 10
        else:
            assert torch.equal(tensor, state[name])


def test_weights_of_another_network_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    recipe = with_fields(recipe_for("resnet"), weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"does not fit resnet20: stem\.0\.weight is missing; .* more\."):
        build_model(recipe)
    wrong = state | {"head.0.weight": torch.rand(64, 513)}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"fit cnn: head\.0\.weight is \[64, 513\] instead of \[64, 512\]\.$"):
        build_model(with_fields(recipe, model="cnn"))
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"dropout is 0\.1, but cnn takes no options: leave it out"):
        build_model(with_fields(recipe, model="cnn", dropout=0.1))


def test_a_tag_of_timm_names_weights_and_is_not_started_at_random() -> None:
    for name in ("timm:test_resnet.r160_in1k", "timm:resnet10t.c3_in1k"):
        with pytest.raises(
            InputError, match=r"give -m previt --set model_name=\S+ to load them from the hub, --weights"
        ):
            build_model(recipe_for(name))
    build_model(recipe_for("timm:test_resnet"))
    build_model(recipe_for("timm:test_resnet.r160_in1k"), pretrained=False)  # as the run of an older version
