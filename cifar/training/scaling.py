"""How much faster several processes train than one, by a model whose constants are measured before the first step.

A step of n rows takes a fixed time and a time for each row. With p processes a step has n / p rows in each, and then
waits for the ring in which the gradients are added up: 2 (p - 1) / p of their bytes pass each link, in 2 (p - 1) turns
(Patarasuk and Yuan 2009). That communication overlaps with the backward pass is left out, so this errs on the low side.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.data.split import Split
from cifar.machine import kind_of, synchronise
from cifar.models.layers import resize
from cifar.randomness import generators_kept
from cifar.recipes import Recipe
from cifar.training.distributed import FEWEST_ROWS, processes
from cifar.training.launch import Place, place
from cifar.training.step import DTYPES

WORTH = 1.2  # times as fast as one process, below which several do not pay


@dataclass(frozen=True)
class Costs:
    """What a training step costs, in seconds and bytes.

    Attributes:
        fixed: seconds of a step, however few rows it has.
        row: seconds of a row of the batch.
        gradient_bytes: that each step adds up over the processes.
    """

    fixed: float
    row: float
    gradient_bytes: int


@dataclass(frozen=True)
class Link:
    """What connects two neighbours in the ring: bytes a second, and seconds of a turn."""

    bandwidth: float
    latency: float


def exchange_seconds(gradient_bytes: int, *, processes: int, link: Link) -> float:
    """Seconds to add up gradients over processes in a ring.

    Args:
        gradient_bytes: in each process.
        processes: in the ring.
        link: the slowest one.
    """
    turns = 2 * (processes - 1)
    return turns * (gradient_bytes / processes / link.bandwidth + link.latency)


def speed_up(
    costs: Costs, *, batch_size: int, processes: int, exchange: float, row_alone: float | None = None
) -> float:
    """How many times as fast as one process several train.

    Args:
        costs: of a step in one of the processes.
        batch_size: rows of the whole batch.
        processes: that share it.
        exchange: seconds to add up the gradients.
        row_alone: seconds of a row in one process, where that is less: alone it has all the cores.
    """
    alone = costs.fixed + (costs.row if row_alone is None else row_alone) * batch_size
    return alone / step_seconds(costs, batch_size=batch_size, processes=processes, exchange=exchange)


def step_seconds(costs: Costs, *, batch_size: int, processes: int, exchange: float) -> float:
    """Seconds of a step of several processes; each computes a batch as a whole that has too few rows for all.

    Args:
        costs: of a step in one of the processes.
        batch_size: rows of the whole batch.
        processes: that share it.
        exchange: seconds to add up the gradients.
    """
    rows = batch_size / processes if batch_size >= FEWEST_ROWS * processes else batch_size
    return costs.fixed + costs.row * rows + exchange


def expectation(recipe: Recipe, model: nn.Module, training: Split, *, device: str, precision: str) -> str:
    """What to expect of the processes that train together, measured here, in words; "" of one alone.

    Args:
        recipe: of the training.
        model: the part of the network that is trained; it stays as it is.
        training: on the device.
        device: cpu or cuda.
        precision: fp32, bf16 or fp16.
    """
    here = place()
    if processes() == 1 or here is None:
        return ""
    image_size = recipe.augment.early_image_size if recipe.augment.early_epochs else 0
    costs, exchange = measure(
        model, training, batch_size=recipe.batch_size, image_size=image_size, device=device, precision=precision
    )
    return scaling_sentence(costs, exchange, batch_size=recipe.batch_size, here=here, device=device)


def measure(
    model: nn.Module, training: Split, *, batch_size: int, image_size: int, device: str, precision: str
) -> tuple[Costs, float]:
    """The costs of a step here, and the seconds of an exchange among the processes; all of them measure together.

    Args:
        model: the part of the network that is trained; it stays as it is.
        training: on the device.
        batch_size: of the recipe.
        image_size: side in pixels that images are resized to; 0 leaves them alone.
        device: cpu or cuda.
        precision: fp32, bf16 or fp16.
    """
    most = min(8, batch_size) if device == "cpu" else max(1, batch_size // processes())
    fewest = max(1, most // 4)
    copied = copy.deepcopy(model).train()

    def step(num_rows: int) -> None:
        pixels = to_pixels(training.images[:num_rows])
        with torch.autocast(kind_of(device), DTYPES.get(precision), enabled=precision in DTYPES):
            logits = copied(resize(pixels, image_size) if image_size else pixels)
        torch.autograd.backward(F.cross_entropy(logits.float(), training.labels[:num_rows]))

    with generators_kept():
        few, many = (fastest(lambda rows=rows: step(rows), device=device) for rows in (fewest, most))  # type: ignore[misc]
    row = max(many - few, 1e-9) / max(most - fewest, 1)
    gradients = [one.grad for one in copied.parameters() if one.grad is not None]
    costs = Costs(max(few - fewest * row, 0.0), row, sum(one.numel() * one.element_size() for one in gradients))
    flat = torch.zeros(max(1, costs.gradient_bytes // 4), device=device)
    return costs, fastest(lambda: all_reduce(flat), device=device)


def all_reduce(tensor: Tensor) -> None:
    """Add up a tensor over all processes, in place."""
    dist.all_reduce(tensor)


def fastest(action: Callable[[], None], *, device: str, times: int = 3) -> float:
    """Seconds of an action, the least of some times; the first, which is slower, does not count."""
    seconds = []
    for _ in range(times + 1):
        synchronise(device)
        started = time.perf_counter()
        action()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def scaling_sentence(costs: Costs, exchange: float, *, batch_size: int, here: Place, device: str) -> str:
    """What to expect of several processes, in words, and where they do not pay.

    Args:
        costs, exchange: as measured.
        batch_size: of the recipe.
        here: the place of this process.
        device: cpu or cuda.
    """
    sharing = here.local_processes if device == "cpu" else 1  # processes that have the cores of one
    times = speed_up(
        costs, batch_size=batch_size, processes=here.processes, exchange=exchange, row_alone=costs.row / sharing
    )
    step = step_seconds(costs, batch_size=batch_size, processes=here.processes, exchange=exchange)
    facts = (
        f"a step of about {1000 * step:,.0f} ms, {1000 * exchange:,.1f} of them to add up "
        f"{costs.gradient_bytes / 1e6:.3g} MB of gradients"
    )
    if times >= WORTH:
        return f"{here.processes} processes should be about {times:.1f} times as fast as one ({facts})."
    why = "; they share the cores of one" if sharing > 1 else ""
    return (
        f"{here.processes} processes do not pay here: about {times:.1f} times the speed of one ({facts}{why}). Several "
        "runs side by side use the machine better."
    )
