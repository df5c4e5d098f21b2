"""A trained network in Python: `load_model(run).predict(images)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.evaluation.calibration import at_temperature
from cifar.evaluation.predict import chosen_views, predict
from cifar.machine import choose_device
from cifar.recipes import Recipe, from_mapping
from cifar.runs import CROSSVAL, WEIGHTS, data_of_run, load_network, read_temperatures, run_recipe
from cifar.serving.images import SIDE, Source, read_image
from cifar.serving.onnx_file import OnnxNetwork, read_metadata
from cifar.serving.sources import find_run

if TYPE_CHECKING:
    from cifar.serving.explain import Explanation

Pixels = NDArray[np.uint8] | Tensor
Images = Source | Pixels | Sequence[Source | Pixels]

ONE_IMAGE, MANY_IMAGES = "[32, 32, 3] or [3, 32, 32]", "[N, 32, 32, 3] or [N, 3, 32, 32]"


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for N images.

    Attributes:
        probs: float32 [N, 10] on the CPU, rows sum to 1.
        classes: names of the ten columns.
        temperature: that calibrated them; 1 where none did.
    """

    probs: Tensor
    classes: tuple[str, ...] = CLASSES
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.probs)

    def __repr__(self) -> str:
        if len(self) != 1:
            return f"Predictions({len(self):,} images)"
        return f"Predictions({', '.join(f'{name} {prob:.1%}' for name, prob in self.top(2)[0])})"

    @property
    def labels(self) -> Tensor:
        """The most likely class of each image, int64 [N], as an index into `classes`."""
        return self.probs.argmax(dim=1)

    @property
    def names(self) -> list[str]:
        """The most likely class of each image, by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    def top(self, num_classes: int) -> list[list[tuple[str, float]]]:
        """The most likely classes of each image with their probabilities, most likely first.

        Args:
            num_classes: 1 to 10.

        Raises:
            InputError: fewer than one class, or more than there are.
        """
        if not 1 <= num_classes <= len(self.classes):
            raise InputError(f"There are {len(self.classes)} classes: ask for 1 to {len(self.classes)}.")
        probs, labels = self.probs.sort(dim=1, descending=True, stable=True)  # ties in the order of argmax
        return [
            [(self.classes[label], prob) for label, prob in zip(*row, strict=True)]
            for row in zip(labels[:, :num_classes].tolist(), probs[:, :num_classes].tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Classifier:
    """A trained network with the recipe of its run.

    Attributes:
        network: float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10]; in evaluation mode.
        recipe: of its run.
        device: that it computes on: cpu, mps or cuda.
        trained_on: the name of its data set; "" where the folder does not say.
        temperatures: that calibrate its probabilities, by TTA: fitted on validation images by test evaluations.
    """

    network: nn.Module
    recipe: Recipe
    device: str
    trained_on: str
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Classifier({self.recipe.model}, trained on {self.trained_on or 'unknown data'}, on {self.device})"

    @property
    def note(self) -> str:
        """What must be said of a network that was trained on the sample; else ""."""
        is_sample = self.trained_on.startswith("SAMPLE")
        return f"{self.trained_on}: TRAINED ON 1,000 IMAGES, KNOWS NEXT TO NOTHING" if is_sample else ""

    def predict(
        self,
        images: Images,
        *,
        views: str = "",
        calibrated: bool = True,
        batch_size: int = 0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Predictions:
        """Predict the classes of images, in the same way as the evaluation of the run does.

        Args:
            images: one image or a sequence of them, in any mixture of
                - paths, files opened in binary mode and Pillow images of any size and mode: see `read_image`;
                - arrays or tensors of bytes (uint8), RGB, 32×32 pixels: [32, 32, 3] or [3, 32, 32];
                or one array or tensor of many: [N, 32, 32, 3] or [N, 3, 32, 32]. N may be 0.
            views: of test-time augmentation, averaged for each image: none, mirror (2) or shift (6); "" is the
                recipe's.
            calibrated: whether to divide the logarithms of the probabilities by the temperature that was fitted for
                these views, if there is one; it changes no class.
            batch_size: images at a time: changes memory and speed, not the result beyond rounding; 0 is the default of
                the device.
            progress: gets images done and images in total, after each batch.

        Returns:
            the predictions, in the order of the images.

        Raises:
            InputError: no such file or views; pixels that are not bytes, or of another shape.
            WorldError: a file that is not an image, truncated or too large, see `read_image`; a network that gives no
                numbers.
        """
        views, below = chosen_views(self.recipe, views)
        probs = predict(
            self.network,
            to_images(images),
            device=self.device,
            views=views,
            below=below,
            batch_size=batch_size,
            progress=progress,
        )
        check_finite(probs, of=f"The network {self.recipe.model}")
        temperature = self.temperatures.get(views, 1.0) if calibrated else 1.0
        return Predictions(at_temperature(probs, temperature) if temperature != 1 else probs, temperature=temperature)

    def explain(self, image: Source, *, class_name: str = "") -> "Explanation":
        """What the network looks at in an image: Grad-CAM, or attention rollout for transformers.

        Args:
            image: a path, a file opened in binary mode or a Pillow image.
            class_name: that Grad-CAM explains; "" is the most likely.

        Returns:
            a `cifar.serving.explain.Explanation`, which a notebook shows as its picture; `png()` gives its bytes.

        Raises:
            InputError: no such class, or a network that cannot be explained.
            WorldError: the file is no image.
        """
        from cifar.serving.explain import explain_image  # imports this module

        return explain_image(self, image, class_name=class_name)


def load_model(run: str | Path, *, device: str = "", trust_code: bool = False) -> Classifier:
    """Load a trained network.

    Args:
        run: a run's folder, or one that `cifar export --format safetensors` wrote; an ONNX file of `cifar export`,
            which onnxruntime computes on the CPU; a recorded run, such as "resnet"; or "owner/name" on the hub.
        device: cpu, mps or cuda; "" is the best available.
        trust_code: import and run the user's function, if the recipe names one.

    Raises:
        InputError: nothing of that name, the folder of a cross-validation, a device that is not available, or code that
            is not trusted.
        WorldError: the weights cannot be had, are damaged, not finite or of another network.
    """
    folder = find_run(run)
    if folder.suffix == ".onnx":
        return load_onnx(folder)
    if (folder / CROSSVAL).exists():
        raise InputError(f"{folder} holds a cross-validation: name one of its folds, such as {folder / 'fold-0'}.")
    recipe = run_recipe(folder)
    network = load_network(folder, trust_code=trust_code)
    for parameter in network.parameters():
        check_finite(parameter, of=f"{folder / WEIGHTS}")
    return Classifier(
        network, recipe, choose_device(device), data_of_run(folder)["data"], temperatures=read_temperatures(folder)
    )


def load_onnx(path: Path) -> Classifier:
    """The network in an ONNX file of `cifar export`.

    Raises:
        WorldError: it cannot be read, or is no such file.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror}).") from None
    metadata = read_metadata(model)
    if not isinstance(metadata.get("recipe"), dict):
        raise WorldError(f"{path} holds no recipe: only ONNX files of `cifar export` can be loaded.")
    recipe = from_mapping(metadata["recipe"], origin=str(path))
    return Classifier(OnnxNetwork(model), recipe, "cpu", str(metadata.get("data", "")))


