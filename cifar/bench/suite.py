"""What `cifar bench` measures: against the textbook (`textbook.py`) and the machine's own peak.

`benchmarks/README.md` explains every line. Nothing here is a test: a machine is slow or fast, not right or wrong.
"""

import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, nn

from cifar.bench import textbook
from cifar.data.batches import batch_bounds, draw_order, take, to_device, to_pixels
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import Split
from cifar.errors import InputError
from cifar.evaluation.predict import predict
from cifar.kernels.build import using
from cifar.machine import describe_commit, describe_machine, describe_versions
from cifar.models import build_model
from cifar.recipes import Recipe, recipe_for, with_fields
from cifar.timing import Timing, in_turn, seconds
from cifar.training.augment import crop_and_flip, draw_flips, draw_offsets
from cifar.training.loop import train

NETWORKS = {"cnn": "cnn", "resnet20": "resnet", "resnet18": "resnet18", "vit": "vit", "speednet": "speednet"}


@dataclass(frozen=True)
class Line:
    """One line of the result.

    Attributes:
        name: what was measured.
        unit: images/s, GFLOP/s, s, GB or %.
        ours: our measurements.
        other: those of the alternative; None if there is none.
        against: what the alternative is.
        peak_fraction: the fraction of the machine's peak that ours reaches; None if no operations were counted.
    """

    name: str
    unit: str
    ours: Timing
    other: Timing | None = None
    against: str = ""
    peak_fraction: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as good as the alternative ours is, by medians; None if there is no alternative."""
        if self.other is None:
            return None
        if self.unit == "s":
            return self.other.median / self.ours.median
        return self.ours.median / self.other.median


@dataclass(frozen=True)
class Scale:
    """How much each line runs.

    Attributes:
        seconds: that one measurement of a training should take.
        images: of the data path and of inference.
        matrix: side of the matrices multiplied for the peak.
        batch_size: in training.
        networks: names in NETWORKS.
        repeats: rounds, without the first, which is discarded.
    """

    seconds: float = 4.0
    images: int = 5_000
    matrix: int = 2_048
    batch_size: int = 128
    networks: tuple[str, ...] = tuple(NETWORKS)
    repeats: int = 5


QUICK = Scale(
    seconds=0.05, images=200, matrix=128, batch_size=16, networks=("cnn", "speednet"), repeats=1
)  # to see that it runs


def run_suite(dataset: Dataset, *, scale: Scale, only: str = "", say: Callable[[str], None]) -> list[Line]:
    """Measure all lines, or those whose group is named.

    Args:
        dataset: CIFAR-10, or the sample.
        scale: how much each line runs.
        only: training (with the peak), data, loading, inference or memory; "" is all.
        say: gets the group that begins.

    Raises:
        InputError: no such group.
    """
    groups: dict[str, Callable[[], list[Line]]] = {
        "training": lambda: training_lines(dataset, scale=scale),
        "data": lambda: data_lines(dataset, scale=scale),
        "loading": lambda: loading_lines(dataset, scale=scale),
        "inference": lambda: inference_lines(dataset, scale=scale),
        "memory": lambda: memory_lines(dataset, scale=scale),
    }
    if only and only not in groups:
        raise InputError(f"There is nothing {only!r} to measure: choose from {', '.join(groups)}.")
    lines: list[Line] = []
    for name, measure in groups.items():
        if only in ("", name):
            say(f"measuring {name} …")
            lines += measure()
    return lines


def as_record(lines: Sequence[Line]) -> dict[str, Any]:
    """The lines with machine, versions and commit, JSON-ready."""
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "threads": torch.get_num_threads(),
        "lines": [
            {
                "name": line.name,
                "unit": line.unit,
                "median": line.ours.median,
                "values": line.ours.values,
                "against": line.against,
                "other_median": line.other.median if line.other else None,
                "other_values": line.other.values if line.other else [],
                "ratio": line.ratio,
                "share_of_peak": line.peak_fraction,
            }
            for line in lines
        ],
    }


def training_lines(dataset: Dataset, *, scale: Scale) -> list[Line]:
    """Training throughput, ours and the textbook's, with the machine's peak measured in the same rounds.

    Args:
        dataset: to draw images from.
        scale: how much to run.
    """
    images = load(dataset, "train")
    alternatives: dict[str, Callable[[], float]] = {}
    work: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        textbook.write_python_batches(images, load(dataset, "test"), Path(folder))
        theirs = textbook.open_torchvision(Path(folder))
        alternatives |= peak_alternatives(scale)
        for name in scale.networks:
            recipe = with_fields(one_epoch(NETWORKS[name]), batch_size=scale.batch_size, precision="fp32")
            work[name] = operations(recipe)
            steps = steps_for(recipe, images, scale=scale)
            alternatives[f"{name} ours"] = our_training(recipe, images, steps=steps)
            alternatives[f"{name} theirs"] = textbook_training(recipe, theirs, steps=steps)
        timings = in_turn(alternatives, repeats=scale.repeats)
    lines = [Line(f"peak, {kind}", "GFLOP/s", timings[kind]) for kind in ("matrices", "3×3 filters")]
    peak = max(line.ours.high for line in lines)
    for name in scale.networks:
        ours, other = timings[f"{name} ours"], timings[f"{name} theirs"]
        peak_fraction = ours.median * work[name] / 1e9 / peak
        lines.append(Line(f"train {name}", "images/s", ours, other, "a textbook PyTorch loop", peak_fraction))
    return lines


def one_epoch(name: str) -> Recipe:
    """The named recipe shortened to one epoch, at full image size."""
    return with_fields(recipe_for(name), epochs=1, early_epochs=0, early_image_size=0)


def our_training(recipe: Recipe, images: Split, *, steps: int) -> Callable[[], float]:
    """A measurement of one epoch of `train`, the loop of every run, in images/s.

    Args:
        recipe: of one epoch.
        images: to draw from.
        steps: in the epoch.
    """
    few = cycle(images, steps * recipe.batch_size)
    nothing = images.select(torch.arange(0))
    recipe = with_fields(recipe, schedule="constant", warmup_epochs=0.0)

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return train(recipe, few, nothing, folder=Path(folder)).rows[0]["images_per_second"]

    return measure


def textbook_training(recipe: Recipe, dataset: Any, *, steps: int) -> Callable[[], float]:
    """A measurement of the textbook's loop, in images/s: the same network, but normalised by the transforms.

    Args:
        recipe: whose network and batch size are used.
        dataset: of torchvision.
        steps: that are timed.
    """
    indices = torch.arange((steps + 1) * recipe.batch_size) % len(dataset)
    few = torch.utils.data.Subset(dataset, indices.tolist())

    def measure() -> float:
        torch.manual_seed(0)
        model = build_model(recipe)
        model.normalise = nn.Identity()
        with using("pytorch"):
            return textbook.train_steps(model, few, batch_size=recipe.batch_size, steps=steps)

    return measure


def steps_for(recipe: Recipe, images: Split, *, scale: Scale) -> int:
    """The number of batches that take about as long as the scale asks for, at least two.

    Args:
        recipe: of one epoch.
        images: to draw from.
        scale: how much to run.
    """
    rate = our_training(recipe, images, steps=2)()
    return max(2, round(rate * scale.seconds / recipe.batch_size))


def cycle(images: Split, num_images: int) -> Split:
    """The first images of a split, starting over if it has fewer."""
    return images.select(torch.arange(num_images) % len(images))


def operations(recipe: Recipe) -> float:
    """Floating-point operations per image, forward and backward; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(recipe)
    pixels, labels = torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    with using("pytorch"), FlopCounterMode(display=False) as counter:  # which counts PyTorch's operations alone
        torch.autograd.backward(F.cross_entropy(model(pixels), labels))
    return float(counter.get_total_flops()) / 2


