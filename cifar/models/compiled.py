"""C beside Python: sources of this folder, compiled for this processor when they are first needed.

A process compiles anew, in a second a source, since a file that is kept might be found by another kind of processor.
The code finds torch's OpenMP loaded and so shares its threads.
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
LANES = 8  # channels that the sources take at a time
FOLDER = Path(__file__).parent


def use_compiled(model: nn.Module) -> str:
    """Have the layers of a network that have C for a processor use it: those with an attribute `in_c`.

    Returns:
        a sentence where that cannot be, "" else.
    """
    layers = [module for module in model.modules() if hasattr(module, "in_c")]
    if layers and library("norm_gelu.c") is None:
        return "There is no C compiler (cc) here: training takes about twice as long."
    for layer in layers:
        layer.in_c = True  # type: ignore[assignment]
    return ""


def fits(features: Tensor, *, in_eights: bool = True) -> bool:
    """Whether these [N, C, H, W] are what the sources take: fp32 in channels-last memory of a processor.

    Args:
        in_eights: whether there must be a multiple of eight channels.
    """
    return (
        not torch.compiler.is_compiling()
        and features.device.type == "cpu"
        and features.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and (not in_eights or features.shape[1] % LANES == 0)
        and features.is_contiguous(memory_format=torch.channels_last)
        and len(features) > 0
    )


def call(compiled: ctypes.CDLL | None, function: str, *tensors: Tensor | None, lengths: tuple[int, ...]) -> None:
    """Call a function of a compiled source with the addresses of tensors, NULL for None, and then lengths."""
    assert compiled is not None
    addresses = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    getattr(compiled, function)(*addresses, *(ctypes.c_long(length) for length in lengths))


@functools.cache
def library(source: str, *definitions: str) -> ctypes.CDLL | None:
    """A source of this folder, compiled; None where that fails, as without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compiled.so"
        command = ["cc", *FLAGS, *definitions, str(FOLDER / source), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            return ctypes.CDLL(str(path))
        except (OSError, subprocess.SubprocessError):
            return None
