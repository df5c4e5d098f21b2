"""The training loop: one flat function. Images lie on the device; whole batches are augmented there."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar.data.batches import last_batch_remark, num_batches, to_device
from cifar.data.split import Split
from cifar.machine import (
    choose_compile,
    choose_device,
    flush_denormals,
    keep_memory,
    kind_of,
    prepare_gpu,
)
from cifar.models import is_pretrained, num_parameters
from cifar.models.frozen import trainable_end
from cifar.models.layers import resize
from cifar.randomness import seed_generators
from cifar.recipes import Recipe, to_mapping
from cifar.training.augment import augment, own_augmentation
from cifar.training.capture import Rows, Steps, obstacle
from cifar.training.display import Display, Facts
from cifar.training.distributed import (
    agreed,
    counted,
    in_parallel,
    is_first,
    merge_,
    processes,
    same_everywhere,
    seed_apart,
    share,
    steps_between_looks,
    synchronise_batchnorm,
)
from cifar.training.divergence import diverged
from cifar.training.epoch import end_epoch, save, tick_of, validate
from cifar.training.loggers import Logger
from cifar.training.optimisers import freeze_finished, rates_on_device, set_rates
from cifar.training.plan import PER_STEP, draw_plan
from cifar.training.resume import how_computed, restore_state, resumed_otherwise
from cifar.training.scaling import expectation
from cifar.training.state import State, new_state, save_state
from cifar.training.step import precision_of, training_step

TICK_SECONDS = 0.25  # between two looks at the loss: each waits for the device
SHORT_SECONDS = 5.0  # epochs that end sooner after a checkpoint have none: they are repeated faster than saved
CHECKPOINT_SECONDS = 300.0  # between two checkpoints within an epoch: what a killed process loses at most


def train(
    recipe: Recipe,
    training: Split,
    validation: Split,
    *,
    folder: Path,
    device: str = "cpu",
    compile: bool = False,
    capture: bool = True,
    deterministic: bool = False,
    sync_batchnorm: bool = False,
    display: Display | None = None,
    loggers: Sequence[Logger] = (),
    resume: bool = False,
    data_sha256: str = "",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> State:
    """Train by a recipe and leave metrics.csv, model.safetensors and last.ckpt in the run folder.

    The same recipe, data, machine and number of threads give the same weights bit for bit on a CPU, and with
    `deterministic` on a GPU, also when the training was stopped or killed after any step and resumed. The best weights
    by validation accuracy are kept; without validation images, the last.

    Several processes (`distributed.joined`) call this alike and train together: each takes its rows of every batch, and
    the first alone has a run folder and loggers. The result is that of one process up to the order of sums, but for
    dropout and batch statistics, which are those of a process's rows.

    Args:
        recipe: decides the result.
        training, validation: cut from the 50,000; the test split never comes here. validation may be empty. With
            train_blocks of 0 or more they hold activations (`frozen_activations`) instead of images.
        folder: an existing run folder.
        device: cpu, mps or cuda.
        compile: fuse the network's operations with torch.compile.
        capture: on a GPU, capture a step as a CUDA graph and replay it.
        deterministic: on a GPU, use only algorithms that give the same bits every time.
        sync_batchnorm: on GPUs, compute batch statistics over all processes.
        display: sees progress, and may stop the training after a step.
        loggers: get each epoch's row.
        resume: continue from the folder's last.ckpt.
        data_sha256: of the data set, to compare when the training is resumed.
        checkpoint_seconds: between two checkpoints within an epoch; 0 is none.

    Returns:
        the state after the last step; `finished` is false if it was stopped.

    Raises:
        InputError, WorldError: as `new_state` and `restore_state`; the loss or a weight is no longer finite; or a file
            cannot be written. The last checkpoint stays.
    """
    display = display or Display()
    precision, precision_remark = precision_of(recipe, device=device)
    compiled, compile_remark = choose_compile(compile, device=device)
    for remark in filter(None, (precision_remark, compile_remark)):
        display.say(remark)
    on_gpu = kind_of(device) == "cuda"
    if on_gpu:
        choose_device(device)  # whoever calls this may not have
        prepare_gpu(deterministic=deterministic)
    keep_memory()
    flush_denormals()
    seed_generators(recipe.seed)  # of weights, dropout and users' networks, which take no generator
    # The other processes get their weights from the first.
    state = new_state(recipe, training, device=device, precision=precision, pretrained=not resume and is_first())
    if sync_batchnorm:
        state.model = synchronise_batchnorm(state.model)
    same_everywhere(state.model, state.average)
    seed_apart(recipe.seed)
    computed = how_computed(
        device=device, compiled=compiled, precision=precision, deterministic=deterministic,
        sync_batchnorm=sync_batchnorm,
    )  # fmt: skip
    state.origin = {"recipe": to_mapping(recipe), "data_sha256": data_sha256, "computed": computed}
    if resume:
        restore_state(state, folder)
        for sentence in resumed_otherwise(state):
            display.say(sentence)
    elif is_pretrained(recipe):
        save_state(state, folder)  # so that resuming needs no file of pretrained weights
    model = trainable_end(state.model, recipe.network.train_blocks)
    if compiled:
        model.compile()
    training, validation = to_device(training, torch.device(device)), to_device(validation, torch.device(device))
    steps = num_batches(len(training), recipe.batch_size)
    if remark := last_batch_remark(len(training), recipe.batch_size):
        display.say(remark)
    if on_gpu:
        rates_on_device(state.optimiser)
    # Only ever added to, however often it is looked at, so that the sums are exact. mps has no float64.
    state.totals = state.totals.to(device, torch.float32 if device == "mps" else torch.float64)
    image_size, static = 0, device != "cpu"

    name = recipe.augment.own_augmentation
    change = own_augmentation(name) if name else None

    def take_step(rows: Rows) -> None:
        run_step(
            recipe, state, network, training, rows, precision=precision, image_size=image_size, static=static,
            change=change,
        )  # fmt: skip

    why_not = obstacle(
        precision=precision, skip_bad_steps=recipe.skip_bad_steps, own_augmentation=recipe.augment.own_augmentation,
        processes=processes(),
    )  # fmt: skip
    capture = capture and on_gpu
    if capture and why_not:
        display.say(f"Training steps are not captured as a CUDA graph: {why_not}.")
    runner = Steps(take_step, device=torch.device(device), capture=capture and not why_not, say=display.say)
    if not resume and (sentence := expectation(recipe, model, training, device=device, precision=precision)):
        display.say(sentence)
    facts = Facts(num_parameters(state.model), len(training), len(validation), device, precision)
    display.start_training(recipe.epochs, best_accuracy=state.best_accuracy, facts=facts)
    last_save = time.perf_counter()

    while not state.finished:
        started, last_tick, look = time.perf_counter() - state.epoch_seconds, 0.0, 0.0
        if state.step == 0:
            state.totals.zero_()
            if state.epoch == recipe.augment.early_epochs:
                state.best_accuracy = -1.0  # accuracies on smaller images do not compete with those from here on
        image_size = recipe.augment.early_image_size if state.epoch < recipe.augment.early_epochs else 0
        finished = freeze_finished(state.optimiser, epoch=state.epoch)
        model.train()
        network = in_parallel(model, own=":" in recipe.model)  # anew, since other parameters may be trained
        plan = draw_plan(recipe, state, num_images=len(training))
        runner.begin(plan, phase=(image_size, finished))
        for step in range(state.step, steps):
            try:
                runner.step(step)
            except FloatingPointError:
                state.skipped_steps += 1
            state.step += 1

            if state.step < look and state.step < steps:
                continue  # several processes look at the clock together, not after every step
            now, stop = time.perf_counter(), display.should_stop()
            save_now = stop or 0 < checkpoint_seconds < now - last_save
            tick_now = save_now or now - last_tick > TICK_SECONDS or state.step == steps
            next_look = state.step + steps_between_looks(state.step, now - started, interval=TICK_SECONDS)
            stopping, saving, ticking, look = agreed(stop, save_now, tick_now, next_look)
            if ticking:
                last_tick = now
                tick = tick_of(recipe, state, merge_(state.totals), steps=steps, seconds=now - started)
                if not math.isfinite(tick.loss):
                    raise diverged(recipe, state, folder=folder, what=f"the loss is {tick.loss}")
                display.tick(tick)
            if saving:
                state.epoch_seconds, last_save = now - started, now
                save(recipe, state, folder)
            if stopping:
                return state

        train_seconds = time.perf_counter() - started
        validation_loss, validation_accuracy = validate(recipe, state, validation, image_size=image_size)
        state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
        state.generator.set_state(plan.generator)
        state.seconds += time.perf_counter() - started
        total_loss, num_correct, num_images = merge_(state.totals)
        peak = state.optimiser.param_groups[0]["initial_lr"]  # groups may have other peak rates than the recipe's
        row = {
            "epoch": state.epoch,
            "learning_rate": recipe.optimiser.lr * (plan.tables["rates"][-1, 0].item() / peak),
            "train_loss": total_loss / max(num_images, 1),  # all may have been skipped
            "train_accuracy": num_correct / max(num_images, 1),
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(len(training) / train_seconds, 1),
        }
        is_best = end_epoch(recipe, state, row)
        now = time.perf_counter()
        due = state.saved is None or now - last_save >= min(SHORT_SECONDS, checkpoint_seconds or 1e9)
        if state.finished or agreed(due)[0]:
            save(recipe, state, folder)
            last_save = now
        elif is_best:
            state.unsaved = {name: tensor.clone() for name, tensor in state.candidate.state_dict().items()}
        display.end_epoch(row, is_best=is_best)
        for logger in loggers:
            logger.log(row)
    return state


def run_step(
    recipe: Recipe,
    state: State,
    model: nn.Module,
    training: Split,
    rows: Rows,
    *,
    precision: str,
    image_size: int,
    static: bool,
    change: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Augment a batch, update the weights and their average, and add to the sums of the epoch.

    Where `static`, nothing here may make a number of Python's out of a tensor, put one into a tensor, or have a shape
    that depends on values: a GPU would be waited for, and a captured step would repeat the number.

    Args:
        recipe, state: of the training.
        model: the part of the network that is trained.
        training: on the device.
        rows: of the plan's tables, for this step.
        precision: as the device has it.
        image_size: side in pixels that images are resized to; 0 leaves them alone.
        static: whether it is for a GPU.
        change: augmentation of the user's own, of the pixels.

    Raises:
        FloatingPointError, WorldError: as `training_step`.
    """
    set_rates(state.optimiser, rows["rates"])
    num_rows = len(rows["indices"])
    part, weight = share(num_rows)
    # Where images are paired (mixup, CutMix), or a function of the user's may pair them, each process augments the
    # whole batch, so that the pairs are those of one process. Else it takes its rows first, which costs least.
    whole = "partners" in rows or change is not None
    if processes() > 1 and not whole:
        rows = {name: table if name in PER_STEP else table[part] for name, table in rows.items()}
    batch = augment(training, rows, recipe.augment, static=static)
    if image_size:
        batch = (resize(batch[0], image_size), *batch[1:])
    if change:
        batch = (change(batch[0]), *batch[1:])
    if processes() > 1 and whole:
        batch = (batch[0][part], batch[1][part], batch[2][part], batch[3])
    loss, logits = training_step(
        model,
        state.optimiser,
        state.scaler,
        batch,
        precision=precision,
        label_smoothing=recipe.label_smoothing,
        clip_norm=recipe.optimiser.clip_norm,
        refuse_bad=state.skipped_steps < recipe.skip_bad_steps,
        weight=weight,
    )
    labels = batch[1]
    if state.average:
        averaging = rows["averaging"]
        state.average.update_parameters(state.model, averaging if static else averaging.item())
    if not counted(num_rows):
        return
    correct = (logits.argmax(1) == labels).sum()
    state.totals += torch.stack([loss * len(labels), correct, torch.full_like(loss, len(labels))])
