"""What to expect of 1 to 64 devices, by the model of `cifar/training/scaling.py`: the table of docs/distributed.md.

    python scripts/scaling_table.py

Parameters and images/s of one CPU are those of the recorded runs. Links and GPUs are assumed, as below.
"""

import json
from pathlib import Path

from cifar.training.scaling import Costs, Link, exchange_seconds, speed_up

RESULTS = Path(__file__).resolve().parent.parent / "results"
RUNS = {"resnet": 128, "vit": 128, "quick": 500, "previt": 64}  # with the batch size of each
LARGE_BATCH = 1024
PROCESSES = (1, 2, 4, 8, 16, 32, 64)
# Assumed: a GPU is 100 times as fast as the two cores that were measured, but takes no less than 2 ms for a step.
GPU_TIMES, GPU_FIXED = 100, 0.002
ETHERNET = Link(bandwidth=1.25e9, latency=1e-4)  # 10 Gbit/s between CPUs, one process a host
NVLINK = Link(bandwidth=2e11, latency=1e-5)  # within a host of 8 GPUs
INFINIBAND = Link(bandwidth=2.5e10, latency=2e-5)  # 200 Gbit/s between hosts of 8 GPUs


def row(run: str, batch_size: int, *, gpu: bool) -> str:
    """A line of the table.

    Args:
        run: a recorded run.
        batch_size: of all devices together.
        gpu: whether its devices are GPUs, else CPUs.
    """
    summary = json.loads((RESULTS / run / "summary.json").read_text())
    gradient_bytes = 4 * summary["parameters"]
    seconds = 1 / summary["images_per_second"]
    costs = Costs(GPU_FIXED, seconds / GPU_TIMES, gradient_bytes) if gpu else Costs(0.0, seconds, gradient_bytes)
    cells = []
    for processes in PROCESSES:
        link = ETHERNET if not gpu else NVLINK if processes <= 8 else INFINIBAND
        exchange = exchange_seconds(gradient_bytes, processes=processes, link=link)
        cells.append(f"{speed_up(costs, batch_size=batch_size, processes=processes, exchange=exchange):.1f}")
    name = f"`{summary['recipe']['model']}`, batches of {batch_size:,}"
    return f"| {name} | {'GPU' if gpu else 'CPU'} | {gradient_bytes / 1e6:.1f} MB | {' | '.join(cells)} |"


def table() -> str:
    """The table in Markdown."""
    head = f"| network | device | gradients | {' | '.join(map(str, PROCESSES))} |"
    lines = [row(run, batch_size, gpu=gpu) for gpu in (False, True) for run, batch_size in RUNS.items()]
    lines.append(row("previt", LARGE_BATCH, gpu=True))
    return "\n".join([head, "|---|---|" + "--:|" * 8, *lines])


if __name__ == "__main__":
    print(table())