def peak_alternatives(scale: Scale) -> dict[str, Callable[[], float]]:
    """The peak of this machine in fp32: a large matrix product, and a 3×3 convolution forward; in GFLOP/s."""
    side = scale.matrix
    left, right = torch.rand(side, side), torch.rand(side, side)
    features = torch.rand(128, 64, 32, 32).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    conv_work = 2 * 128 * 64 * 64 * 9 * 32 * 32

    def convolve() -> None:
        with torch.no_grad():
            conv(features)

    return {
        "matrices": lambda: 2 * side**3 / 1e9 / min(seconds(lambda: left @ right) for _ in range(3)),
        "3×3 filters": lambda: conv_work / 1e9 / min(seconds(convolve) for _ in range(3)),
    }


def data_lines(dataset: Dataset, *, scale: Scale) -> list[Line]:
    """Crops and flips in images/s, and the fraction of a training step of resnet20 that they take.

    Args:
        dataset: to draw images from.
        scale: how much to run.
    """
    images = to_device(cycle(load(dataset, "train"), scale.images), torch.device("cpu"))  # in memory as in training
    recipe = with_fields(recipe_for("resnet"), epochs=1, batch_size=scale.batch_size)
    generator = Generator().manual_seed(0)

    def ours() -> float:
        order = draw_order(len(images), generator=generator)

        def pass_over() -> None:
            for start, stop in pairwise(batch_bounds(len(images), recipe.batch_size)):
                offsets = draw_offsets(stop - start, most=8, generator=generator)
                flips = draw_flips(stop - start, probability=0.5, generator=generator)
                batch = take(images.images, order[start:stop])
                to_pixels(crop_and_flip(batch, offsets, flips, padding=4, mode="zero"))

        return len(images) / seconds(pass_over)

    few = images.images[: max(100, scale.images // 20)]  # one by one is slow
    steps = steps_for(recipe, images, scale=scale)
    timings = in_turn(
        {
            "ours": ours,
            "theirs": lambda: textbook.transform_images(few),
            "step": our_training(recipe, images, steps=steps),
        },
        repeats=scale.repeats,
    )
    fraction = Timing(
        tuple(100 * step / path for step, path in zip(timings["step"].values, timings["ours"].values, strict=True))
    )
    return [
        Line("crop and flip", "images/s", timings["ours"], timings["theirs"], "torchvision v2, one image at a time"),
        Line("fraction of a resnet20 step", "%", fraction),
    ]


def loading_lines(dataset: Dataset, *, scale: Scale) -> list[Line]:
    """Seconds until all training images are in memory and verified, and of `cifar --help`.

    Args:
        dataset: to draw images from.
        scale: how much to run.
    """
    with tempfile.TemporaryDirectory() as folder:
        textbook.write_python_batches(load(dataset, "train"), load(dataset, "test"), Path(folder))
        timings = in_turn(
            {
                "load": lambda: seconds(lambda: load(dataset, "train")),
                "torchvision": lambda: seconds(lambda: textbook.open_torchvision(Path(folder))),
                "help": lambda: seconds(
                    lambda: subprocess.run([sys.executable, "-m", "cifar", "--help"], capture_output=True, check=True)
                ),
            },
            repeats=scale.repeats,
        )
    against = "torchvision's CIFAR10, MD5 sums not checked"
    return [
        Line("load training images", "s", timings["load"], timings["torchvision"], against),
        Line("cifar --help", "s", timings["help"]),
    ]


def inference_lines(dataset: Dataset, *, scale: Scale) -> list[Line]:
    """Throughput of the inference path, and of a plain eager loop.

    Args:
        dataset: to draw images from.
        scale: how much to run.
    """
    images = cycle(load(dataset, "train"), scale.images).images
    lines = []
    for name in scale.networks:
        model, plain = build_model(recipe_for(NETWORKS[name])), build_model(recipe_for(NETWORKS[name]))
        num_images = len(images) if name == "cnn" else max(100, len(images) // 5)

        def ours(model: nn.Module = model, num_images: int = num_images) -> float:
            return num_images / seconds(lambda: predict(model, images[:num_images]))

        def theirs(model: nn.Module = plain, num_images: int = num_images) -> float:
            with using("pytorch"):
                return textbook.predict_steps(model, images[:num_images], batch_size=500)

        timings = in_turn({"ours": ours, "theirs": theirs}, repeats=scale.repeats)
        lines.append(Line(f"predict {name}", "images/s", timings["ours"], timings["theirs"], "a plain eager loop"))
    return lines


def memory_lines(dataset: Dataset, *, scale: Scale) -> list[Line]:
    """Peak memory of a process that trains a few batches, all images in memory.

    Args:
        dataset: to draw images from.
        scale: how much to run.
    """
    lines = []
    for name in (*scale.networks, "speednet-reference"):
        recipe = one_epoch(NETWORKS.get(name, name))
        recipe = with_fields(recipe, batch_size=min(recipe.batch_size, scale.images))
        kernels = "pytorch" if name == "speednet-reference" else "native"
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            peak = fresh.submit(peak_memory, recipe, dataset, kernels).result()
        lines.append(Line(f"memory, {name}", "GB", Timing((peak / 1e9,))))
    return lines


def peak_memory(recipe: Recipe, dataset: Dataset, kernels: str) -> int:
    """Train three batches and return the peak memory of this process, in bytes.

    Args:
        recipe: of one epoch.
        dataset: to draw images from.
        kernels: native or pytorch.
    """
    with using(kernels):
        our_training(recipe, load(dataset, "train"), steps=3)()
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
