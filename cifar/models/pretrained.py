"""Networks of timm (Wightman 2019) with a new 10-way head, pretrained or not, behind the contract of every other model.

The resize from 32×32 to what the weights expect and the normalisation by their statistics happen inside the network.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.machine import is_out_of_memory
from cifar.models.layers import Normalise, resize
from cifar.models.matching import complain
from cifar.models.onnx_weights import PACKAGED, PACKAGED_MODEL, packaged_weights
from cifar.models.repair import repair_torchvision
from cifar.models.weights import first_line, hub_weights, read_weights

SIDE = 32  # pixels, of CIFAR-10's images
PREVIT = "vit_base_patch16_224.augreg_in21k"  # ImageNet-21k, 85.8 million parameters, 35 GFLOP an image


class Pretrained(nn.Module):
    """Resizing, normalisation, then a network of timm.

    Args:
        network: takes normalised images, gives logits.
        image_size: side in pixels that 32×32 images are resized to; images of another size are taken as they are.
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
        """The input of timm's network: resized and normalised, [N, 3, image_size, image_size] for 32×32 images."""
        enlarged: Tensor = self.normalise(resize(images, self.image_size) if images.shape[-1] == SIDE else images)
        return enlarged


def previt(
    *, model_name: str = PREVIT, weights: str = "", image_size: int = 0, other_image_size: int = 0, pool: str = "",
    dropout: float = 0.0, drop_path: float = 0.0, pretrained: bool = True,
) -> Pretrained:  # fmt: skip
    """A pretrained vision transformer of timm, by default ViT-B/16; arguments and errors as of `build_timm`.

    The weights "packaged" are those of an installed package, and imply their own network.
    """
    if weights == PACKAGED:
        model_name = PACKAGED_MODEL if model_name == PREVIT else model_name
        weights = str(packaged_weights()) if pretrained else weights
    return build_timm(
        model_name, weights=weights, pretrained=pretrained, image_size=image_size, other_image_size=other_image_size,
        pool=pool, dropout=dropout, drop_path=drop_path, size_of_weights=True,
    )  # fmt: skip


def build_timm(
    name: str, *, weights: str = "", pretrained: bool = True, image_size: int = 0, other_image_size: int = 0,
    pool: str = "", dropout: float = 0.0, drop_path: float = 0.0, size_of_weights: bool,
) -> Pretrained:  # fmt: skip
    """A network of timm with a new 10-way head.

    Args:
        name: timm's, with or without the tag of its weights: "vit_tiny_patch16_224.augreg_in21k".
        weights: a file (.safetensors, ONNX or a state dict) to load instead of those on the hub.
        pretrained: whether to load weights at all; not when those of a run follow.
        image_size: pixels a side that the network is fed; positions are interpolated. 0 is what the weights expect.
        other_image_size: another side that it will be fed, so that positions are interpolated as needed; 0 is none.
        pool: how tokens become features, "token" (the class token) or "avg"; "" as the network was pretrained.
        dropout, drop_path: rates, if timm's network takes them.
        size_of_weights: whether the network is made for pretrained weights, with their image size and statistics.
            Otherwise it takes the 32×32 pixels themselves, if its architecture can, and CIFAR-10's statistics.

    Raises:
        InputError: no such network, an argument that it does not take, or weights of another network.
        WorldError: the hub cannot be reached, or the file cannot be read.
    """
    net = create(
        name, image_size=image_size, other_image_size=other_image_size, pool=pool, dropout=dropout, drop_path=drop_path
    )
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


def create(
    name: str, *, image_size: int = 0, other_image_size: int = 0, pool: str = "", dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Any:  # fmt: skip
    """timm's network, randomly initialised, with a 10-way head and positions for the image size.

    With another size, its positions are interpolated to whatever size it is fed.
    """
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
    if other_image_size:
        options["dynamic_img_size"] = True
    if pool:
        # Normalise before pooling, as the weights were trained; timm would otherwise normalise after a mean.
        options |= {"global_pool": pool, "fc_norm": False}
    if dropout:
        options["drop_rate"] = dropout
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        net = timm.create_model(name, pretrained=False, num_classes=10, **options)
    except TypeError as error:
        raise InputError(f"timm's {name} does not take {', '.join(options)} ({error}): leave them out.") from None
    except Exception as error:  # each architecture fails in its own way
        if is_out_of_memory(error):
            raise
        raise InputError(f"timm cannot create {name} ({first_line(error)}): choose another network.") from error
    patch_size = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    patch = patch_size if isinstance(patch_size, int) else patch_size[0]
    for field, size in (("image_size", image_size), ("early_image_size", other_image_size)):
        if size % patch:
            smaller = size // patch * patch
            choices = [str(size) for size in (smaller, smaller + patch) if size]
            raise InputError(
                f"{field} is {size}: patches of {name} are {patch} pixels, so choose {' or '.join(choices)}."
            )
    return net


def nearest_timm(name: str) -> str:
    """A sentence with the closest names of timm, or ""."""
    import difflib

    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def takes_small_images(net: Any) -> bool:
    """Whether the network works on 32×32 pixels: its size is not fixed, and downsampling leaves at least a cell."""
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
    """Load weights into a network of timm; its head stays new if the weights are of another number of classes.

    Args:
        net: the network.
        state: tensors by name; positions and patch projections of another size are interpolated.
        origin: of the weights, for the error.

    Raises:
        InputError: the weights are of another network; names the first tensors that do not fit.
    """
    convert = getattr(importlib.import_module(type(net).__module__), "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, net)
        except Exception as error:  # timm's function expects weights of this network
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
    complain(complaints, name=net.pretrained_cfg["architecture"], origin=origin)
    net.load_state_dict(state, strict=False)


def head_names(net: Any) -> tuple[str, ...]:
    """Prefixes of the names of the head's tensors."""
    classifier = net.pretrained_cfg["classifier"]
    return tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
