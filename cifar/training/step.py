"""One optimisation step: forward, loss, backward, update."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from cifar.errors import WorldError
from cifar.kernels.build import speed_up
from cifar.machine import choose_precision, is_out_of_memory
from cifar.recipes import Recipe
from cifar.training.distributed import agreed

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(recipe: Recipe, *, device: str) -> tuple[str, str]:
    """The precision that a recipe is trained in, and a sentence where it is not what it asks for ("" else).

    Args:
        recipe: its precision and network.
        device: cpu, mps or cuda.
    """
    native = recipe.precision == "auto" and speed_up(recipe.model)  # which may have to compile a kernel
    return choose_precision(recipe.precision, device=device, native=native)


def training_step(
    model: nn.Module,
    optimiser: Optimizer,
    scaler: GradScaler,
    batch: tuple[Tensor, Tensor, Tensor, Tensor | None],
    *,
    precision: str,
    label_smoothing: float,
    clip_norm: float,
    refuse_bad: bool = False,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Update the weights once.

    Autocast begins behind the pixels: rounding them to bf16 would cost up to half a grey level.

    Args:
        model: float pixels [N, 3, H, W] to logits [N, classes].
        optimiser: of its parameters.
        scaler: of the loss; enabled for fp16 only.
        batch: pixels; labels int64 [N]; the labels that were mixed in [N]; the weights of the two [2], None unmixed.
        precision: fp32, bf16 or fp16, as the device has it.
        label_smoothing: probability mass spread over all classes.
        clip_norm: maximum gradient norm; 0 does not clip.
        refuse_bad: leave out a step whose loss or gradient is not finite; this waits for the device in every step.
        weight: of the loss in the average over several processes, as of `distributed.share`.

    Returns:
        the mean loss in nats, and logits float32 [N, classes]; both on the device.

    Raises:
        FloatingPointError: the step was left out; weights, buffers and optimiser are as before it.
        WorldError: there is not enough memory.
    """
    with enough_memory(len(batch[0])):
        pixels, labels, mixed_labels, weights = batch
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if refuse_bad else []
        # The cache of cast weights would outlive a captured step (pytorch#71631).
        half = {"enabled": precision in DTYPES, "cache_enabled": False}
        with torch.autocast(pixels.device.type, DTYPES.get(precision), **half):
            logits = model(pixels)
        logits = logits.float()
        loss = mixed_loss(logits, labels, mixed_labels, weights=weights, label_smoothing=label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss if weight == 1 else loss * weight).backward()  # type: ignore[no-untyped-call]
        # A gradient that fp16 cannot hold is no bad step: the scaler leaves that step out and lowers its scale.
        if refuse_bad and agreed(not all_finite([loss, *([] if scaler.is_enabled() else gradients(optimiser))]))[0]:
            for buffer, former in buffers:  # the forward pass has updated batch statistics
                buffer.copy_(former)
            optimiser.zero_grad(set_to_none=True)
            raise FloatingPointError("the loss or its gradient is not finite")
        if clip_norm:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(trained_parameters(optimiser), clip_norm)
        scaler.step(optimiser)
        scaler.update()
        return loss.detach(), logits.detach()


@contextmanager
def enough_memory(num_images: int) -> Iterator[None]:
    """Turn an error of memory that runs out into a sentence that names the batch size.

    Raises:
        WorldError: there is not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise WorldError(
            f"There is not enough memory to train on {num_images} images at a time: give a --batch-size below "
            f"{num_images}, or a smaller network."
        ) from None


def trained_parameters(optimiser: Optimizer) -> Iterable[Tensor]:
    """All parameters of an optimiser."""
    return (parameter for group in optimiser.param_groups for parameter in group["params"])


def gradients(optimiser: Optimizer) -> Iterable[Tensor]:
    """The gradients of an optimiser's parameters that have one."""
    return (parameter.grad for parameter in trained_parameters(optimiser) if parameter.grad is not None)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite; waits for the device once."""
    checks = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())


def mixed_loss(
    logits: Tensor, labels: Tensor, mixed_labels: Tensor, *, weights: Tensor | None, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy in nats against two labels (mixup's and CutMix's).

    Args:
        logits: float [N, classes]; labels, mixed_labels: int64 [N].
        weights: float [2], of the labels and of those that were mixed in; None leaves the second out.
        label_smoothing: probability mass spread over all classes.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if weights is None:
        return loss
    mixed: Tensor = weights[0] * loss + weights[1] * F.cross_entropy(
        logits, mixed_labels, label_smoothing=label_smoothing
    )
    return mixed
