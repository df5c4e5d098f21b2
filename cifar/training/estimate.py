"""How long a pretrained network will train here, from a few images, before anybody waits for it."""

import time

import torch
import torch.nn.functional as F
from torch import nn

from cifar.machine import choose_precision
from cifar.models import build_model, feed_early
from cifar.models.frozen import FrozenPart, freeze, trainable_end
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe

TRIAL_IMAGES = 8
LONG_SECONDS = 3 * 3600


def estimate_seconds(recipe: Recipe, *, num_images: int, device: str) -> tuple[float, float]:
    """Seconds of training by a recipe, and those of training only the head.

    One forward and one backward pass of a randomly initialised network over 8 images, at each size that the recipe
    has, after a first one that is not timed; validation, which costs a tenth of the images forward, is left out.

    Args:
        recipe: of a pretrained network.
        num_images: in training.
    """
    model = build_model(recipe, pretrained=False).to(device)
    freeze(model, recipe.train_blocks)
    precision, _ = choose_precision(recipe.precision, device=device)
    scaled = num_images / TRIAL_IMAGES
    forward, step = time_step(recipe, model, device=device, precision=precision)
    seconds = step * (recipe.epochs - recipe.early_epochs)
    if recipe.train_blocks >= 0:
        seconds += forward
    if recipe.early_epochs:
        feed_early(model, True)
        seconds += time_step(recipe, model, device=device, precision=precision)[1] * recipe.early_epochs
    return seconds * scaled, forward * scaled


def time_step(recipe: Recipe, model: nn.Module, *, device: str, precision: str) -> tuple[float, float]:
    """Seconds of the frozen part (for the whole network: all but the head) forward, and of one training step."""
    assert isinstance(model, Pretrained)
    images = torch.zeros(TRIAL_IMAGES, 3, 32, 32, device=device)
    labels = torch.zeros(TRIAL_IMAGES, dtype=torch.int64, device=device)
    frozen, end = FrozenPart(model, max(recipe.train_blocks, 0)), trainable_end(model, recipe.train_blocks)
    lower = torch.autocast(device, {"bf16-mixed": torch.bfloat16}.get(precision, torch.float16), precision != "32-true")
    for _ in range(2):  # the second is timed
        started = time.perf_counter()
        with torch.no_grad():
            activations = frozen(images)
        activations.sum().item()  # waits for the device
        forward = time.perf_counter() - started
        inputs = images if recipe.train_blocks < 0 else activations
        with lower:
            loss = F.cross_entropy(end(inputs), labels)
        torch.autograd.backward(loss)
        step = time.perf_counter() - started - forward
    return forward, step


def estimate_sentence(seconds: float, head_seconds: float) -> str:
    """What a person is told; a training of over three hours is offered the cheaper ways."""
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