def check_finite(values: Tensor, *, of: str) -> None:
    """Refuse weights or probabilities that are not numbers; `of` names whose they are.

    Raises:
        WorldError: a value is NaN or infinite.
    """
    if not values.isfinite().all():
        raise WorldError(
            f"{of} gives values that are not finite: its training diverged or its file is damaged; train again or "
            "restore the file."
        )


def to_images(images: Images) -> Tensor:
    """The input of `Classifier.predict` as uint8 [N, 3, 32, 32]."""
    if isinstance(images, np.ndarray | Tensor):
        return from_pixels(images)
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return torch.cat([torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8), *map(one_image, images)])
    return one_image(images)


def one_image(image: Any) -> Tensor:
    """One element of the input of `Classifier.predict` as uint8 [1, 3, 32, 32]."""
    if not isinstance(image, np.ndarray | Tensor):
        if not isinstance(image, str | Path | Image.Image) and not hasattr(image, "read"):
            raise InputError(f"A {type(image).__name__} is not an image: give paths, files, Pillow images or arrays.")
        return read_image(image)[None]
    if image.ndim != 3:
        raise InputError(f"A list holds an array of shape {list(image.shape)}: each must be one image, {ONE_IMAGE}.")
    return from_pixels(image)


def from_pixels(pixels: Pixels) -> Tensor:
    """One or many images as uint8 [N, 3, 32, 32].

    Args:
        pixels: uint8, [32, 32, 3], [3, 32, 32], [N, 32, 32, 3] or [N, 3, 32, 32].

    Raises:
        InputError: not bytes, or not one of the four shapes.
    """
    if str(pixels.dtype).removeprefix("torch.") != "uint8":
        raise InputError(
            f"The pixels are {pixels.dtype}: give bytes (uint8, 0 to 255), such as (255 * pixels).round()."
        )
    tensor = torch.as_tensor(pixels) if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.shape[1:] == (SIDE, SIDE, 3):
        batch = batch.permute(0, 3, 1, 2)  # [N, 3, 32, 32]
    elif batch.shape[1:] != (3, SIDE, SIDE):
        raise InputError(
            f"The pixels have the shape {list(pixels.shape)}: give {ONE_IMAGE}, or {MANY_IMAGES} for many; images of "
            "other sizes or modes as files or as Pillow images."
        )
    return batch
