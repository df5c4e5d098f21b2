"""The commands that storms break: what each needs, how it is repeated, and everything that it leaves."""

import csv
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.forks import Command, Forks, Result

CPU = ("-d", "cpu")
TRAIN = ("train", "--data", "sample", "-s", "run", *CPU)
CNN = ("-m", "cnn", "-l", "0.003", "-e")
TINY = "test_vit.r160_in1k"  # timm's own, for tests: 0.4 million parameters
FREEZE = ("-m", "previt", "-e", "2", "-l", "0.01", "--freeze", "--weights", "tiny.safetensors",
          "--set", f"model_name={TINY}", "--set", "image_size=32", "--set", "early_image_size=0",
          "--set", "early_epochs=0")  # fmt: skip
# What differs between two unbroken runs, or counts what was broken.
VARIES = re.compile(
    r"second|time|date|sitting|reading|command|commit|milli|pid|host|checkpoint|lowest|highest|wandb", re.IGNORECASE
)


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
    home = Path(tempfile.gettempdir()) / "storm-home"
    home.mkdir(exist_ok=True)
    return {"CIFAR_HOME": str(place / "home"), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def prepare(forks: Forks, name: str, folder: Path) -> Prepared:
    """Run a work unbroken, twice: what it leaves must not vary.

    Args:
        folder: an empty one, for what it makes.

    Raises:
        RuntimeError: the unbroken command fails, or differs from itself.
    """
    work, start = WORKS[name], folder / "start"
    (start / "home").mkdir(parents=True)
    make_tiny(start, name)
    first = Prepared(work, start, {}, (), 0.0, start)
    for argv in work.before:
        succeed(forks.run(first.command(start, argv)))
    warm = copy(start, folder / "warm")
    succeed(forks.run(first.command(warm, work.argv)))
    if (warm / "home" / "kernels").is_dir():  # compiled: not for every trial again
        shutil.copytree(warm / "home" / "kernels", start / "home" / "kernels", dirs_exist_ok=True)
    states = []
    for number in range(2):
        place = copy(start, folder / f"unbroken-{number}")
        result = succeed(forks.run(first.command(place, work.argv)))
        states.append(state_of(place))
    if difference := differences(*states):
        raise RuntimeError(f"{name} is not repeatable: {difference}")
    return Prepared(work, start, states[0], result.operations, result.seconds, place)


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
    """Records of random labels and pixels, of six batches one after another, as the official binary version has them."""
    rng = seeded_generator()
    records = rng.integers(0, 256, (5 * NUM_BATCH + NUM_TEST, 3073), dtype="uint8")
    records[:, 0] %= 10
    return records.tobytes()


def write_archive(path: Path) -> None:
    """An archive in the official binary format, of a few random images."""
    import io

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


def copy(source: Path, target: Path) -> Path:
    """Copy a folder, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, symlinks=True))


def succeed(result: Result) -> Result:
    """The result of a command that must not fail.

    Raises:
        RuntimeError: it did.
    """
    if result.code:
        raise RuntimeError(f"An unbroken command ends with {result.code}: {result.err[-2000:]}")
    return result


def state_of(place: Path) -> dict[str, str]:
    """What lies in a folder: a digest of every file, without what varies from run to run.

    Leftovers count, so that two states are equal only where nothing is left over.
    """
    files = (Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    return {str(file.relative_to(place)): digest(file) for file in sorted(files) if "kernels" not in file.parts}


def digest(path: Path) -> str:
    """A digest of a file's content that counts; the content itself where it is text."""
    readers: dict[str, Callable[[Path], str]] = {
        ".json": json_that_counts, ".csv": rows_that_count, ".npz": arrays_of, ".ckpt": lambda _: "",
        ".tar": lambda _: "", ".html": undated, ".md": undated,
    }  # fmt: skip
    try:
        return readers.get(path.suffix, sha256_of)(path)
    except Exception as error:
        return f"unreadable: {error!r}"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undated(path: Path) -> str:
    """Text without the moment at which it was written."""
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "", path.read_text())


def json_that_counts(path: Path) -> str:
    """JSON without times and counts of attempts."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: keep(entry) for key, entry in value.items() if not VARIES.search(key)}
        return [keep(entry) for entry in value] if isinstance(value, list) else value

    value = json.loads(path.read_text())
    if path.name == "source.json":  # the stamp is of this copy of the archive
        value.pop("stamp", None)
        value.pop("source", None)
    return json.dumps(keep(value), sort_keys=True)


def rows_that_count(path: Path) -> str:
    """The rows of a CSV file without columns of times."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.dumps([{key: value for key, value in row.items() if not VARIES.search(key)} for row in rows])


def arrays_of(path: Path) -> str:
    """A digest of the arrays in an .npz file."""
    import numpy as np

    content = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(arrays):
            content.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return content.hexdigest()


def differences(expected: Mapping[str, str], got: Mapping[str, str]) -> str:
    """In words, how two states differ; "" if they do not."""
    absent, more = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    other = [name for name in sorted(expected.keys() & got.keys()) if expected[name] != got[name]]
    parts = [f"{label} {', '.join(names)}" for label, names in
             (("absent:", absent), ("left over:", more), ("other:", other)) if names]  # fmt: skip
    return "; ".join(parts)
