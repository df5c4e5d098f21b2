"""What a network looked at: Grad-CAM for convolutional networks, attention rollout for transformers.

Both are hints, not proof: each `Method` says what its picture shows and what it does not.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.models.cnn import CNN, layer_by_layer
from cifar.models.pretrained import Pretrained
from cifar.models.resnet import ResNet
from cifar.models.speednet import SpeedNet
from cifar.models.vit import VisionTransformer
from cifar.serving.attention import is_plain_transformer, rollout_map
from cifar.serving.images import Source, read_image

if TYPE_CHECKING:
    from cifar.serving.classifier import Classifier, Predictions

SIDE = 32
FLAT = 1e-5  # a map that varies by a smaller fraction of its maximum is constant up to rounding


@dataclass(frozen=True)
class Method:
    """A method of explanation, in words for whoever sees the picture.

    Attributes:
        name: with its paper.
        shows: what is bright in the picture.
        hides: what the picture does not show.
        by_class: whether the map is of one class, or the same for all.
    """

    name: str
    shows: str
    hides: str
    by_class: bool


GRAD_CAM = Method(
    name="Grad-CAM (Selvaraju et al. 2017)",
    shows="Bright regions are where the last convolutional features support the class most; 1 is the maximum.",
    hides="It shows neither evidence against the class, nor detail finer than the cells of those features, nor whether "
    "the prediction is right.",
    by_class=True,
)
ROLLOUT = Method(
    name="Attention rollout (Abnar and Zuidema 2020)",
    shows="Bright patches reach the network's head most through the attention of all blocks; 0 is the least attended "
    "patch and 1 the most, however little they differ.",
    hides="It is the same for every class, and shows neither what the network made of a patch, nor evidence for or "
    "against a class, nor whether the prediction is right.",
    by_class=False,
)


@dataclass(frozen=True)
class Explanation:
    """What a network looked at in one image; a notebook shows it as its picture.

    Attributes:
        image: uint8 [3, 32, 32], what the network saw.
        heat: float [32, 32], from 0 to 1.
        answer: the prediction, such as "cat 87.3%, then dog 9.0%".
        looked_at: what the heat map shows.
        text: the method, and what it does and does not show.
        title, note: above the picture.
    """

    image: Tensor
    heat: Tensor
    answer: str
    looked_at: str
    text: str
    title: str = ""
    note: str = ""

    def __repr__(self) -> str:
        return f"Explanation({self.answer!r}, {self.looked_at!r})"

    def png(self) -> bytes:
        """The image, the heat map over its grey copy and the heat map alone, with the text under them."""
        from cifar.reporting.explanation import explanation_figure
        from cifar.reporting.figures import png

        figure = explanation_figure(
            self.image, self.heat, title=self.title, answer=self.answer, looked_at=self.looked_at, text=self.text,
            note=self.note,
        )  # fmt: skip
        return png(figure)

    _repr_png_ = png  # IPython's name for it


def explain_image(classifier: "Classifier", source: Source, *, class_name: str = "", title: str = "") -> Explanation:
    """Explain what a network makes of an image.

    Args:
        classifier: of `load_model`.
        source: the image: a path, a file or a Pillow image, as of `read_image`.
        class_name: that Grad-CAM explains; "" is the most likely. Rollout has no class.
        title: above the picture.

    Raises:
        InputError: no such class, or a network that cannot be explained.
        WorldError: the file is no image.
    """
    if class_name and class_name not in CLASSES:
        raise InputError(f"There is no class {class_name!r}: choose from {', '.join(CLASSES)}.")
    image = read_image(source)
    predictions = classifier.predict(image)
    label = CLASSES.index(class_name) if class_name else None
    heat = explain(classifier.network, image, label=label)
    answer, looked_at, text = describe(predictions, method_of(classifier.network), label=label)
    return Explanation(image, heat, answer, looked_at, text, title=title, note=classifier.note)


def method_of(network: nn.Module) -> Method:
    """The method that explains a network.

    Raises:
        InputError: neither does; says why.
    """
    if isinstance(network, CNN | ResNet | SpeedNet):
        return GRAD_CAM
    if isinstance(network, VisionTransformer):
        return ROLLOUT
    if not isinstance(network, Pretrained):
        raise InputError(
            f"{type(network).__name__} cannot be explained: only this package's networks and timm's can, since it is "
            "not known which layer of others to look at."
        )
    name = network.network.pretrained_cfg["architecture"]  # type: ignore[index]
    if is_plain_transformer(network.network):
        return ROLLOUT
    if getattr(network.network, "blocks", None) is not None and hasattr(network.network, "pos_embed"):
        raise InputError(
            f"timm's {name} cannot be explained: attention rollout needs plain attention, and a head that takes the "
            "class token or the mean of the patches."
        )
    if not getattr(network.network, "feature_info", None):
        raise InputError(f"timm's {name} cannot be explained: timm does not say which layer holds its last features.")
    return GRAD_CAM


def explain(network: nn.Module, image: Tensor, *, label: int | None = None) -> Tensor:
    """Map what the network looked at.

    It works on a copy of the modules that shares their weights: other threads may use the network at the same time.

    Args:
        network: this package's or timm's: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10].
        image: uint8 [3, 32, 32].
        label: the class that Grad-CAM explains, as an index into CLASSES; default the most likely. Rollout has no
            classes.

    Returns:
        float32 [32, 32] on the CPU, from 0 to 1; all 0 where the map is uniform. `method_of(network)` says what it
        means, and what it does not show.

    Raises:
        InputError: a network that neither method explains, or a class where the map has none.
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
    if isinstance(network, CNN):
        network = layer_by_layer(network)
    return scale(enlarge(grad_cam(network, feature_layer(network), pixels, label=label)), lowest_is_zero=False)


