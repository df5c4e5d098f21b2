"""Disks that are full, over quota, broken or read-only: one sentence, nothing lost, and the repetition succeeds."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storms.forks import Forks, Result
from storms.kill import points
from storms.states import copy, differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import WORKS, Prepared, prepare

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
KINDS = ("error", "error", "error", "limit", "disk", "read-only")  # three quarters are injected errors


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is the name of a work."""
    names = [only] if only else list(WORKS)
    with Forks() as forks:
        prepared = {name: prepare(forks, name, folder / name) for name in names}

        def one(seed: int) -> tuple[str, str]:
            name, rng = names[seed % len(names)], random.Random(seed)
            kind = rng.choice(KINDS) if can_mount() else rng.choice(KINDS[:4])
            place = folder / f"{name}-trial"
            fault = BREAK[kind](forks, prepared[name], place, seed // len(names), rng)
            shutil.rmtree(place, ignore_errors=not fault)
            return f"{name}, {kind}", fault

        return trials(Tally("full", seed), number, one)


def can_mount() -> bool:
    """Whether file systems can be mounted here: real full and read-only ones need it."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None


def judge(forks: Forks, prepared: Prepared, place: Path, result: Result, story: str) -> str:
    """What did not hold: of the failed command, of its repetition, or of what that leaves; "" if all did."""
    if wrong := bad_ending(result, codes=[0, 1], names=""):
        return f"{story}: {wrong}"
    if result.code and not names_a_file(result, place):
        return f"{story}: no file is named: {result.err.splitlines()[-1]}"
    return "" if (again := repeat(forks, prepared, place)) == "" else f"{story}: {again}"


def names_a_file(result: Result, place: Path) -> bool:
    """Whether the sentence names a file or folder of the place."""
    line = next(line for line in result.err.splitlines() if line.startswith("cifar: "))
    names = {path.name for path in place.rglob("*")} | {"run", "cache", "home", str(place)}
    return any(name in line for name in names | {entry.rpartition("/")[2] for entry in result.operations})


def repeat(forks: Forks, prepared: Prepared, place: Path) -> str:
    """Repeat or resume the command on a healthy disk, and compare what it leaves with the unbroken command's."""
    argv = prepared.work.again(place)
    if wrong := bad_ending(forks.run(prepared.command(place, argv)), codes=[0]):
        return f"then `{' '.join(argv)}`: {wrong}"
    difference = differences(prepared.expected, state_of(place))
    return f"then `{' '.join(argv)}`: {difference}" if difference else ""


def inject(forks: Forks, prepared: Prepared, place: Path, turn: int, rng: random.Random) -> str:
    """An error at an operation: once, or from then on at everything that needs room."""
    copy(prepared.start, place)
    marks, number, stays = points(list(prepared.operations)), rng.choice(ERRORS), rng.random() < 0.5
    at = marks[(turn * 7) % len(marks)]
    result = forks.run(prepared.command(place, prepared.work.argv, number=at, action=number, stays=stays))
    operation = next((line for line in result.operations if line.startswith(f"{at} ")), "none")
    story = f"{errno.errorcode[number]} {'from' if stays else 'at'} {operation.replace(str(place), '')}"
    return judge(forks, prepared, place, result, story)


def limit(forks: Forks, prepared: Prepared, place: Path, _turn: int, rng: random.Random) -> str:
    """A limit on the size of files (RLIMIT_FSIZE)."""
    copy(prepared.start, place)
    size = int(2 ** rng.uniform(6, 20))
    result = forks.run(prepared.command(place, prepared.work.argv, max_file=size))
    return judge(forks, prepared, place, result, f"files of at most {size:,} bytes")


@contextmanager
def mounted(place: Path, megabytes: float) -> Iterator[None]:
    """A file system in memory at this place."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 2**20)}", "storm", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def disk(forks: Forks, prepared: Prepared, place: Path, _turn: int, rng: random.Random) -> str:
    """A real disk that fills up; then it has room again."""
    needed = sum(path.stat().st_size for path in prepared.start.rglob("*") if path.is_file()) / 2**20
    more = max(
        0.02, sum(path.stat().st_size for path in prepared.unbroken.rglob("*") if path.is_file()) / 2**20 - needed
    )
    room = needed + 0.2 + more * rng.random()
    with mounted(place, room):
        shutil.copytree(prepared.start, place, dirs_exist_ok=True)
        result = forks.run(prepared.command(place, prepared.work.argv))
        remount(place, "size=512m")
        return judge(forks, prepared, place, result, f"a disk of {room:.2f} MB, {needed:.2f} of them used")


def read_only(forks: Forks, prepared: Prepared, place: Path, _turn: int, _rng: random.Random) -> str:
    """A disk that is read-only; then it can be written."""
    with mounted(place, 512):
        shutil.copytree(prepared.start, place, dirs_exist_ok=True)
        remount(place, "ro")
        result = forks.run(prepared.command(place, prepared.work.argv))
        remount(place, "rw")
        if result.code == 2 and not bad_ending(result, codes=[2]):  # the folder that was typed cannot be written
            return repeat(forks, prepared, place)
        return judge(forks, prepared, place, result, "a read-only disk")


BREAK = {"error": inject, "limit": limit, "disk": disk, "read-only": read_only}
