"""A network as an ONNX file, and what onnxruntime makes of such a file: images to probabilities."""

import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import WorldError
from cifar.models.weights import first_line

KINDS = {"float": "float32 pixels in [0, 1]", "uint8": "uint8 bytes, 0 to 255"}
INSTALL = 'pip install "cifar[export]"'


class Served(nn.Module):
    """A network with what a file of it should hold as well: bytes to pixels before it, logits to probabilities behind.

    Args:
        network: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10]; normalisation is its own first layer.
        kind: float or uint8, as in `KINDS`: what comes in.
    """

    def __init__(self, network: nn.Module, *, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if self.kind == "uint8" else images
        probs: Tensor = self.network(pixels).softmax(dim=1)
        return probs  # [N, 10]


def to_onnx(network: nn.Module, *, kind: str, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file: `images` [N, 3, 32, 32] to `probs` float32 [N, 10], for any N.

    Args:
        network: in evaluation mode, on the CPU.
        kind: float or uint8.
        metadata: goes into the file under these names.

    Raises:
        WorldError: the packages are absent, or the network does what ONNX has no operator for.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise WorldError(f"Exporting needs the package {error.name}: {INSTALL}.") from None
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8 if kind == "uint8" else torch.float32)
    with warnings.catch_warnings():
        # torch 2.13 meets its own deprecation when it copies what it has traced.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        try:
            program = torch.onnx.export(
                Served(network, kind=kind).eval(),
                (images,),
                input_names=["images"],
                output_names=["probs"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of torch, of onnxscript, or of the network itself
            reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            raise WorldError(f"PyTorch cannot export this network to ONNX ({reason}): nothing was written.") from error
    assert program is not None, "the exporter gives a program where it is given no file"
    model = program.model_proto
    forget_traces(model)
    onnx.helper.set_model_props(model, dict(metadata))
    data: bytes = model.SerializeToString()
    return data


def forget_traces(model: Any) -> None:
    """Take away what the exporter noted of every operation: the paths and lines of this machine's source files."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def open_session(model: bytes) -> Any:
    """onnxruntime's session of an ONNX file, on the CPU.

    Raises:
        WorldError: onnxruntime is absent.
    """
    try:
        import onnxruntime
    except ImportError:
        raise WorldError(f"Running ONNX files needs the package onnxruntime: {INSTALL}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(images: Tensor, *, session: Any) -> dict[str, Any]:
    """What a session takes: bytes as they are, or pixels in [0, 1]; images: uint8 [N, 3, 32, 32]."""
    is_float = session.get_inputs()[0].type == "tensor(float)"
    return {"images": (images.float() / 255 if is_float else images).numpy()}


def run_session(session: Any, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Probabilities float32 [N, 10] of images, uint8 [N, 3, 32, 32]."""
    batches = torch.split(images, batch_size) if len(images) else ()
    parts = [torch.from_numpy(session.run(["probs"], feed(batch, session=session))[0]) for batch in batches]
    return torch.cat([torch.empty(0, 10), *parts])


def read_metadata(model: bytes) -> dict[str, Any]:
    """What `cifar export` wrote into an ONNX file, by name; texts that are JSON are read as such."""
    found: dict[str, str] = open_session(model).get_modelmeta().custom_metadata_map
    return {name: json.loads(text) if text[:1] in "{[" else text for name, text in found.items() if text}
