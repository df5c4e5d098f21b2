"""What a network looked at: Grad-CAM for the convolutional ones, attention rollout for the transformers.

Both are hints and no proof: each `Method` says what its picture shows and what it does not.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.errors import InputError, WorldError
from cifar.models.cnn import CNN
from cifar.models.pretrained import Pretrained
from cifar.models.resnet import ResNet
from cifar.models.speednet import SpeedNet
from cifar.models.vit import VisionTransformer
from cifar.serving.attention import is_plain_transformer, rollout_map
from cifar.serving.classifier import Predictions

SIDE = 32
FLAT = 1e-5  # a map that varies by a smaller share of its greatest value is constant but for rounding


@dataclass(frozen=True)
class Method:
    """How a network is explained, in words for whoever sees the picture.

    Attributes:
        name: with the paper that it comes from.
        shows: what is bright in the picture.
        hides: what the picture does not show.
        by_class: whether it answers for one class, or is the same for all.
    """

    name: str
    shows: str
    hides: str
    by_class: bool


GRAD_CAM = Method(
    name="Grad-CAM (Selvaraju et al. 2017)",
    shows="Bright is where the network's last convolutional features speak for the class; 1 is where they do most.",
    hides="It does not show what speaks against the class, anything finer than the cells of those features, or "
    "whether the answer is right.",
    by_class=True,
)
ROLLOUT = Method(
    name="Attention rollout (Abnar and Zuidema 2020)",
    shows="Bright are the patches that, through the attention of all blocks, reach the network's head most; 0 is the "
    "least attended patch and 1 the most, however little they differ.",
    hides="It is the same for every class, and does not show what the network made of a patch, what speaks for or "
    "against a class, or whether the answer is right.",
    by_class=False,
)


def method_of(network: nn.Module) -> Method:
    """Which of the two explains a network.

    Raises:
        InputError: neither; says why.
    """
    if isinstance(network, CNN | ResNet | SpeedNet):
        return GRAD_CAM
    if isinstance(network, VisionTransformer):
        return ROLLOUT
    if not isinstance(network, Pretrained):
        raise InputError(
            f"{type(network).__name__} cannot be explained: only this package's own networks and timm's can, since of "
            "others it is not known which layer to look at."
        )
    name = network.network.pretrained_cfg["architecture"]  # type: ignore[index]
    if is_plain_transformer(network.network):
        return ROLLOUT
    if getattr(network.network, "blocks", None) is not None and hasattr(network.network, "pos_embed"):
        raise InputError(
            f"timm's {name} cannot be explained: attention rollout needs plain attention, and a head that reads the "
            "class token or the mean of the patches."
        )
    if not getattr(network.network, "feature_info", None):
        raise InputError(f"timm's {name} cannot be explained: timm does not say which layer holds its last features.")
    return GRAD_CAM


def explain(network: nn.Module, image: Tensor, *, label: int | None = None) -> Tensor:
    """A map of what the network looked at.

    It works on a copy of the modules that shares their weights: the network may be in use by other threads meanwhile.

    Args:
        network: ours or timm's: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10].
        image: uint8 [3, 32, 32].
        label: the class that Grad-CAM explains, an index into CLASSES; default the likeliest. Rollout has no classes.

    Returns:
        float32 [32, 32] on the CPU, from 0 to 1; all 0 where no place stands out. What it means, and what it does not
        show, is told by `method_of(network)`.

    Raises:
        InputError: a network that neither method explains, or a class for one whose map has none.
        WorldError: captum is absent.
    """
    assert image.shape == (3, SIDE, SIDE), image.shape
    assert image.dtype == torch.uint8, image.dtype
    method = method_of(network)
    if label is not None and not method.by_class:
        raise InputError(f"{method.name.partition(' (')[0]} is the same for every class: leave the class out.")
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    network = copy.deepcopy(network, shared).eval()
    device = next(iter(shared.values())).device
    pixels = to_pixels(image[None].to(device))  # [1, 3, 32, 32]
    if method is ROLLOUT:
        return scale(enlarge(rollout_map(network, pixels)), lowest_is_zero=True)
    return scale(enlarge(grad_cam(network, feature_layer(network), pixels, label=label)), lowest_is_zero=False)


def feature_layer(network: nn.Module) -> nn.Module:
    """The layer that Grad-CAM looks at: the last one that gives features with a place in the image, [N, C, H, W]."""
    if isinstance(network, CNN):
        return network.features[-2]  # 8×8 cells, before the last halving
    if isinstance(network, ResNet | SpeedNet):
        return network.blocks  # 8×8 cells (4×4 in resnet18), 3×3 in speednet
    timm_network: Any = network.network
    layer: nn.Module = timm_network.get_submodule(timm_network.feature_info[-1]["module"])
    return layer


def grad_cam(network: nn.Module, layer: nn.Module, pixels: Tensor, *, label: int | None = None) -> Tensor:
    """The features of a layer, each weighted by the mean gradient of the class's logit with respect to it, summed.

    Args:
        network: in evaluation mode; layer: one of its modules that gives [1, C, H, W].
        pixels: float [1, 3, 32, 32].
        label: see `explain`.

    Returns:
        [H, W], negative sums cut off at 0.

    Raises:
        InputError: the layer gives something else, or features without a place.
        WorldError: captum is absent.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise WorldError('Grad-CAM needs the package captum: pip install "cifar[explain]".') from None
    given: list[object] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: given.append(output))
    with torch.no_grad():
        logits = network(pixels)
    handle.remove()
    check_features(network, given)
    with torch.enable_grad():
        target = int(logits.argmax()) if label is None else label
        sums = LayerGradCam(network, layer).attribute(pixels, target, relu_attributions=True)
    heat: Tensor = sums.detach()[0, 0]
    return heat  # [H, W]


