"""How long a pretrained network will train here, from a few images, before anybody waits for it."""

import time

import torch
import torch.nn.functional as F

from cifar.machine import synchronise
from cifar.models import build_model
from cifar.models.frozen import FrozenPart, freeze, trainable_end
from cifar.models.layers import resize
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe
from cifar.training.step import DTYPES, precision_of

TRIAL_IMAGES = 8
LONG_SECONDS = 3 * 3600


def estimate_seconds(recipe: Recipe, *, num_images: int, device: str) -> tuple[float, float]:
    """Seconds of training by a recipe, and of training only the head.

    One forward and one backward pass of a randomly initialised network over 8 images, at each size that the recipe
    has, after a first one that is not timed; validation, a forward pass of a tenth of the images, is left out.

    Args:
        recipe: of a pretrained network.
        num_images: in training.
        device: cpu, mps or cuda.
    """
    model = build_model(recipe, pretrained=False).to(device)
    assert isinstance(model, Pretrained), type(model)
    freeze(model, recipe.network.train_blocks)
    precision, _ = precision_of(recipe, device=device)
    early_epochs, early_size = recipe.augment.early_epochs, recipe.augment.early_image_size
    forward, step = time_step(recipe, model, device=device, precision=precision)
    seconds = step * (recipe.epochs - early_epochs)
    if recipe.network.train_blocks >= 0:
        seconds += forward
    if early_epochs:
        early_step = time_step(recipe, model, device=device, precision=precision, image_size=early_size)[1]
        seconds += early_step * early_epochs
    batches = num_images / TRIAL_IMAGES
    return seconds * batches, forward * batches


def time_step(
    recipe: Recipe, model: Pretrained, *, device: str, precision: str, image_size: int = 32
) -> tuple[float, float]:
    """Seconds of the frozen part (for the whole network: all but the head) forward, and of one training step.

    Args:
        recipe: of the run.
        model: on the device.
        device: cpu, mps or cuda.
        precision: fp32, bf16 or fp16.
        image_size: side in pixels of the images.
    """
    train_blocks = recipe.network.train_blocks
    images = resize(torch.zeros(TRIAL_IMAGES, 3, 32, 32, device=device), image_size)
    labels = torch.zeros(TRIAL_IMAGES, dtype=torch.int64, device=device)
    frozen, end = FrozenPart(model, max(train_blocks, 0)), trainable_end(model, train_blocks)
    for _ in range(2):  # the second is timed
        synchronise(device)
        started = time.perf_counter()
        with torch.no_grad():
            activations = frozen(images)
        synchronise(device)
        forward_done = time.perf_counter()
        with torch.autocast(device, DTYPES.get(precision), enabled=precision in DTYPES):
            loss = F.cross_entropy(end(images if train_blocks < 0 else activations), labels)
        torch.autograd.backward(loss)
        synchronise(device)  # else only the launch of the backward pass is timed
        step_done = time.perf_counter()
    return forward_done - started, step_done - forward_done


def estimate_sentence(seconds: float, head_seconds: float) -> str:
    """The estimate in words; for a training of over three hours with the cheaper ways.

    Args:
        seconds: of the training.
        head_seconds: of training the head alone.
    """
    sentence = f"This will take about {in_words(seconds)}"
    if seconds <= LONG_SECONDS:
        return sentence + "."
    return (
        f"{sentence}; --freeze trains only the head in about {in_words(head_seconds)}, --train-blocks 2 the last "
        "blocks, and --set image_size=112 makes each image about four times cheaper."
    )


def in_words(seconds: float) -> str:
    """A duration to read: seconds, minutes, hours or days."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
