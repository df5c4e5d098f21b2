"""Networks of timm (Wightman 2019) with a new 10-way head, pretrained or not, behind the contract of every other model.

The resize from 32×32 to what the weights expect and the normalisation by their statistics happen inside the network.
Weights come from the hub by timm's own loader, from the hub's cache on this disk, or from a file, never executed.
"""

import importlib
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.errors import InputError, WorldError
from cifar.models.layers import Normalise
from cifar.models.onnx_weights import PACKAGED, PACKAGED_MODEL, packaged_weights, read_onnx
from cifar.models.repair import repair_torchvision

PREVIT = "vit_base_patch16_224.augreg_in21k"  # ImageNet-21k, 85.8 million parameters, 35 GFLOP an image
HUB_SECONDS = 8.0  # to answer, name resolution included
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


class Pretrained(nn.Module):
    """Resize, normalise, then a network of timm.

    Args:
        network: takes normalised images, gives logits.
        image_size: pixels a side that it is fed.
        normalise: with the statistics that its weights were trained with.
    """

    def __init__(self, network: nn.Module, *, image_size: int, normalise: Normalise) -> None:
        super().__init__()
        self.image_size = image_size
        self.normalise = normalise
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.enlarge(images))
        return logits

    def enlarge(self, images: Tensor) -> Tensor:
        """What the network of timm is fed: resized and normalised, [N, 3, image_size, image_size]."""
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)  # [N, 3, size, size]
            images = images.clamp(0, 1)  # bicubic overshoots at edges; an 8-bit image could not
        enlarged: Tensor = self.normalise(images)
        return enlarged


def previt(
    *, model_name: str = PREVIT, weights: str = "", image_size: int = 0, pool: str = "", dropout: float = 0.0,
    drop_path: float = 0.0, pretrained: bool = True,
) -> Pretrained:  # fmt: skip
    """A pretrained vision transformer of timm, ViT-B/16 unless named; arguments and errors as of `build_timm`.

    The weights "packaged" are those of an installed package, and of the network that they were made for.
    """
    if weights == PACKAGED:
        model_name = PACKAGED_MODEL if model_name == PREVIT else model_name
        weights = str(packaged_weights()) if pretrained else weights
    return build_timm(
        model_name, weights=weights, pretrained=pretrained, image_size=image_size, pool=pool, dropout=dropout,
        drop_path=drop_path, size_of_weights=True,
    )  # fmt: skip


def build_timm(
    name: str, *, weights: str = "", pretrained: bool = True, image_size: int = 0, pool: str = "",
    dropout: float = 0.0, drop_path: float = 0.0, size_of_weights: bool,
) -> Pretrained:  # fmt: skip
    """A network of timm with a new 10-way head.

    Args:
        name: as timm knows it, with or without the tag of its weights: "vit_tiny_patch16_224.augreg_in21k".
        weights: a file (.safetensors or a state dict) to load instead of what the hub has.
        pretrained: whether to load weights at all; not when those of a run follow.
        image_size: pixels a side that the network is fed; positions are interpolated. 0 is what the weights expect.
        pool: how tokens become features, "token" (the class token) or "avg"; "" as the network was pretrained.
        dropout, drop_path: rates that timm's network takes, if it does.
        size_of_weights: whether the network is made for pretrained weights: fed at their size with their statistics.
            Otherwise it is fed the 32×32 pixels themselves where its architecture takes them, with CIFAR-10's.

    Raises:
        InputError: no such network, an argument it does not take, or weights of another network.
        WorldError: the hub cannot be reached, or the file cannot be read.
    """
    net = create(name, image_size=image_size, pool=pool, dropout=dropout, drop_path=drop_path)
    config = net.pretrained_cfg
    own_size = int(config["input_size"][-1])
    if size_of_weights:
        size = image_size or own_size
        normalise = Normalise(tuple(config["mean"]), tuple(config["std"]), frozen=True)
    else:
        size = image_size or (32 if takes_small_images(net) else own_size)
        normalise = Normalise()
    if pretrained:
        state = read_weights(Path(weights)) if weights else hub_weights(name, config)
        fill(net, state, origin=weights or config["hf_hub_id"])
    return Pretrained(net, image_size=size, normalise=normalise)


def create(name: str, *, image_size: int, pool: str, dropout: float, drop_path: float) -> Any:
    """timm's network, randomly initialised, with a 10-way head and positions for that image size."""
    repair_torchvision()
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm has no model {name!r}.{nearest_timm(name)} `timm.list_models()` gives all of them.")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise InputError(f"timm has no weights {name!r}: choose from {', '.join(known)}.") from None
    options: dict[str, Any] = {}
    if image_size and config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    if pool:
        # Normalised before pooling, as the weights were trained; timm would otherwise move the layer behind a mean.
        options |= {"global_pool": pool, "fc_norm": False}
    if dropout:
        options["drop_rate"] = dropout
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        net = timm.create_model(name, pretrained=False, num_classes=10, **options)
    except TypeError as error:
        raise InputError(f"timm's {name} does not take {', '.join(options)} ({error}): leave them out.") from None
    except RuntimeError as error:
        raise InputError(f"timm cannot make {name}: {error}") from None
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", (1, 1))[0]
    if image_size % patch:
        smaller = image_size // patch * patch
        choices = [str(size) for size in (smaller, smaller + patch) if size]
        raise InputError(
            f"image_size is {image_size}: patches of {name} are {patch} pixels, so choose {' or '.join(choices)}."
        )
    return net


