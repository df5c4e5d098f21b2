"""Images to probabilities: the only inference path, test-time augmentation included."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.errors import InputError
from cifar.recipes import Recipe

# Each view is (mirrored?, rows down, columns right), the image itself first; the mean is over all of a set.
VIEWS: dict[str, tuple[tuple[bool, int, int], ...]] = {
    "none": ((False, 0, 0),),
    "mirror": ((False, 0, 0), (True, 0, 0)),
    "shift": tuple((mirrored, step, step) for mirrored in (False, True) for step in (0, -1, 1)),
}


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    device: str | torch.device | None = None,
    views: str = "none",
    below: float = 1.0,
    batch_size: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tensor:
    """Probabilities of each class; with views, the plain mean of the probabilities (not the logits) over them.

    Args:
        model: takes float pixels in [0, 1], [N, 3, 32, 32]; moved to the device, its modes as before afterwards.
        images: uint8 [N, 3, 32, 32], on any device.
        device: where to compute; default where the model is.
        views: none; mirror (2 views); shift (6 views: the image and it shifted a pixel up-left and down-right by
            reflection, each also mirrored). Time grows with the number of views, memory does not.
        below: only images whose class has a lower probability by the first view get the others; 1 is all images.
        batch_size: changes memory and speed, not the result beyond rounding; 0 is what suits the device.
        progress: gets images done and images in all, after each batch.

    Returns:
        float32 [N, 10] on the CPU, rows sum to 1.

    Raises:
        InputError: views of no such name.
    """
    if views not in VIEWS:
        raise InputError(f"There are no views {views!r}: choose from {', '.join(VIEWS)}.")
    assert images.dtype == torch.uint8, f"pixels are scaled here: uint8 expected, {images.dtype} given"
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    first, *others = VIEWS[views]

    def look(pixels: Tensor, view: tuple[bool, int, int]) -> Tensor:
        return model(view_pixels(pixels, view)).float().softmax(dim=1)  # type: ignore[no-any-return]

    def score(pixels: Tensor) -> Tensor:
        probs = look(pixels, first)
        unsure = probs.amax(dim=1) < below if below < 1 else slice(None)  # the whole batch, without a copy
        seen = pixels[unsure]
        if others and len(seen):
            probs[unsure] = torch.stack([probs[unsure], *(look(seen, view) for view in others)]).mean(dim=0)
        return probs

    if not batch_size and others and below < 1:
        batch_size = 500  # the unsure ones of it are a batch that is worth its while
    return score_batches(model, images, score=score, batch_size=batch_size, progress=progress)


def chosen_views(recipe: Recipe, views: str) -> tuple[str, float]:
    """The views that were asked for and below which probability an image gets more than the first.

    Args:
        views: a name, whose views all images get; "" are the recipe's, with its own limit.
    """
    return (recipe.views, recipe.views_below) if views in ("", recipe.views) else (views, 1.0)


def predict_logits(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tensor:
    """Logits, for a loss from their log-softmax; the arguments as in `predict`, on the model's device, one view.

    Instead of images this also takes float activations [N, …] for the trainable end of a network (`models/frozen.py`).

    Returns:
        float32 [N, 10] on the CPU.
    """

    def score(pixels: Tensor) -> Tensor:
        return model(pixels).float()  # type: ignore[no-any-return]

    return score_batches(model, images, score=score, batch_size=batch_size, progress=progress)


def score_batches(
    model: nn.Module,
    images: Tensor,
    *,
    score: Callable[[Tensor], Tensor],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """Apply `score` (float pixels [B, 3, 32, 32] → [B, 10]) to all images with the model in evaluation mode.

    Args:
        images: uint8 [N, 3, 32, 32], or float activations, on any device; each batch goes to the model's.

    Returns:
        [N, 10] on the CPU, usable in autograd.
    """
    device = next(chain(model.parameters(), model.buffers()), images).device
    # A processor's cache holds the activations of some hundred images: with 500, resnet20 took twice the time.
    batch_size = batch_size or (100 if device.type == "cpu" else 500)
    parts = [torch.empty(0, 10)]
    done = 0
    with evaluation_mode(model):
        for batch in torch.split(images, batch_size) if len(images) else ():
            with torch.inference_mode():
                parts.append(score(to_pixels(batch.to(device))).cpu())
            done += len(batch)
            progress(done, len(images))
    return torch.cat(parts)  # outside inference mode, else no temperature could be fitted to it


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module gets its own mode back, since parts may be frozen in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def view_pixels(pixels: Tensor, view: tuple[bool, int, int]) -> Tensor:
    """Pixels shifted by at most one, what comes in at the border reflected, then mirrored; float [N, 3, H, W]."""
    mirrored, down, right = view
    if down or right:
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")  # [N, 3, H + 2, W + 2]
        pixels = padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]  # [N, 3, H, W]
    return pixels.flip(-1) if mirrored else pixels
