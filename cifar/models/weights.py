"""Sources of pretrained weights: a file, the hub's cache on this disk, or the hub, by timm's own loader.

Nothing that is read is executed, and files of the hub's large-file store are verified by SHA-256.
"""

import hashlib
import pickle
import re
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar.errors import InputError, WorldError
from cifar.models.onnx_weights import read_onnx

HUB_SECONDS = 8.0  # to respond, name resolution included
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
WRAPPERS = (  # names under which checkpoints hold their state dict; a moving average of it first
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model_state", "model", "net",
    "network", "weights", "params", "module",
)  # fmt: skip


class Ignored:
    """Stands for whatever else than tensors a checkpoint holds and pickle would have to build: it keeps nothing.

    Such as the best accuracy as a number of NumPy. PyTorch's loader calls this class in place of the one that the file
    names, so that no code of NumPy reads the file's bytes.
    """

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


IGNORED = (
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "argparse.Namespace",
    "pathlib.PosixPath", "pathlib.WindowsPath", "types.SimpleNamespace",
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name, without the prefixes of wrappers.

    Args:
        path: of a safetensors file, a state dict or a checkpoint that holds one, an ONNX file, or a run's folder.

    Raises:
        InputError: the file holds something else.
        WorldError: the file is missing, damaged, or would execute code.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".onnx":
        return read_onnx(path)
    loaded = load_file(path)
    while wrapped := next((loaded[name] for name in WRAPPERS if is_wrapped(loaded, name)), None):
        loaded = wrapped
    values = {without_prefixes(str(key)): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor) and key != "n_averaged"}
    if not tensors:
        raise InputError(f"{path} holds no weights: it must be a dictionary of tensors by name.")
    return tensors


def is_wrapped(loaded: Any, name: str) -> bool:
    """Whether a checkpoint holds its weights under a name."""
    return isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping)


def load_file(path: Path) -> Any:
    """What a file of safetensors or of `torch.save` holds; tensors and plain values, everything else is `Ignored`.

    Raises:
        InputError: the file is a program of TorchScript.
        WorldError: the file is missing, damaged, or would execute code.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([(Ignored, name) for name in IGNORED]):
            return torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise WorldError(f"{path} does not exist: name a file of weights with --weights.") from None
    except pickle.UnpicklingError:
        fault = "is damaged, or would execute code, and was not loaded"
        raise WorldError(f"{path} {fault}: save a plain state dict or safetensors.") from None
    except Exception as error:  # a damaged file can raise anything
        if is_torchscript(path):
            raise InputError(
                f"{path} is a TorchScript program, which is code: name a file of its weights, as "
                "`torch.save(program.state_dict(), FILE)` writes it."
            ) from None
        reason = type(error).__name__ if "weights_only" in str(error) else first_line(error)
        raise WorldError(f"{path} cannot be read ({reason}): fetch it again, or name another file.") from None


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive as `torch.jit.save` writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # a damaged archive can raise anything
        return False


def without_prefixes(key: str) -> str:
    """The name of a tensor in the network without wrappers."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def hub_weights(name: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pretrained weights from the hub's cache on this disk, or fetched from the hub by timm's own loader.

    The hub gets a request first, with 8 seconds to respond: without a network, the loader takes minutes to give up. The
    hub's client draws the progress bar and resumes broken downloads. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are
    respected, as they were when Python started.

    Args:
        name: timm's, of the network.
        config: its pretrained configuration in timm.

    Raises:
        InputError: timm names no weights on the hub for this network.
        WorldError: the hub is offline, cannot be reached or refuses, or the file is damaged.
    """
    if not config.get("hf_hub_id"):
        raise InputError(f"timm names no weights on the hub for {name}: give a file with --weights.")
    if found := cached_file(config):
        verify(found)
        return read_weights(found)
    import timm
    from huggingface_hub import constants

    remedy = "connect, name a file with --weights FILE, or set HF_HOME to a cache that holds them"
    if constants.HF_HUB_OFFLINE:
        raise WorldError(f"The weights of {name} are not in the cache and HF_HUB_OFFLINE is set: {remedy}.")
    if reason := ask_hub(constants.ENDPOINT):
        raise WorldError(f"The weights of {name} cannot be had from {constants.ENDPOINT} ({reason}): {remedy}.")
    try:
        state: dict[str, Tensor] = timm.models.load_state_dict_from_hf(*hub_location(config))
    except Exception as error:  # of the hub's client, of its transport, of the disk
        if found := cached_file(config):  # it was fetched, but cannot be read
            verify(found)
        raise WorldError(f"The weights of {name} could not be fetched ({first_line(error)}): {remedy}.") from None
    if found := cached_file(config):
        verify(found)
    return state


def verify(path: Path) -> None:
    """Check a file in the hub's cache against the hub's SHA-256, which is the name of the file that it links to.

    Small files, which the hub names by git's hash, and caches on disks without links are not checked.

    Raises:
        WorldError: the file is damaged; it was removed, so that the next run fetches it again.
    """
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise WorldError(f"{path.name} from the hub has the SHA-256 {digest} instead of {blob.name}: run again.")


def hub_location(config: Mapping[str, Any]) -> tuple[str, str]:
    """Repository (followed by "@revision" unless it is the newest) and file name, as timm's loader takes them."""
    return config["hf_hub_id"], config.get("hf_hub_filename") or "pytorch_model.bin"


def cached_file(config: Mapping[str, Any]) -> Path | None:
    """The weights in the hub's cache on this disk, or None; like timm's loader it prefers safetensors."""
    from huggingface_hub import try_to_load_from_cache

    location, filename = hub_location(config)
    repository, _, revision = location.partition("@")
    for candidate in (Path(filename).with_suffix(".safetensors").name, "model.safetensors", filename):
        found = try_to_load_from_cache(repository, candidate, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def ask_hub(endpoint: str) -> str:
    """Why the hub is not available, or "" if it responds, within `HUB_SECONDS` however long name resolution takes."""
    import requests

    reasons: list[str] = []

    def ask() -> None:
        try:
            status = requests.head(endpoint, timeout=HUB_SECONDS / 2, allow_redirects=False).status_code
            reasons.append(f"it answers with status {status}" if status >= 500 else "")
        except requests.RequestException as error:
            reasons.append(f"no connection: {type(error).__name__}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return reasons[0] if reasons else f"no answer in {HUB_SECONDS:.0f} seconds"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
