"""Where an epoch of a training stands and how it ends: validation, the best weights, the checkpoint."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from cifar.data.split import Split
from cifar.evaluation.predict import predict_logits
from cifar.models.frozen import trainable_end
from cifar.recipes import Recipe
from cifar.runs import METRICS, WEIGHTS, Content, metrics_text, weights_bytes
from cifar.training.display import Tick
from cifar.training.distributed import computed_together, is_first, same_everywhere
from cifar.training.divergence import save_or_diverge
from cifar.training.state import State


def validate(recipe: Recipe, state: State, validation: Split, *, image_size: int) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of the weights that would be saved now; NaN without validation images.

    Args:
        recipe, state: of the training.
        validation: on the device.
        image_size: side in pixels that images are resized to; 0 leaves them alone.
    """
    if len(validation) == 0:
        return math.nan, math.nan
    same_everywhere(state.candidate, buffers_only=True)  # batch statistics are those of the first process
    network = trainable_end(state.candidate, recipe.network.train_blocks)

    def logits_of(images: Tensor) -> Tensor:
        return predict_logits(network, images, image_size=image_size)

    logits, labels = computed_together(validation.images, logits_of), validation.labels.cpu()
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def end_epoch(recipe: Recipe, state: State, row: dict[str, float]) -> bool:
    """Note the best weights, and let the plateau schedule and patience see the accuracy.

    Args:
        recipe, state: of the training; the state is changed.
        row: of metrics.csv, of the epoch that has ended.

    Returns:
        whether these are the best weights so far.
    """
    accuracy = row["validation_accuracy"]
    is_best = math.isnan(accuracy) or accuracy > state.best_accuracy
    if is_best:
        state.best_accuracy, state.best_epoch = accuracy, state.epoch
        state.unsaved = state.candidate.state_dict()
    if state.plateau:
        state.plateau.step(accuracy)
    # Epochs on smaller images neither end a run nor count against those on whole ones.
    epochs_without_gain = state.epoch - max(state.best_epoch, recipe.augment.early_epochs)
    state.finished = state.epoch == recipe.epochs or 0 < recipe.patience <= epochs_without_gain
    state.rows.append(row)
    return is_best


def save(recipe: Recipe, state: State, folder: Path) -> None:
    """Write last.ckpt, metrics.csv and, where they are new, the best weights.

    Raises:
        WorldError: as `save_or_diverge`.
    """
    others: dict[str, Content] = {METRICS: metrics_text(state.rows)} if state.rows else {}
    if state.unsaved is not None and is_first():
        others[WEIGHTS] = weights_bytes(state.unsaved)
    save_or_diverge(recipe, state, folder, others)
    state.unsaved = None


def tick_of(recipe: Recipe, state: State, totals: Sequence[float], *, steps: int, seconds: float) -> Tick:
    """Where a training stands.

    Args:
        recipe, state: of the training.
        totals: of the epoch so far, as of the state, over all processes.
        steps: in an epoch.
        seconds: since the epoch began.
    """
    total_loss, num_correct, num_images = totals
    epochs_done = state.epoch + state.step / steps
    return Tick(
        epoch=state.epoch + 1,
        epochs=recipe.epochs,
        step=state.step,
        steps=steps,
        loss=total_loss / max(num_images, 1),  # all may have been skipped
        accuracy=num_correct / max(num_images, 1),
        images_per_second=num_images / seconds,
        seconds_left=(state.seconds + seconds) * (recipe.epochs - epochs_done) / epochs_done,
    )
