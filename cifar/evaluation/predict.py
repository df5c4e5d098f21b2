"""Images to probabilities: the only inference path, test-time augmentation (TTA) included."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.errors import InputError
from cifar.models.hooks import place
from cifar.models.layers import resize
from cifar.recipes import Recipe

# The views of each kind of TTA: (mirrored?, rows down, columns right), the image itself first.
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
    """Probabilities of each class; with TTA, the plain mean of the probabilities (not the logits) over the views.

    Args:
        model: takes float pixels in [0, 1], [N, 3, 32, 32]; moved to the device, its modes as before afterwards.
        images: uint8 [N, 3, 32, 32], on any device.
        device: where to compute; default where the model is.
        views: the TTA: none; mirror (2 views); shift (6 views: the image as it is, shifted by one pixel up-left, and
            down-right, with reflection, each also mirrored). Time grows with the number of views, memory does not.
        below: only images whose top-1 probability in the first view is lower get the other views; 1 is all images.
        batch_size: changes memory and speed, not the result beyond rounding; 0 is what suits the device.
        progress: called with images done and images in all, after each batch.

    Returns:
        float32 [N, 10] on the CPU, rows sum to 1.

    Raises:
        InputError: no such TTA.
    """
    if views not in VIEWS:
        raise InputError(f"There is no TTA {views!r}: choose from {', '.join(VIEWS)}.")
    assert images.dtype == torch.uint8, f"pixels are scaled here: uint8 expected, {images.dtype} given"
    place(model, device)

    first_view, *other_views = VIEWS[views]

    def view_probs(pixels: Tensor, view: tuple[bool, int, int]) -> Tensor:
        return model(view_pixels(pixels, view)).float().softmax(dim=1)  # type: ignore[no-any-return]

    def score(pixels: Tensor) -> Tensor:
        probs = view_probs(pixels, first_view)
        chosen = probs.amax(dim=1) < below if below < 1 else slice(None)  # the whole batch, without a copy
        chosen_pixels = pixels[chosen]
        if other_views and len(chosen_pixels):
            others = (view_probs(chosen_pixels, view) for view in other_views)
            probs[chosen] = torch.stack([probs[chosen], *others]).mean(dim=0)
        return probs

    if not batch_size and other_views and below < 1:
        batch_size = 500  # the least confident fifth of it is still a batch of a good size
    return score_batches(model, images, score=score, batch_size=batch_size, progress=progress)


def chosen_views(recipe: Recipe, views: str) -> tuple[str, float]:
    """The TTA to use, and below which top-1 probability an image gets more than the first view.

    Args:
        recipe: of the run.
        views: a kind of TTA, for all images; "" is the recipe's, with its own limit.
    """
    return (recipe.tta.views, recipe.tta.views_below) if views in ("", recipe.tta.views) else (views, 1.0)


def predict_logits(
    model: nn.Module,
    images: Tensor,
    *,
    image_size: int = 0,
    batch_size: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tensor:
    """Logits on the model's device, without TTA.

    Args:
        model, batch_size, progress: as in `predict`.
        images: uint8 [N, 3, 32, 32], or float activations [N, …] for the trainable end of a network.
        image_size: side in pixels that images are resized to; 0 leaves them alone.

    Returns:
        float32 [N, 10] on the CPU.
    """

    def score(pixels: Tensor) -> Tensor:
        return model(resize(pixels, image_size) if image_size else pixels).float()  # type: ignore[no-any-return]

    return score_batches(model, images, score=score, batch_size=batch_size, progress=progress)


def score_batches(
    model: nn.Module,
    images: Tensor,
    *,
    score: Callable[[Tensor], Tensor],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """Apply `score` to all images with the model in evaluation mode.

    Args:
        model: whose device is used.
        images: uint8 [N, 3, 32, 32], or float activations, on any device; each batch goes to the model's.
        score: float pixels [B, 3, 32, 32] → [B, 10].
        batch_size, progress: as in `predict`.

    Returns:
        [N, 10] on the CPU, usable in autograd.
    """
    device = next(chain(model.parameters(), model.buffers()), images).device
    # A CPU's cache holds the activations of about a hundred images: with 500, resnet20 took twice the time.
    batch_size = batch_size or (100 if device.type == "cpu" else 2_000)
    parts = [torch.empty(0, 10, device=device)]
    done = 0
    with evaluation_mode(model):
        while done < len(images):
            batch = images[done : done + batch_size]
            try:
                with torch.inference_mode():
                    parts.append(score(to_pixels(batch.to(device))))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size = (batch_size + 1) // 2  # large networks on a small GPU
                continue
            done += len(batch)
            progress(done, len(images))
    return torch.cat([part.cpu() for part in parts])  # outside inference mode, else no temperature could be fitted


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within a context; each module gets its own mode back, since parts may stay in evaluation mode.

    cuDNN does not try all its algorithms meanwhile: for a few batches of a size, that takes longer than it saves.
    """
    modes = [(module, module.training) for module in model.modules()]
    tries_all = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    model.eval()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tries_all
        for module, mode in modes:
            module.training = mode


def view_pixels(pixels: Tensor, view: tuple[bool, int, int]) -> Tensor:
    """Pixels shifted by at most one, with reflection at the border, then mirrored; float [N, 3, H, W].

    Args:
        pixels: float [N, 3, H, W].
        view: mirrored or not, rows down, columns right; -1 to 1.
    """
    mirrored, down, right = view
    if down or right:
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")  # [N, 3, H + 2, W + 2]
        pixels = padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]  # [N, 3, H, W]
    return pixels.flip(-1) if mirrored else pixels
