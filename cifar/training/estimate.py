"""How long a pretrained network will train here, from a few images, before anybody waits for it."""

import time

import torch
import torch.nn.functional as F

from cifar.models import build_model
from cifar.models.frozen import FrozenPart, freeze, trainable_end
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe

TRIAL_IMAGES = 8
LONG_SECONDS = 3 * 3600


def estimate_seconds(recipe: Recipe, *, num_images: int, device: str) -> tuple[float, float]:
    """Seconds of training by a recipe, and those of training only the head.

    One forward and one backward pass of a randomly initialised network over 8 images, after a first one that is not
    timed; validation, which costs a tenth of the images forward, is left out.

    Args:
        recipe: of a pretrained network.
        num_images: in training.
    """
    model = build_model(recipe, pretrained=False).to(device)
    assert isinstance(model, Pretrained)
    freeze(model, recipe.train_blocks)
    images = torch.zeros(TRIAL_IMAGES, 3, 32, 32, device=device)
    labels = torch.zeros(TRIAL_IMAGES, dtype=torch.int64, device=device)
    frozen, end = FrozenPart(model, max(recipe.train_blocks, 0)), trainable_end(model, recipe.train_blocks)
    for _ in range(2):  # the second is timed
        started = time.perf_counter()
        with torch.no_grad():
            activations = frozen(images)
        activations.sum().item()  # waits for the device
        forward = time.perf_counter() - started
        inputs = images if recipe.train_blocks < 0 else activations
        torch.autograd.backward(F.cross_entropy(end(inputs), labels))
        step = time.perf_counter() - started - forward
    once, each = forward / TRIAL_IMAGES * num_images, step / TRIAL_IMAGES * num_images
    whole = each * recipe.epochs + (once if recipe.train_blocks >= 0 else 0.0)
    return whole, once


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
