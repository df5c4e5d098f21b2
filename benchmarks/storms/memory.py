"""Memory of long work: 200 epochs of training, and 5,000 predictions, in a process each."""

import json
import subprocess
import sys
from pathlib import Path

from storms.forks import FOLDER, ONE_THREAD
from storms.verdicts import Tally

MOST_GROWTH = 0.01  # of the resident memory, from a quarter of the work to its end
EPOCHS, PREDICTIONS = 200, 5_000
COMMON = """
import gc, json, os, sys
from pathlib import Path
import torch
from cifar.data.cifar10 import load, open_dataset
torch.set_num_threads(1)
readings = []
def look():
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    readings.append(1024 * int(line.split()[1]))
folder, number = Path(sys.argv[1]), int(sys.argv[2])
images = load(open_dataset("sample"), "train")
"""
TRAIN = """
from cifar.recipes import recipe_for, with_settings
from cifar.training.display import Display
from cifar.training.loop import train
class Looks(Display):
    def end_epoch(self, row, *, is_best):
        look()
recipe = with_settings(recipe_for("cnn"), [f"epochs={number}", "batch_size=50", "patience=0"])
order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
train(recipe, images.select(order[:100]), images.select(order[100:150]), folder=folder, display=Looks())
"""
PREDICT = """
from cifar import load_model
from cifar.models import build_model
from cifar.recipes import recipe_for, to_json
from cifar.runs import weights_bytes, write_files
recipe = recipe_for("resnet")
torch.manual_seed(0)
state = build_model(recipe).state_dict()
write_files(folder, {"recipe.json": to_json(recipe), "model.safetensors": weights_bytes(state)})
classifier = load_model(folder, device="cpu")
for index in range(number):
    classifier.predict(images.images[index % 1000])
    if index % max(1, number // 100) == 0:
        look()
"""
WORK = {"train": (TRAIN, EPOCHS), "predict": (PREDICT, PREDICTIONS)}


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is train or predict. Fewer than 2 trials run a tenth of both, to see that they work."""
    tally = Tally("memory", seed)
    for name, (code, times) in WORK.items():
        if only in ("", name):
            times = times if number > 1 else times // 10
            growth, first, last = measure(code, times, folder / name)
            tally.figures[name] = {
                "times": times,
                "quarter_bytes": first,
                "end_bytes": last,
                "growth": round(growth, 5),
            }
            # Short work ends before the memory has settled.
            fault = (
                f"memory changes by {growth:+.2%} over {times:,}" if abs(growth) > MOST_GROWTH and number > 1 else ""
            )
            tally.count(seed, name, fault)
    print()
    return tally


def measure(code: str, times: int, folder: Path) -> tuple[float, int, int]:
    """Run work in a process of its own: growth of its resident memory, and its bytes at a quarter and at the end."""
    import os

    folder.mkdir(parents=True, exist_ok=True)
    end = "\nprint(json.dumps(readings))\nsys.stdout.flush(); os._exit(0)"
    env = os.environ | ONE_THREAD | {"PYTHONPATH": str(FOLDER.parent.parent)}
    command = [sys.executable, "-c", COMMON + code + end, str(folder), str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    readings = json.loads(done.stdout.splitlines()[-1])
    first, last = readings[len(readings) // 4], readings[-1]
    return (last - first) / first, first, last
