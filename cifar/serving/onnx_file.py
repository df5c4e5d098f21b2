"""A network as an ONNX file, and such a file run by onnxruntime: images to probabilities."""

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import WorldError
from cifar.kernels.build import using
from cifar.models.weights import first_line

INPUTS = {"float": "float32 pixels in [0, 1]", "uint8": "uint8 bytes, 0 to 255"}
FIRST_OPSET = 18  # that PyTorch's exporter knows; older ones are traced
INSTALL = 'pip install "cifar[export]"'


class ProbabilityNetwork(nn.Module):
    """A network between the two steps that its ONNX file holds as well: bytes to pixels, and logits to probabilities.

    Args:
        network: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10]; normalisation is its own first layer.
        kind: of input: float or uint8, see `INPUTS`.
        temperature: that calibrates the probabilities; 1 leaves them alone.
    """

    def __init__(self, network: nn.Module, *, kind: str, temperature: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if self.kind == "uint8" else images
        logits = self.network(pixels)
        probs: Tensor = (logits if self.temperature == 1 else logits / self.temperature).softmax(dim=1)
        return probs  # [N, 10]


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10], by onnxruntime on the CPU.

    Args:
        model: the file, which gives probabilities; their logarithms are the logits.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self.session = open_session(model)

    def forward(self, pixels: Tensor) -> Tensor:
        probs = run_session(self.session, (pixels * 255).round().to(torch.uint8))
        return probs.log()


def to_onnx(
    network: nn.Module, *, kind: str, metadata: Mapping[str, str], temperature: float = 1.0, opset: int = 0
) -> bytes:
    """Convert a network to an ONNX file: `images` [N, 3, 32, 32] to `probs` float32 [N, 10], for any N.

    Args:
        network: in evaluation mode, on the CPU.
        kind: of input: float or uint8, see `INPUTS`.
        metadata: text that the file holds, by name.
        temperature: that calibrates the probabilities; 1 leaves them alone.
        opset: the version of ONNX's operators, which older runtimes need lower; 0 is PyTorch's choice.

    Returns:
        the file.

    Raises:
        WorldError: the packages are absent, or the network uses an operation that ONNX, or that opset, lacks.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise WorldError(f"Exporting needs the package {error.name}: {INSTALL}.") from None
    model = ProbabilityNetwork(network, kind=kind, temperature=temperature).eval()
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8 if kind == "uint8" else torch.float32)
    try:
        written = trace(model, images, opset=opset) if 0 < opset < FIRST_OPSET else export(model, images, opset=opset)
    except Exception as error:  # of PyTorch, of onnxscript, or of the network itself
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise WorldError(
            f"PyTorch cannot export this network to ONNX{f' with opset {opset}' * bool(opset)} ({reason}): nothing was "
            "written."
        ) from error
    if opset and opset_of(written) != opset:  # PyTorch leaves what it cannot convert as it was
        raise WorldError(f"This network cannot be had with opset {opset}: leave --opset out for {opset_of(written)}.")
    clear_traces(written)
    onnx.helper.set_model_props(written, dict(metadata))
    data: bytes = written.SerializeToString()
    return data


def export(model: nn.Module, images: Tensor, *, opset: int) -> Any:
    """The model by PyTorch's exporter, for any number of images like these; an opset of 0 is its choice."""
    with warnings.catch_warnings():
        # PyTorch 2.13 triggers a deprecation warning of its own.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        program = torch.onnx.export(
            model, (images,), input_names=["images"], output_names=["probs"], opset_version=opset or None,
            dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None, "without a file name, the exporter returns a program"
    return program.model_proto


def trace(model: nn.Module, images: Tensor, *, opset: int) -> Any:
    """The same by PyTorch's former exporter, which is deprecated but knows opsets below FIRST_OPSET."""
    import onnx

    file = io.BytesIO()
    with using("pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (images,), file, input_names=["images"], output_names=["probs"], opset_version=opset,  # type: ignore[arg-type]
            dynamic_axes={"images": {0: "N"}, "probs": {0: "N"}}, dynamo=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a model uses."""
    (version,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return int(version)


def clear_traces(model: Any) -> None:
    """Remove what the exporter noted with every operation: paths and line numbers of this machine's source files."""
    graph = model.graph
    for message in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")


def open_session(model: bytes) -> Any:
    """onnxruntime's session of an ONNX file, on the CPU.

    Args:
        model: the file.

    Raises:
        WorldError: onnxruntime is absent, or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise WorldError(f"Running ONNX files needs the package onnxruntime: {INSTALL}.") from None
    onnxruntime.disable_telemetry_events()  # else it writes a number of this device into the home folder
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no exception classes of its own
        raise WorldError(f"onnxruntime cannot run this ONNX file ({first_line(error)}): export it anew.") from None


def feed(images: Tensor, *, session: Any) -> dict[str, Any]:
    """The input of a session by name, from images, uint8 [N, 3, 32, 32]: the bytes themselves, or pixels in [0, 1]."""
    is_float = session.get_inputs()[0].type == "tensor(float)"
    return {"images": (images.float() / 255 if is_float else images).numpy()}


def run_session(session: Any, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Run an ONNX file on images.

    Args:
        session: of `open_session`.
        images: uint8 [N, 3, 32, 32]; N may be 0.
        batch_size: images at a time.

    Returns:
        probabilities, float32 [N, 10].
    """
    batches = torch.split(images, batch_size) if len(images) else ()
    probs = [torch.from_numpy(session.run(["probs"], feed(batch, session=session))[0]) for batch in batches]
    return torch.cat([torch.empty(0, 10), *probs])


def read_metadata(model: bytes) -> dict[str, Any]:
    """The metadata that `cifar export` wrote into an ONNX file, by name; JSON objects and lists are parsed.

    Raises:
        WorldError: onnxruntime is absent or refuses the file, or the metadata are not those of an export.
    """
    texts: dict[str, str] = open_session(model).get_modelmeta().custom_metadata_map
    try:
        return {name: json.loads(text) if text[:1] in "{[" else text for name, text in texts.items() if text}
    except (ValueError, RecursionError):
        raise WorldError("The ONNX file's metadata are not those of `cifar export`: export it anew.") from None
