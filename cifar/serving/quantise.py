"""Static quantisation of an ONNX file by onnxruntime: weights and activations become 8-bit integers."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar.errors import WorldError
from cifar.models.weights import first_line
from cifar.serving.onnx_file import INSTALL, feed, open_session

PRODUCTS = ("Conv", "Gemm", "MatMul")
# Operations between convolutions, quantised so that activations stay 8-bit from one convolution to the next.
BETWEEN = ("Add", "Relu", "MaxPool", "GlobalAveragePool", "ReduceMean", "Pad", "Slice", "Reshape")


@dataclass(frozen=True)
class CalibrationImages:
    """Batches for onnxruntime's calibration, which fetches them by this method."""

    batches: Iterator[dict[str, Any]]

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None after the last."""
        return next(self.batches, None)


def quantise(model: bytes, images: Tensor, *, batch_size: int = 100) -> bytes:
    """Quantise an ONNX file of `to_onnx` to 8 bits.

    Products (convolutions, linear layers, attention) have one scale per channel of the weights and one per tensor of
    activations, whose range is taken from the calibration images. Weights use 7 of the 8 bits: CPUs without VNNI add
    two products in 16 bits, which would overflow. In a transformer only the products are 8-bit: its residual sums have
    outliers that would stretch the range (Bondarenko et al. 2021, "Understanding and Overcoming the Challenges of
    Efficient Transformer Quantization"). The last linear layer and the softmax are not quantised.

    Args:
        model: the file.
        images: to calibrate on, uint8 [N, 3, 32, 32]; a few hundred are enough, and none may be of the test split.
        batch_size: images at a time.

    Returns:
        the 8-bit file.

    Raises:
        WorldError: onnxruntime is absent, or cannot quantise this network.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise WorldError(f"Quantising needs the package {error.name}: {INSTALL}.") from None
    session = open_session(model)
    batches = (feed(batch, session=session) for batch in torch.split(images, batch_size))
    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        try:
            quant_pre_process(onnx.load_from_string(model), prepared)
            graph = onnx.load(prepared).graph
            is_transformer = any(node.op_type == "LayerNormalization" for node in graph.node)
            quantization.quantize_static(
                prepared,
                result,
                CalibrationImages(batches),
                op_types_to_quantize=[*PRODUCTS, *(() if is_transformer else BETWEEN)],
                nodes_to_exclude=head_nodes(graph),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # onnxruntime has no exception classes of its own
            raise WorldError(f"onnxruntime cannot quantise this network ({first_line(error)}).") from error
        return result.read_bytes()


def head_nodes(graph: Any) -> list[str]:
    """Names of the nodes of an ONNX graph from the probabilities back to the last product."""
    producers = {output: node for node in graph.node for output in node.output}
    node = producers["probs"]
    names = [node.name]
    while node.op_type not in PRODUCTS:
        node = next(producers[name] for name in node.input if name in producers)
        names.append(node.name)
    return names
