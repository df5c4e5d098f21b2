"""The commands that storms break: what each needs, how it is repeated, and everything that it leaves."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.forks import FOLDER, ONE_THREAD, Command, Forks, Result
from storms.states import copy, differences, state_of

CPU = ("-d", "cpu")
TRAIN = ("train", "--data", "sample", "-s", "run", *CPU)
CNN = ("-m", "cnn", "-l", "0.003", "--checkpoint-minutes", "0.0005", "-e")  # several within an epoch
TINY = "test_vit.r160_in1k"  # timm's own, for tests: 0.4 million parameters
FREEZE = ("-m", "previt", "-e", "2", "-l", "0.01", "--freeze", "--weights", "tiny.safetensors",
          "--set", f"model_name={TINY}", "--set", "image_size=32", "--set", "early_image_size=0",
          "--set", "early_epochs=0")  # fmt: skip


@dataclass(frozen=True)
class Work:
    """A command that writes.

    Attributes:
        argv: the command.
        run: the run folder that a repetition resumes with `--resume` once it exists; "" repeats the command itself.
        before: commands that make what it starts from.
        prepare: of `storms.forks.Command`.
    """

    argv: Sequence[str]
    run: str = ""
    before: Sequence[Sequence[str]] = ()
    prepare: str = ""

    def again(self, place: Path) -> Sequence[str]:
        """What a person types after the command was cut off."""
        if self.run and (place / self.run / "recipe.json").exists():
            return ("train", "--resume", self.run, *CPU)
        return self.argv


WORKS: Mapping[str, Work] = {
    "train": Work((*TRAIN, *CNN, "2"), run="run"),
    "cross-validate": Work((*TRAIN, *CNN, "1", "-c", "--folds", "2"), run="run"),
    "freeze": Work((*TRAIN, *FREEZE), run="run"),
    "evaluate": Work(("evaluate", "run", "--tta", "shift", *CPU), before=[(*TRAIN, *CNN, "2")]),
    "export": Work(("export", "run"), before=[(*TRAIN, *CNN, "1")]),
    "export-folder": Work(("export", "run", "--format", "safetensors"), before=[(*TRAIN, *CNN, "1")]),
    "data": Work(("data", "--data", "copy.tar", "--sheet", "sheet.png"), prepare="storms.works:other_cifar10"),
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A work ready to be broken.

    Attributes:
        start: the folder that it starts from, copied for every trial.
        expected: what the unbroken command leaves, see `state_of`.
        operations: its file operations in order.
        seconds: that it takes.
    """

    work: Work
    start: Path
    expected: Mapping[str, str]
    operations: Sequence[str]
    seconds: float
    unbroken: Path

    def command(self, place: Path, argv: Sequence[str], **faults: Any) -> Command:
        """A command in a place, with faults as of `storms.forks.Command`."""
        return Command(argv, place, environment(place), folder=str(place), prepare=self.work.prepare, **faults)


