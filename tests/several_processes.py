"""Several processes on this machine, as torchrun would start them, and trainings that two of them do together.

python tests/several_processes.py FOLDER CASE …        # one of the processes
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from cifar.data.cifar10 import Split, cut, load, open_dataset
from cifar.recipes import Optimiser, Recipe, with_fields
from cifar.recipes.choice import choose_recipe
from cifar.training.display import Display
from cifar.training.distributed import from_all, is_first, joined, rank
from cifar.training.loop import train

ROOT = Path(__file__).parent.parent
# Without batch normalisation and dropout. 210 images in batches of 21: ten steps an epoch, of 10 and 11 rows.
PLAIN = Recipe(model="cnn", epochs=2, batch_size=21, precision="fp32", optimiser=Optimiser(lr=0.02))
CASES: dict[str, Recipe] = {
    "sgd": with_fields(PLAIN, crop_padding=4, flip=0.5, label_smoothing=0.1, clip_norm=1.0, ema_decay=0.9),
    "mixed": with_fields(PLAIN, mixup=0.4, cutmix=1.0, flip=0.5, flip_mode="alternate"),
    "muon": with_fields(PLAIN, optimiser="muon", lr=0.003, epochs=1),
    "uneven": with_fields(PLAIN, batch_size=23, epochs=1, skip_bad_steps=1),  # the last of 3 rows: too few for two
    "plateau": with_fields(PLAIN, schedule="plateau", plateau_patience=0, plateau_threshold=1.0, patience=1, epochs=4),
}
# What `cifar train` does on the sample, where it is broken off.
SETTINGS = ["precision=fp32", "lr=0.01", "crop_padding=4", "epochs=8", "batch_size=50"]
FLAGS = ["-m", "several_processes:network", "--data", "sample", "-d", "cpu"]
FLAGS += [word for setting in SETTINGS for word in ("--set", setting)]
UNBROKEN = "unbroken"  # the case that trains so, without a command


def network() -> nn.Module:
    """Batch statistics, dropout, and a parameter that has no part in the loss."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(16, 16, 3, stride=2),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return model


def some_images() -> tuple[Split, Split]:
    """210 training and 61 validation images of the sample."""
    images = load(open_dataset("sample"), "train")
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    return images.select(order[:210]), images.select(order[210:271])


def free_port() -> int:
    """A port that no other process has now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of one host."""
    told = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1,
        "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }  # fmt: skip
    return os.environ | {name: str(value) for name, value in told.items()}


def start(arguments: list[str], *, processes: int) -> list[subprocess.Popen[str]]:
    """Start a program as several processes."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=environment(rank, processes, port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]  # fmt: skip


def run_cases(folder: Path, names: list[str]) -> None:
    """Train each case into a folder of its name, and leave what only the processes can tell in told.json."""
    told = {}
    for name in names:
        place = folder / name
        if is_first():
            place.mkdir()
        recipe = (
            CASES[name]
            if name != UNBROKEN
            else choose_recipe("several_processes:network", "", settings=SETTINGS, fields={})
        )
        images = some_images() if name != UNBROKEN else cut(load(open_dataset("sample"), "train"), recipe.holdout)
        state = train(recipe, *images, folder=place, display=Display())
        weights = torch.cat([parameter.detach().flatten() for parameter in state.model.parameters()])
        told[name] = all(torch.equal(weights, others) for others in from_all(weights))
    if is_first():
        (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined():
        assert rank() == int(os.environ["RANK"])
        run_cases(Path(sys.argv[1]), sys.argv[2:])
