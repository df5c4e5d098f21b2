"""Networks with weights that others trained: the names of their tensors, their normalisation, and timm's hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar.errors import InputError, WorldError
from cifar.models import FACTORIES, build_model
from cifar.models.layers import Normalise
from cifar.models.matching import is_head, load_matching
from cifar.models.pretrained import SIDE, Pretrained
from cifar.models.repair import repair_torchvision
from cifar.models.weights import ask_hub, first_line, read_weights
from cifar.recipes import recipe_for

TIMM = "timm:"
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel, in units of [0, 1]


def foreign_network(weights: str, model: str, *, normalise: Statistics | None) -> nn.Module:
    """A network with somebody else's weights, in evaluation mode, with the contract of every other: pixels to logits.

    Args:
        weights: a file, as of `read_weights`, or "timm:NAME" for what timm loads under that name, such as
            "timm:hf_hub:owner/name".
        model: the network of a file: a name, "timm:NAME" or "package.module:function", which is imported and run.
        normalise: the statistics that it was trained with; None is those in its weights, else CIFAR-10's own.

    Raises:
        InputError: no such network, or weights of another network or number of classes.
        WorldError: the weights cannot be had or read.
    """
    if weights.startswith(TIMM):
        if model:
            raise InputError(f"{weights} names its network: leave -m out.")
        return from_timm(weights.removeprefix(TIMM), normalise=normalise).eval()
    if not model:
        raise InputError(f"Name the network of {weights}: -m resnet20, -m timm:NAME or -m package.module:function.")
    tensors = with_our_names(read_weights(Path(weights)))
    if model in FACTORIES and has_projection(tensors) and model.startswith("resnet") and model != "resnet18":
        network: nn.Module = FACTORIES[model](projection=True)
    else:
        network = build_model(recipe_for(model), pretrained=False, trust_code=True)
    own_statistics = "normalise.mean" in tensors
    layer = getattr(network, "normalise", None)
    inner = network.network if isinstance(network, Pretrained) and not own_statistics else network
    wanted = inner.state_dict()
    if inner is network and isinstance(layer, Normalise) and not own_statistics:
        tensors = {name: wanted[name] for name in wanted if name.startswith("normalise.")} | tensors
    refuse_other_heads(wanted, tensors, origin=weights)
    load_matching(inner, tensors, name=model, origin=weights)
    return (network if normalise is None else normalised(network, normalise)).eval()


def normalised(network: nn.Module, statistics: Statistics) -> nn.Module:
    """The network with these statistics of its pixels: in its own layer, or in one before it."""
    first = Normalise(tuple(statistics[0]), tuple(statistics[1]), frozen=True)
    if isinstance(getattr(network, "normalise", None), Normalise):
        network.normalise = first
        return network
    return nn.Sequential(first, network)


def refuse_other_heads(own: Mapping[str, object], tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse weights whose head is of another number of classes, which training would replace.

    Raises:
        InputError: says how many classes there are.
    """
    for name, tensor in tensors.items():
        mine = own.get(name)
        if isinstance(mine, Tensor) and is_head(mine, tensor):
            raise InputError(f"{origin} is of {len(tensor)} classes and CIFAR-10 has 10: name weights of CIFAR-10.")


def with_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ResNet for CIFAR-10 under our names, where they have those of torchvision's ResNets.

    As the ResNets of kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10 and chenyaofo/pytorch-cifar-models do.
    Other tensors stay as they are.
    """
    stage_block = re.compile(r"layer(\d)\.(\d+)\.(.*)")
    found = [match for name in tensors if (match := stage_block.fullmatch(name))]
    if not found or "conv1.weight" not in tensors:
        return dict(tensors)
    num_blocks = 1 + max(int(match[2]) for match in found)  # in each stage
    renamed = {}
    for name, tensor in tensors.items():
        if match := stage_block.fullmatch(name):
            rest = re.sub(r"^bn(\d)", r"norm\1", match[3]).replace("downsample.", "shortcut.")
            name = f"blocks.{num_blocks * (int(match[1]) - 1) + int(match[2])}.{rest}"
        else:
            name = re.sub(r"^(fc|linear)\.", "head.", name)
            name = name.replace("conv1.", "stem.0.").replace("bn1.", "stem.1.")
        renamed[name] = tensor
    return renamed


def has_projection(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a ResNet's shortcuts are 1×1 convolutions (option B) where its shape changes."""
    return any(".shortcut.0." in name for name in tensors)


def from_timm(name: str, *, normalise: Statistics | None) -> Pretrained:
    """A network of timm with its pretrained weights, of ten classes.

    Raises:
        InputError: timm knows no such weights, or they are of another number of classes.
        WorldError: they cannot be had.
    """
    repair_torchvision()
    import timm
    from huggingface_hub import constants

    hub = constants.ENDPOINT
    if not constants.HF_HUB_OFFLINE and (reason := ask_hub(hub)):
        raise WorldError(f"The weights of {name} cannot be had from {hub} ({reason}): connect, or name a file.")
    try:
        with torch.random.fork_rng():
            network = timm.create_model(name, pretrained=True)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"timm has no pretrained network {name!r} ({first_line(error)}).") from None
    except Exception as error:  # of the hub's client, of its transport, of the disk
        raise WorldError(
            f"The weights of {name} cannot be had ({first_line(error)}): connect, or name a file."
        ) from None
    config = network.pretrained_cfg
    if network.num_classes != 10:
        raise InputError(f"{TIMM}{name} is of {network.num_classes} classes and CIFAR-10 has 10: name one of CIFAR-10.")
    mean, std = normalise or (config["mean"], config["std"])
    size = int(config["input_size"][-1])
    return Pretrained(network, image_size=size or SIDE, normalise=Normalise(tuple(mean), tuple(std), frozen=True))