def environment(place: Path) -> dict[str, str]:
    """The variables of a command: a cache of its own, and a home outside that no trial looks at."""
    home = Path(tempfile.gettempdir()) / f"storm-home-{os.getuid()}"
    home.mkdir(exist_ok=True)
    return {"CIFAR_HOME": str(place / "home"), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def prepare(forks: Forks, name: str, folder: Path, *, twice: bool = True) -> Prepared:
    """Run a work unbroken, in a fork and in a process of its own: both have to leave the same.

    Args:
        folder: an empty one, for what it makes.
        twice: else in a fork alone.

    Raises:
        RuntimeError: the unbroken command fails, or differs from itself.
    """
    work, start = WORKS[name], folder / "start"
    (start / "home").mkdir(parents=True)
    make_tiny(start, name)
    first = Prepared(work, start, {}, (), 0.0, start)
    for argv in work.before:
        succeed(forks.run(first.command(start, argv)))
    if twice:
        warm = copy(start, folder / "warm")
        again = fresh(work.argv, warm) if not work.prepare else forks.run(first.command(warm, work.argv))
        succeed(again)
        if (warm / "home" / "kernels").is_dir():  # compiled: not for every trial again
            shutil.copytree(warm / "home" / "kernels", start / "home" / "kernels", dirs_exist_ok=True)
    place = copy(start, folder / "unbroken")
    result = succeed(forks.run(first.command(place, work.argv)))
    expected = state_of(place)
    if twice and (difference := differences(expected, state_of(warm))):
        raise RuntimeError(f"{name} is not repeatable: {difference}")
    return Prepared(work, start, expected, result.operations, result.seconds, place)


def fresh(
    argv: Sequence[str], place: Path, *, variables: Mapping[str, str | None] | None = None, shell: str = '"$@"'
) -> Result:
    """Run a command in a process of its own, started by a shell that can redirect it.

    Args:
        argv: after the program's name.
        place: the folder it runs in.
        variables: of the environment; None removes one.
        shell: the line that starts it.
    """
    env: dict[str, str | None] = {**os.environ, **ONE_THREAD, **environment(place)}
    env |= {"PYTHONPATH": str(FOLDER.parent.parent), "COLUMNS": "200"} | dict(variables or {})
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "cifar", *argv]
    kept = {name: value for name, value in env.items() if value is not None}
    try:
        done = subprocess.run(command, cwd=place, env=kept, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    except subprocess.TimeoutExpired:
        return Result(-9, "", "", (), 120.0, True)
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return Result(done.returncode, out, err, (), 0.0, False)


def make_tiny(start: Path, name: str) -> None:
    """The files that a work wants beside the run: weights of a tiny network, or a copy of the data."""
    if name == "freeze":
        from safetensors.numpy import save_file

        rng, tensors = seeded_generator(), {}
        for key, shape in tiny_shapes().items():
            tensors[key] = 0.02 * rng.standard_normal(shape, dtype="float32")
        save_file(tensors, start / "tiny.safetensors")
    if name == "data":
        write_archive(start / "copy.tar")


def seeded_generator() -> Any:
    import numpy as np

    return np.random.default_rng(0)


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the tiny network, by name."""
    import torch

    from cifar.models.repair import repair_torchvision

    repair_torchvision()
    import timm

    with torch.device("meta"):
        model = timm.create_model(TINY, img_size=32, num_classes=10)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


NUM_BATCH, NUM_TEST = 40, 20  # images in the stand-in for CIFAR-10


def stand_in() -> bytes:
    """Records of random labels and pixels, six batches one after another, as in the official binary version."""
    rng = seeded_generator()
    records = rng.integers(0, 256, (5 * NUM_BATCH + NUM_TEST, 3073), dtype="uint8")
    records[:, 0] %= 10
    return records.tobytes()


def write_archive(path: Path) -> None:
    """An archive in the official binary format, of a few random images."""
    content = stand_in()
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate([*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]):
            part = content[3073 * NUM_BATCH * number : 3073 * NUM_BATCH * (number + 1)]
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))


def other_cifar10(_command: object) -> None:
    """In a child: take the stand-in for CIFAR-10, whose 60,000 images would take seconds for every trial."""
    from cifar.data import cifar10

    content = stand_in()
    records = [content[start : start + 3073] for start in range(0, len(content), 3073)]
    parts = {"train": records[: 5 * NUM_BATCH], "test": records[5 * NUM_BATCH :]}
    joined = {name: b"".join(row[:1] for row in rows) + b"".join(row[1:] for row in rows)
              for name, rows in parts.items()}  # fmt: skip
    joined["all"] = joined["train"] + joined["test"]
    cifar10.SHA256["CIFAR-10"].update({name: hashlib.sha256(data).hexdigest() for name, data in joined.items()})


def succeed(result: Result) -> Result:
    """The result of a command that must not fail.

    Raises:
        RuntimeError: it did.
    """
    if result.code:
        raise RuntimeError(f"An unbroken command ends with {result.code}: {result.err[-2000:]}")
    return result