def feature_layer(network: nn.Module) -> nn.Module:
    """The layer that Grad-CAM looks at: the last one that gives features with a place in the image, [N, C, H, W].

    Args:
        network: one that Grad-CAM explains, or a CNN `layer_by_layer`.
    """
    if isinstance(network, nn.Sequential):
        return network.get_submodule("relu3")  # 8×8 cells, before the last pooling
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum's tqdm wants ipywidgets in a notebook; no bar of it is shown
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
    """Refuse the outputs of a layer for one image, unless they are one map, [1, C, H, W], of more than one cell.

    Raises:
        InputError: tokens, channels last as in windowed transformers, a single cell, or something else.
    """
    features = given[0] if len(given) == 1 else None
    channels: int | None = None
    if isinstance(network, Pretrained):
        timm_network: Any = network.network
        channels = timm_network.feature_info[-1]["num_chs"]
    if not isinstance(features, Tensor) or features.ndim != 4 or channels not in (None, features.shape[1]):
        raise InputError(
            "This network cannot be explained: its last features are not a map of channels, which Grad-CAM needs."
        )
    if features.shape[2:].numel() < 2:
        raise InputError("This network cannot be explained: its last features are one cell that covers the image.")


def enlarge(heat: Tensor) -> Tensor:
    """A map of any size resized to 32×32, bilinearly: float [H, W] → [32, 32]."""
    return F.interpolate(heat[None, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0].cpu()


def scale(heat: Tensor, *, lowest_is_zero: bool) -> Tensor:
    """Scale a map to [0, 1], the maximum to 1; a uniform map becomes 0.

    Args:
        heat: float [H, W], 0 or more.
        lowest_is_zero: scale the minimum to 0, so that a map that is constant up to rounding is uniform; otherwise only
            one that is 0 everywhere is.
    """
    low, high = (heat.min() if lowest_is_zero else heat.new_zeros(())), heat.max()
    if not high - low > FLAT * high:
        return torch.zeros_like(heat)
    return ((heat - low) / (high - low)).clamp(0, 1)


def describe(predictions: "Predictions", method: Method, *, label: int | None = None) -> tuple[str, str, str]:
    """Describe the explanation of one image in words.

    Args:
        predictions: of the image.
        method: that explained it.
        label: the class that was explained, if one was chosen.

    Returns:
        the prediction; what the heat map shows; what the method shows and does not show.
    """
    (first, first_prob), (second, second_prob) = predictions.top(2)[0]
    answer = f"{first} {first_prob:.1%}, then {second} {second_prob:.1%}"
    explained = first if label is None else predictions.classes[label]
    if explained not in (first, second):
        answer += f"; {explained} {predictions.probs[0, predictions.classes.index(explained)]:.1%}"
    looked_at = f"evidence for {explained}" if method.by_class else "attention"
    return answer, looked_at, f"{method.name}. {method.shows} {method.hides}"
