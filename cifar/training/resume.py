"""Back to a checkpoint, and what may be different from there on: a rate on purpose, the machine with a remark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar.errors import InputError, WorldError
from cifar.kernels import build
from cifar.machine import has_tf32
from cifar.models import build_model
from cifar.recipes import Recipe, from_mapping
from cifar.runs import CHECKPOINT, RECIPE, check_same, read_checkpoint, tensor_bytes
from cifar.runs.summary import CHANGEABLE
from cifar.training.distributed import from_first, is_first, processes
from cifar.training.schedules import lr_factor
from cifar.training.state import FORMAT, State, load_values


def restore_state(state: State, folder: Path) -> None:
    """Bring a new state to where last.ckpt was written; its `origin` must be that of the checkpoint, but for rates.

    What `CHANGEABLE` allows to differ is recorded in `changes`.

    Raises:
        InputError: the checkpoint is of another recipe; names the field.
        WorldError: there is no checkpoint, or it is damaged or of another version.
    """
    path = folder / CHECKPOINT
    try:
        values = from_first(read_checkpoint(folder, model_bytes=tensor_bytes(state.model)) if is_first() else {})
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')} and {FORMAT} is read")
        compare_origin(state.origin, values["origin"], path=path)
        changes = changed_fields(state.origin, values)
        load_values(state, values | {"origin": state.origin, "changes": [*values["changes"], *changes]})
        if any(change["field"] == "epochs" for change in changes):
            state.finished = state.epoch >= state.origin["recipe"]["epochs"]
    except FileNotFoundError:
        raise WorldError(f"{folder} holds no {CHECKPOINT} to resume from: train anew with --overwrite.") from None
    except (InputError, WorldError):
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own for a damaged file
        raise WorldError(damaged(path, error)) from None
    state.saved = (state.epoch, state.step)


def checkpoint_model(recipe: Recipe, folder: Path) -> nn.Module:
    """The network of a recipe with the weights of last.ckpt, so that no file of pretrained weights is needed again.

    Raises:
        WorldError: the checkpoint is damaged.
    """
    model = build_model(recipe, pretrained=False, for_training=True, trust_code=True)
    try:
        model.load_state_dict(read_checkpoint(folder, model_bytes=tensor_bytes(model))["model"])
    except (InputError, WorldError):
        raise
    except Exception as error:  # as in `restore_state`
        raise WorldError(damaged(folder / CHECKPOINT, error)) from None
    return model


def damaged(path: Path, error: Exception) -> str:
    """The sentence about a checkpoint that cannot be read."""
    return f"{path} is damaged, or of another recipe or version ({type(error).__name__}): train anew with --overwrite."


def compare_origin(origin: Mapping[str, Any], former: Mapping[str, Any], *, path: Path) -> None:
    """Refuse a checkpoint of another recipe or other data.

    Args:
        origin: of the training that is resumed; former: of the checkpoint.
        path: of the checkpoint.

    Raises:
        InputError: names the field.
    """
    fixed = {name: value for name, value in former["recipe"].items() if name not in CHANGEABLE}
    check_same(origin["recipe"], fixed, origin=str(path.with_name(RECIPE)), of=path.name)
    if origin["data_sha256"] != former["data_sha256"]:
        raise InputError(f"{path} was trained on other data: give the same --data.")


def changed_fields(origin: Mapping[str, Any], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a resumed training changes on purpose, and how else it is computed: records of summary.json.

    Args:
        origin: of the training that is resumed.
        values: of the checkpoint.
    """
    former = values["origin"]
    pairs = [(name, former["recipe"].get(name), origin["recipe"][name]) for name in CHANGEABLE]
    pairs += [(name, value, origin["computed"][name]) for name, value in former["computed"].items()]
    return [
        {"field": name, "before": before, "after": after, "epoch": values["epoch"], "step": values["step"]}
        for name, before, after in pairs
        if before != after and before is not None
    ]


def how_computed(
    *,
    device: str,
    compiled: bool,
    precision: str,
    deterministic: bool = False,
    sync_batchnorm: bool = False,
) -> dict[str, Any]:
    """What besides recipe and data decides the last bits of a training.

    Args:
        device: cpu, mps or cuda.
        compiled: whether the network is.
        precision: fp32, bf16 or fp16.
        deterministic: whether it was asked for; a CPU always is.
        sync_batchnorm: whether batch statistics are those of all processes.
    """
    return {
        "device": device,
        "processes": processes(),
        "sync_batchnorm": sync_batchnorm,
        "threads": torch.get_num_threads(),
        "kernels": "native" if device == "cpu" and build.available() else "pytorch",
        "compiled": compiled,
        "precision": precision,
        "tf32": precision == "fp32" and has_tf32(device),
        "deterministic": deterministic or device == "cpu",
        "torch": str(torch.__version__),
    }


def schedule_remark(recipe: Recipe, state: State) -> list[str]:
    """What a changed number of epochs, or peak rate, does to the learning rate: a closed form jumps to its new curve.

    Args:
        recipe: that the training is resumed by.
        state: of the training, with at least one completed epoch.
    """
    if recipe.schedule.kind == "constant":
        return []
    if recipe.schedule.kind == "plateau":
        return ["The plateau schedule goes on where it was."]
    rate = recipe.optimiser.lr * lr_factor(recipe.schedule, state.epoch, epochs=recipe.epochs)
    return [
        f"By the {recipe.schedule.kind} schedule of {recipe.epochs} epochs the learning rate goes on at {rate:.3g}; it "
        f"was {state.rows[-1]['learning_rate']:.3g} at the end of the last epoch."
    ]


def resumed_otherwise(state: State) -> list[str]:
    """Sentences on what a resumed training does otherwise than before, now."""
    now = [change for change in state.changes if (change["epoch"], change["step"]) == (state.epoch, state.step)]
    lines = [f"{change['field']} is {change['after']} from here on; it was {change['before']}." for change in now]
    if any(change["field"] in ("epochs", "lr") for change in now) and state.rows:
        lines += schedule_remark(from_mapping(state.origin["recipe"], origin=RECIPE), state)
    if any(change["field"] in state.origin["computed"] for change in now):
        lines.append("So the result will not be that of an uninterrupted run, bit for bit.")
    elif not state.origin["computed"]["deterministic"]:
        lines.append("A GPU adds up in no fixed order: the last bits may differ, unless a run has --deterministic.")
    return lines
