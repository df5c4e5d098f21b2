"""The training loop: one flat function. Images lie on the device; whole batches are augmented there."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifar.data.augment import (
    alternate_flips,
    box_share,
    crop_and_flip,
    cutmix,
    draw_box,
    draw_flips,
    draw_jitter,
    draw_offsets,
    draw_share,
    jitter,
    mixup,
)
from cifar.data.batches import batches, draw_order, to_device, to_pixels
from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.evaluation.predict import predict_logits
from cifar.machine import choose_compile, choose_precision, flush_denormals, keep_memory
from cifar.models import build_model, feed_early, prepare_model
from cifar.models.compiled import use_compiled
from cifar.models.frozen import freeze, trainable_end
from cifar.recipes import Recipe
from cifar.runs import save_weights, write_metrics
from cifar.training.loggers import Logger
from cifar.training.optimisers import build_optimiser, freeze_finished
from cifar.training.precision import open_fabric
from cifar.training.schedules import lr_factor, plateau
from cifar.training.state import State, restore_state, save_state

TICK_SECONDS = 0.25  # between two looks at the loss: each waits for the device


@dataclass(frozen=True)
class Tick:
    """Where a training stands: losses and accuracies are means over the epoch so far, time left is in seconds."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


def train(
    recipe: Recipe,
    training: Split,
    validation: Split,
    *,
    folder: Path,
    device: str = "cpu",
    loggers: Sequence[Logger] = (),
    tick: Callable[[Tick], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    resume: bool = False,
) -> State:
    """Train by a recipe and leave metrics.csv, model.safetensors and last.ckpt in the run folder.

    The same recipe, data and machine give the same weights bit for bit, also when the training was stopped after any
    step and resumed. The best weights by validation accuracy are kept; without validation images, the last.

    Args:
        recipe: decides the result.
        training, validation: cut from the 50,000; the test split never comes here. validation may be empty. With
            train_blocks of 0 or more they hold activations (`frozen_activations`) instead of images.
        folder: an existing run folder.
        device: cpu, mps or cuda.
        loggers: get each epoch's row.
        tick: called a few times a second.
        should_stop: asked after every step; true saves everything and returns.
        say: gets sentences a person should read.
        resume: continue from the folder's last.ckpt.

    Returns:
        the state after the last step; `finished` is false if it was stopped.

    Raises:
        WorldError: the loss is no longer finite, or a checkpoint cannot be read.
    """
    fabric, precision_remark = open_fabric(recipe.precision, device=device)
    compiled, compile_remark = choose_compile(recipe.compile, device=device)
    for remark in filter(None, (precision_remark, compile_remark)):
        say(remark)
    keep_memory()
    flush_denormals()
    torch.manual_seed(recipe.seed)  # weights and dropout: the one place of hidden randomness
    state = new_state(recipe, training, fabric=fabric)
    if resume:
        restore_state(state, folder)
    trained = trainable_end(state.model, recipe.train_blocks)
    in_full = device == "cpu" and choose_precision(recipe.precision, device=device)[0] == "32-true"
    if recipe.winograd and in_full and (remark := use_compiled(trained)):
        say(remark)
    if compiled:
        trained.compile()
    model, optimiser = fabric.setup(trained, state.optimiser)
    training, validation = to_device(training, fabric.device), to_device(validation, fabric.device)
    steps = math.ceil(len(training) / recipe.batch_size)

    while not state.finished:
        started, last_tick = time.perf_counter() - state.epoch_seconds, 0.0
        if state.step == 0:
            state.order = draw_order(len(training), generator=state.generator)
            state.totals = torch.zeros(3, dtype=torch.float64)
            if state.epoch == recipe.early_epochs:
                state.best_accuracy = -1.0  # those of smaller images do not compete with what is saved from here on
        for network in (state.model, best_candidate(state)):
            feed_early(network, state.epoch < recipe.early_epochs)
        freeze_finished(optimiser, epoch=state.epoch)
        window = recipe.window if 0 <= state.epoch - recipe.early_epochs < recipe.window_epochs else 0
        # Only ever added to, whenever it is looked at: the sums are the same bit for bit. mps has no float64.
        state.totals = state.totals.to(fabric.device, torch.float32 if device == "mps" else torch.float64)
        model.train()
        for images, labels, indices in batches(training, state.order, batch_size=recipe.batch_size, first=state.step):
            time_in_epochs = state.epoch + (state.step + 0.5) / steps
            if state.plateau is None:
                for group in optimiser.param_groups:
                    group["lr"] = group["initial_lr"] * lr_factor(recipe, time_in_epochs, epochs=group.get("epochs", 0))
            flips = alternate_flips(state.flips, indices, epoch=state.epoch) if state.flips is not None else None
            pixels, others, share = augment(
                images, labels, recipe=recipe, generator=state.generator, flips=flips, window=window
            )
            logits = model(pixels)
            loss = mixed_loss(logits, labels, others, share=share, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if recipe.clip_norm:
                fabric.clip_gradients(model, optimiser, max_norm=recipe.clip_norm, error_if_nonfinite=False)
            optimiser.step()
            if state.average:
                state.average.update_parameters(state.model)
            with torch.no_grad():
                correct = (logits.argmax(1) == labels).sum()
                state.totals += torch.stack([loss * len(labels), correct, torch.full_like(loss, len(labels))])
            state.step += 1

            now = time.perf_counter()
            stopping = should_stop()
            if now - last_tick > TICK_SECONDS or stopping or state.step == steps:
                last_tick = now
                tick(make_tick(recipe, state, steps=steps, seconds=now - started))
            if stopping:
                state.epoch_seconds = now - started
                save_state(state, folder)
                return state

        train_seconds = time.perf_counter() - started
        validation_loss, validation_accuracy = validate(recipe, state, validation)
        state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
        state.seconds += time.perf_counter() - started
        state.rows.append(
            {
                "epoch": state.epoch,
                "learning_rate": recipe.lr * schedule_share(optimiser.param_groups[0]),
                "train_loss": (state.totals[0] / state.totals[2]).item(),
                "train_accuracy": (state.totals[1] / state.totals[2]).item(),
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "seconds": round(state.seconds, 3),
                "images_per_second": round(len(training) / train_seconds, 1),
            }
        )
        finish_epoch(recipe, state, folder=folder, validation_accuracy=validation_accuracy)
        for logger in loggers:
            logger.log(state.rows[-1])
    return state


def schedule_share(group: dict[str, Any]) -> float:
    """What the schedule leaves of a group's own highest rate: groups may have other rates than the recipe's."""
    return float(group["lr"] / group["initial_lr"])


def new_state(recipe: Recipe, training: Split, *, fabric: Fabric) -> State:
    """Before the first step: a network fitted to the statistics of its training images, with its optimiser."""
    model = build_model(recipe)
    freeze(model, recipe.train_blocks)
    if recipe.train_blocks < 0:
        prepare_model(model, training.images)
    model.to(device=fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(recipe, model)
    average = None
    if recipe.ema_decay:
        average = AveragedModel(model, multi_avg_fn=warmed_average(recipe.ema_decay), use_buffers=True)
    generator = Generator().manual_seed(recipe.seed)
    flips = None
    if recipe.flip_mode == "alternate":
        flips = draw_flips(len(training), probability=recipe.flip, generator=generator)
    return State(model, optimiser, plateau(recipe, optimiser), average, fabric.strategy.precision, generator, flips)


def warmed_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """An exponential moving average whose decay rises as (1 + n) / (10 + n), so that early weights are forgotten."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        num = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + num) / (10 + num)))(averaged, current, num)  # type: ignore[no-untyped-call]

    return update


def augment(
    images: Tensor, labels: Tensor, *, recipe: Recipe, generator: Generator, flips: Tensor | None = None,
    window: int = 0,
) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """Crop, mirror, jitter and mix a batch as the recipe says.

    Args:
        images: uint8 [N, 3, 32, 32]; labels: int64 [N].
        flips: bool [N], which to mirror, on the CPU; drawn where they are not given.
        window: side of the windows that are cut out of the images, without padding; 0 is whole images, padded.

    Returns:
        float pixels [N, 3, 32, 32] or of the window's size, in [0, 1] but for jitter; the labels that were mixed in
        [N]; the share of the images' own.
    """
    num_images, device = len(images), images.device
    padding = 0 if window else recipe.crop_padding
    if padding or window or recipe.flip:
        most = images.shape[-1] + 2 * padding - (window or images.shape[-1])
        offsets = draw_offsets(num_images, most=most, generator=generator)
        if flips is None:
            flips = draw_flips(num_images, probability=recipe.flip, generator=generator)
        images = crop_and_flip(images, offsets, flips, padding=padding, mode=recipe.crop_mode, size=window)
    pixels = to_pixels(images)
    if recipe.brightness or recipe.contrast:
        changes = [
            draw_jitter(num_images, most=most, generator=generator).to(device)
            for most in (recipe.brightness, recipe.contrast)
        ]
        pixels = jitter(pixels, *changes)
    if not (recipe.mixup or recipe.cutmix):
        return pixels, labels, 1.0
    order = draw_order(num_images, generator=generator).to(device)
    use_mixup = (
        bool(torch.rand((), generator=generator) < 0.5) if recipe.mixup and recipe.cutmix else bool(recipe.mixup)
    )
    share = draw_share(alpha=recipe.mixup if use_mixup else recipe.cutmix, generator=generator)
    if use_mixup:
        return mixup(pixels, order, share=share), labels[order], share
    size = pixels.shape[-1]
    box = draw_box(share, size=size, generator=generator)
    return cutmix(pixels, order, box), labels[order], box_share(box, size=size)


def mixed_loss(logits: Tensor, labels: Tensor, others: Tensor, *, share: float, label_smoothing: float) -> Tensor:
    """Mean cross-entropy in nats against a mixture of two labels, `share` of it the first."""
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if share == 1.0:
        return loss
    return share * loss + (1 - share) * F.cross_entropy(logits, others, label_smoothing=label_smoothing)


def validate(recipe: Recipe, state: State, validation: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of the weights that would be saved now; NaN without validation images."""
    if len(validation) == 0:
        return math.nan, math.nan
    logits = predict_logits(trainable_end(best_candidate(state), recipe.train_blocks), validation.images)
    labels = validation.labels.cpu()
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def best_candidate(state: State) -> nn.Module:
    """The network that is validated and saved: the moving average where there is one."""
    return state.average.module if state.average else state.model


def finish_epoch(recipe: Recipe, state: State, *, folder: Path, validation_accuracy: float) -> None:
    """Keep the best weights, let the plateau schedule and patience see the accuracy, and write the epoch down.

    Raises:
        WorldError: the training loss is not finite; what was saved before stays.
    """
    row = state.rows[-1]
    if not math.isfinite(row["train_loss"]):
        raise WorldError(
            f"The loss is {row['train_loss']} after epoch {state.epoch}: "
            f"train again with a lower learning rate than {recipe.lr:g}."
        )
    if math.isnan(validation_accuracy) or validation_accuracy > state.best_accuracy:
        state.best_accuracy, state.best_epoch = validation_accuracy, state.epoch
        save_weights(folder, best_candidate(state).state_dict())
    if state.plateau:
        state.plateau.step(validation_accuracy)
    out_of_patience = recipe.patience > 0 and state.epoch - state.best_epoch >= recipe.patience
    state.finished = state.epoch == recipe.epochs or out_of_patience
    write_metrics(folder, state.rows)
    save_state(state, folder)


def make_tick(recipe: Recipe, state: State, *, steps: int, seconds: float) -> Tick:
    """Where the training stands, `seconds` after the epoch began."""
    loss, correct, seen = state.totals.tolist()
    done = state.epoch + state.step / steps
    return Tick(
        epoch=state.epoch + 1,
        epochs=recipe.epochs,
        step=state.step,
        steps=steps,
        loss=loss / seen,
        accuracy=correct / seen,
        images_per_second=seen / seconds,
        seconds_left=(state.seconds + seconds) * (recipe.epochs - done) / done,
    )
