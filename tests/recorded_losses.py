"""Losses of 20 steps and a hash of the weights, for every recipe on a fifth of the sample, as they were recorded.

    python tests/recorded_losses.py        # records anew, where a change is meant to change them

Bits are compared where CPU, PyTorch and C compiler are those that they were recorded with, losses to a tolerance
elsewhere.
"""

import hashlib
import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cifar.data.cifar10 import Split, load, open_dataset
from cifar.kernels.build import compiler_command, using
from cifar.machine import cpu_field, has_bf16
from cifar.models.pretrained import create
from cifar.recipes import Recipe, recipe_for, with_settings
from cifar.training import loop
from cifar.training.display import Display, Tick

PATH = Path(__file__).parent / "training" / "recorded_losses.json"
COMMON = ("epochs=2", "batch_size=20")  # 200 images: 10 steps per epoch
TINY = ("model_name=vit_tiny_patch16_224", "weights=WEIGHTS")  # for ViT-B/16 and ViT-S/14
SETTINGS: dict[str, tuple[str, ...]] = {
    "cnn": (),
    "resnet": (),
    "resnet-better": (),
    "vit": (),
    "vit-plain": (),
    "previt": (*TINY, "image_size=32"),
    "previt-cpu": (*TINY, "image_size=64", "early_image_size=48", "early_epochs=1"),
    "speednet": ("early_epochs=1", "whitening_epochs=1"),
    "speednet-quick": ("early_epochs=1", "whitening_epochs=1"),
    "speednet-95": ("early_epochs=1", "whitening_epochs=1"),
    "speednet-reference": ("whitening_epochs=1",),
}
PYTORCH = ("speednet-reference",)  # run without native kernels, as a reference is


class Losses(Display):
    """Keeps the mean loss of the epoch so far, after every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def tick(self, tick: Tick) -> None:
        self.losses.append(tick.loss)


def recipe_of(name: str, weights: Path) -> Recipe:
    """The named recipe in 20 steps; in fp32 where this machine has no bf16."""
    settings = [setting.replace("WEIGHTS", str(weights)) for setting in (*COMMON, *SETTINGS[name])]
    return with_settings(recipe_for(name), settings)


def few_images() -> tuple[Split, Split]:
    """200 training and 60 validation images of the sample."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    train = load(open_dataset("sample"), "train")
    return train.select(order[:200]), train.select(order[200:260])


def tiny_weights(folder: Path) -> Path:
    """A file of weights for a tiny vision transformer."""
    path = folder / "weights.safetensors"
    torch.manual_seed(0)
    save_file(create("vit_tiny_patch16_224", image_size=32).state_dict(), path)
    return path


def twenty_steps(name: str, folder: Path) -> dict[str, Any]:
    """Train a recipe on one thread; gives its losses and the SHA-256 of its weights."""
    display = Losses()
    with using("pytorch" if name in PYTORCH else "native"):
        state = loop.train(recipe_of(name, tiny_weights(folder)), *few_images(), folder=folder, display=display)
    digest = hashlib.sha256()
    for key, tensor in sorted(state.model.state_dict().items()):
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    return {
        "losses": display.losses,
        "validation_losses": [row["validation_loss"] for row in state.rows],
        "weights_sha256": digest.hexdigest(),
    }


def environment() -> dict[str, Any]:
    """What the bits depend on, besides the code."""
    return {
        "cpu": f"{platform.machine()} {' '.join(filter(None, map(cpu_field, ('cpu family', 'model'))))}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_bf16("cpu"),
        "torch": torch.__version__,
        "compiler": compiler_version(),
    }


def compiler_version() -> str:
    """The first line that the C compiler tells of itself; "" where there is none."""
    try:
        done = subprocess.run([*compiler_command(), "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0]


def main() -> None:
    torch.set_num_threads(1)
    loop.TICK_SECONDS = -1.0
    runs = {}
    for name in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = twenty_steps(name, Path(folder))
    PATH.write_text(json.dumps({"environment": environment(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
