"""model.safetensors and last.ckpt: the best weights, and everything that continues a training."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cifar.errors import WorldError
from cifar.files import Write
from cifar.runs.names import CHECKPOINT, SUMMARY, WEIGHTS
from cifar.runs.store import read_file, read_json
from cifar.runs.summary import run_recipe, run_state

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADER_BYTES = 16 * 2**20  # more than the names of any network's tensors


def weights_bytes(state: Mapping[str, "Tensor"]) -> bytes:
    """The content of model.safetensors, from a state dict: a tensor that has several names once."""
    from safetensors.torch import save

    from cifar.models.state_dict import unique_tensors

    return save(unique_tensors(state))


def checkpoint_writer(values: Mapping[str, Any]) -> Write:
    """A function that writes last.ckpt, from tensors and plain values."""
    import torch

    def write(file: IO[bytes]) -> None:
        sink = Sink(file)
        try:
            torch.save(values, sink)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise sink.error or error from None

    return write


class Sink:
    """A file for PyTorch to write to, which keeps the system's error: PyTorch says only that it failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def read_checkpoint(folder: Path, *, model_bytes: int) -> dict[str, Any]:
    """The values in last.ckpt.

    Args:
        folder: of the run.
        model_bytes: of the network's tensors: no checkpoint is larger than several times that.

    Raises:
        FileNotFoundError: there is none.
        WorldError: it was changed since the run wrote it.
        Exception: PyTorch, zipfile and pickle each have their own for a damaged file.
    """
    import torch

    content = read_file(folder / CHECKPOINT, limit=8 * model_bytes + 4 * HEADER_BYTES)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def tensor_bytes(model: "nn.Module") -> int:
    """Memory of a network's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def load_network(folder: Path, *, trust_code: bool = False) -> "nn.Module":
    """The trained network of a run, on the CPU, in evaluation mode.

    Args:
        folder: of a run.
        trust_code: import and run the user's function that the recipe names, if it names one.

    Raises:
        InputError: no run folder, or a network of the user's that is not trusted.
        WorldError: the weights are absent, damaged or of another network.
    """
    import safetensors
    from safetensors.torch import load

    from cifar.models import build_model
    from cifar.models.state_dict import load_tensors

    recipe = run_recipe(folder)
    path = folder / WEIGHTS
    model = build_model(recipe, pretrained=False, trust_code=trust_code)
    try:
        state = load(read_file(path, limit=2 * tensor_bytes(model) + HEADER_BYTES))
    except FileNotFoundError:
        raise WorldError(absent_weights(folder)) from None
    except (ValueError, safetensors.SafetensorError) as error:
        raise WorldError(f"{path} cannot be read ({error}): train again or restore the file.") from None
    try:
        load_tensors(model, state)
    except RuntimeError:
        raise WorldError(f"{path} does not fit the network {recipe.model}: it is another run's file.") from None
    return model.eval()


def absent_weights(folder: Path) -> str:
    """The sentence about a run without weights: it has none yet, or they were not kept with it."""
    path = folder / WEIGHTS
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    if run_state(summary) == "unfinished":
        return f"{path} does not exist: the run has not finished its first epoch."
    return f"{path} does not exist: the weights of this run were not kept. Train it again with `{summary['command']}`."