def nearest_timm(name: str) -> str:
    """A sentence with timm's nearest names, or nothing."""
    import difflib

    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def takes_small_images(net: Any) -> bool:
    """Whether the network works on 32×32 pixels: its size is not fixed, and no halving leaves it with nothing."""
    if net.pretrained_cfg.get("fixed_input_size"):
        return False
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, 32, 32))
    except Exception:  # each architecture fails in its own way
        return False
    finally:
        net.train(training)
    return True


def fill(net: Any, state: dict[str, Tensor], *, origin: str) -> None:
    """Load weights into a timm network; its head stays new where theirs has another number of classes.

    Args:
        net: the network.
        state: tensors by name; positions and patch projections of another size are interpolated.
        origin: where they came from, for the error.

    Raises:
        InputError: the weights are of another network; names the first tensors that do not fit.
    """
    convert = getattr(importlib.import_module(type(net).__module__), "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, net)
        except Exception as error:  # it was written for its own network's weights only
            raise InputError(f"{origin} is of another network: timm cannot convert it ({first_line(error)}).") from None
    own = net.state_dict()
    heads = head_names(net)
    state = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(heads) or (key in own and own[key].shape == tensor.shape)
    }
    shared = own.keys() & state.keys()
    complaints = [
        *(f"{key} is missing" for key in own if key not in shared and not key.startswith(heads)),
        *(f"{key} is unknown" for key in state if key not in shared),
        *(
            f"{key} is {list(state[key].shape)} instead of {list(tensor.shape)}"
            for key, tensor in own.items()
            if key in shared and state[key].shape != tensor.shape
        ),
    ]
    if complaints:
        more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        name = net.pretrained_cfg["architecture"]
        raise InputError(f"{origin} does not fit {name}: {'; '.join(complaints[:3])}{more}.")
    net.load_state_dict(state, strict=False)


def head_names(net: Any) -> tuple[str, ...]:
    """What the names of the head's tensors start with."""
    classifier = net.pretrained_cfg["classifier"]
    return tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights (safetensors, a state dict or ONNX), by name, without the prefixes of wrappers.

    Raises:
        InputError: the file holds something else.
        WorldError: the file is missing, damaged, or would execute code.
    """
    from safetensors.torch import load_file

    if path.suffix == ".onnx":
        return read_onnx(path)
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise WorldError(f"{path} does not exist: name a file of weights with --weights.") from None
    except pickle.UnpicklingError:
        what = "is damaged, or would execute code when loaded, so it was not"
        raise WorldError(f"{path} {what}: save a plain state dict or safetensors.") from None
    except Exception as error:  # damage shows as almost anything
        raise WorldError(
            f"{path} cannot be read ({first_line(error)}): fetch it again, or name another file."
        ) from None
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path} holds no weights: it must be a dictionary of tensors by name.")
    return {without_prefixes(str(key)): value for key, value in loaded.items()}


def without_prefixes(key: str) -> str:
    """The name of a tensor as the bare network has it."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def hub_weights(name: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pretrained weights from the hub's cache on this disk, or fetched from the hub by timm's own loader.

    The hub is asked first, for at most 8 seconds: without a network the loader alone takes minutes to give up.
    HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are respected, as they were when Python started.

    Raises:
        InputError: timm knows no weights of this network on the hub.
        WorldError: the hub cannot be reached, is not to be asked, or refuses.
    """
    if not config.get("hf_hub_id"):
        raise InputError(f"timm names no weights on the hub for {name}: give a file with --weights.")
    if found := cached_file(config):
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
        raise WorldError(f"The weights of {name} could not be fetched ({first_line(error)}): {remedy}.") from None
    return state


def hub_location(config: Mapping[str, Any]) -> tuple[str, str]:
    """Repository (with "@revision" behind it if not the newest) and file name, as timm's loader takes them."""
    return config["hf_hub_id"], config.get("hf_hub_filename") or "pytorch_model.bin"


def cached_file(config: Mapping[str, Any]) -> Path | None:
    """The weights in the hub's cache on this disk, if they are there; safetensors preferred, as timm does."""
    from huggingface_hub import try_to_load_from_cache

    location, filename = hub_location(config)
    repository, _, revision = location.partition("@")
    for candidate in (Path(filename).with_suffix(".safetensors").name, "model.safetensors", filename):
        found = try_to_load_from_cache(repository, candidate, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def ask_hub(endpoint: str) -> str:
    """Why the hub cannot be had, or "" where it answers; in `HUB_SECONDS`, however long a name takes to resolve."""
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