def check_features(network: nn.Module, given: Sequence[object]) -> None:
    """Refuse what a layer gave for one image unless it is one map, [1, C, H, W] of more than one cell.

    Raises:
        InputError: tokens, or channels last as in windowed transformers, or a single cell, or something else.
    """
    features = given[0] if len(given) == 1 else None
    channels: int | None = None
    if isinstance(network, Pretrained):
        timm_network: Any = network.network
        channels = timm_network.feature_info[-1]["num_chs"]
    if not isinstance(features, Tensor) or features.ndim != 4 or channels not in (None, features.shape[1]):
        raise InputError(
            "This network cannot be explained: its last features are no map of channels, as Grad-CAM needs."
        )
    if features.shape[2:].numel() < 2:
        raise InputError("This network cannot be explained: its last features are of one cell, which is everywhere.")


def enlarge(heat: Tensor) -> Tensor:
    """A map of any size to 32×32, bilinearly: float [H, W] → [32, 32]."""
    return F.interpolate(heat[None, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0].cpu()


def scale(heat: Tensor, *, lowest_is_zero: bool) -> Tensor:
    """A map of values of at least 0, to [0, 1]; the greatest becomes 1, and the lowest 0 if it is to.

    A map without a greatest place (zero everywhere, or the same but for rounding where the lowest is 0) becomes 0.
    """
    low, high = (heat.min() if lowest_is_zero else heat.new_zeros(())), heat.max()
    if not high - low > FLAT * high:
        return torch.zeros_like(heat)
    return ((heat - low) / (high - low)).clamp(0, 1)


def describe(predictions: Predictions, method: Method, *, label: int | None = None) -> tuple[str, str, str]:
    """The words of a picture of one image: the answer; what the heat is; what the method shows and does not show.

    Args:
        predictions: of one image.
        label: the class that was explained, where it was chosen.
    """
    (first, probability), (second, other) = predictions.top(2)[0]
    answer = f"{first} {probability:.1%}, then {second} {other:.1%}"
    explained = first if label is None else predictions.classes[label]
    if explained not in (first, second):
        answer += f"; {explained} {predictions.probs[0, predictions.classes.index(explained)]:.1%}"
    looked_at = f"what speaks for {explained}" if method.by_class else "what is attended to"
    return answer, looked_at, f"{method.name}. {method.shows} {method.hides}"
