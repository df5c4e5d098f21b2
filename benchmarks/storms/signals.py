"""Signals, closed streams, encodings, homes, users, paths and clocks: documented exit codes, and the same result."""

import os
import random
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from storms.forks import Forks
from storms.states import copy, differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import CNN, CPU, TRAIN, Prepared, fresh, prepare

WORKS = ("train", "cross-validate", "freeze", "evaluate", "export", "data")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LOCALES: tuple[Mapping[str, str], ...] = (
    {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "nowhere"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "koi8-r"}, {"PYTHONIOENCODING": "utf-16"},
    {"PYTHONIOENCODING": "shift_jis"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
)  # fmt: skip
PATHS = (
    "a run", "run\nof two lines", "läufe", "🐱", os.fsdecode(b"run\xff\xfe"), "r" * 200, "./-run", "deep/er/run",
    "../place/run", "run/", "it's \"quoted\"", "$(touch evil)", "[bold]run[/bold]", "<b>run", "100%", "a;b&c",
    "run\x1b[31m", "*", ":run:",
)  # fmt: skip
ZONES = ("Pacific/Apia", "nowhere", "UTC-14", "")


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is one of KINDS."""
    kinds = [only] if only else ["signal", *(kind for kind in KINDS if kind != "signal"), "signal", "signal"]
    with Forks() as forks:
        prepared = {name: prepare(forks, name, folder / name) for name in WORKS}

        def one(seed: int) -> tuple[str, str]:
            kind = kinds[seed % len(kinds)]
            place = folder / "place"
            return kind, KINDS[kind](forks, prepared, place, seed // len(kinds), random.Random(seed))

        return trials(Tally("signals", seed), number, one)


def by_signal(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """INT, TERM or HUP, once or twice, at a random moment: its exit code, and a repetition that gives the result."""
    work = prepared[WORKS[turn % len(WORKS)]]
    number = rng.choice(list(CODES))
    moments = [rng.uniform(0, work.seconds)]
    if rng.random() < 0.5:
        moments.append(moments[0] + rng.choice([0.001, rng.uniform(0, 0.3)]))
    copy(work.start, place)
    result = forks.run(work.command(place, work.work.argv, signals=[(moment, number) for moment in moments]))
    times = " and ".join(f"{moment:.3f}" for moment in moments)
    story = f"{number.name} after {times} s of `{' '.join(work.work.argv)}`"
    # One that no handler was set for yet ends a process as the shell reports with the same code.
    if wrong := bad_ending(result, codes=[0, CODES[number], -number]):
        return f"{story}: {wrong}"
    argv = work.work.again(place)
    if wrong := bad_ending(forks.run(work.command(place, argv)), codes=[0]):
        return f"{story}; then `{' '.join(argv)}`: {wrong}"
    difference = differences(work.expected, state_of(place))
    return f"{story}; then `{' '.join(argv)}`: {difference}" if difference else ""


def streams(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """Standard input, output or error closed, full, or a pipe that nobody reads."""
    del forks, turn
    copy(prepared["evaluate"].start, place)
    write_image(place)
    shells = {"<&-": 0, ">&-": 0, "2>&-": 0, ">/dev/full": 1, "2>/dev/full": 0, "| true": 0, "<&- >&- 2>&-": 0}
    shell = rng.choice(list(shells))
    argv = rng.choice([
        ("evaluate", "run", "--json", *CPU), ("predict", "run", "x.png", *CPU), ("predict", "run", "-", *CPU),
        ("--help",), ("report", "run"), (*[word if word != "run" else "new" for word in TRAIN], *CNN, "1"),
    ])  # fmt: skip
    result = fresh(argv, place, shell=f'"$@" {shell}')
    reads = "-" in argv
    codes = [0, 1, 2] if reads else [0] if shells[shell] == 0 and shell not in (">&-", "<&- >&- 2>&-") else [0, 1]
    told = "2>" not in shell
    wrong = bad_ending(result, codes=codes if told else [0, 1, 2]) if told else "" if result.code in codes else (
        f"exit code {result.code}")  # fmt: skip
    if not wrong and argv[0] == "train" and result.code == 0 and not (place / "new" / "evaluation.json").exists():
        wrong = "the training has no result"
    return wrong and f"`cifar {' '.join(argv)} {shell}`: {wrong}"


def locales(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """Locales and encodings: no output breaks a command."""
    del forks
    copy(prepared["evaluate"].start, place)
    write_image(place)
    variables = LOCALES[turn % len(LOCALES)]
    shutil.copy(place / "x.png", place / "größe 🐱.png")
    argv = rng.choice([
        ("evaluate", "run", *CPU), ("predict", "run", "größe 🐱.png", *CPU), ("train", "--help"),
        (*[word if word != "run" else "läufe" for word in TRAIN], *CNN, "1"), ("predict", "run", "größe.png"),
    ])  # fmt: skip
    result = fresh(argv, place, variables=variables)
    wrong = bad_ending(result, codes=[2] if argv[-1] == "größe.png" else [0])
    if "utf-16" in variables.values() and "Traceback" not in result.err and result.code in (0, 2):
        wrong = ""  # its sentence is not readable here
    return wrong and f"{dict(variables)} `cifar {' '.join(argv)}`: {wrong}"


def homes(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """No home, one that is not there, or another user's number without a name."""
    work = prepared["train"]
    copy(work.start, place)
    kinds: tuple[dict[str, str | None], ...] = (
        {"HOME": None}, {"HOME": "/nonexistent"}, {"HOME": ""},
        {"HOME": None, "CIFAR_HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": "/dev/null", "CIFAR_HOME": "/dev/null/cache", "XDG_CACHE_HOME": "/dev/null/cache"},
    )  # fmt: skip
    if turn % 2 and hasattr(os, "geteuid") and os.geteuid() == 0:
        for path in (place, *place.rglob("*")):
            os.chown(path, 54_321, 54_321)
        for parent in place.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                return ""  # nobody else may look into this temporary folder
        result = forks.run(work.command(place, work.work.argv, uid=54_321))
        story = "as user 54321"
    else:
        variables = rng.choice(kinds)
        result = fresh(work.work.argv, place, variables=variables)
        story = f"with {variables}"
    return (wrong := bad_ending(result, codes=[0])) and f"`cifar {' '.join(work.work.argv)}` {story}: {wrong}"


def paths(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """Run folders with odd names: trained, evaluated, predicted with, reported."""
    work = prepared["train"]
    copy(work.start, place)
    write_image(place)
    name = PATHS[turn % len(PATHS)]
    if rng.random() < 0.2:
        (place / "real").mkdir()
        (place / "link").symlink_to("real")
        name = f"link/{name.strip('./')}"
    train = [name if word == "run" else word for word in work.work.argv]
    commands = [train, ["predict", name, "x.png", *CPU], ["report", name], ["card", name], ["evaluate", name, *CPU],
                ["train", "--resume", name, *CPU]]  # fmt: skip
    try:
        name.encode()
    except UnicodeEncodeError:  # refused before anything is trained
        wrong = bad_ending(forks.run(work.command(place, train)), codes=[2])
        return wrong and f"`cifar {' '.join(train)}`: {wrong}"
    for argv in commands:
        if wrong := bad_ending(forks.run(work.command(place, argv)), codes=[0]):
            return f"`cifar {' '.join(argv)}`: {wrong}"
    if (place / "evil").exists():
        return f"a command was executed by the name {name!r}"
    weights = state_of(place / name).get("model.safetensors")
    return "" if weights == work.expected["run/model.safetensors"] else f"other weights in {name!r}"


def clocks(forks: Forks, prepared: Mapping[str, Prepared], place: Path, turn: int, rng: random.Random) -> str:
    """Clocks that are set back or forward while a command runs, and time zones that do not exist."""
    work = prepared[rng.choice(["train", "freeze", "evaluate"])]
    copy(work.start, place)
    command = work.command(place, work.work.argv)
    env = {**command.env, "TZ": ZONES[turn % len(ZONES)], "STORM_CLOCK": str(rng.choice([-10, 10, -1]) * 31_536_000)}
    result = forks.run(type(command)(**{**vars(command), "env": env, "prepare": "storms.signals:set_clock"}))
    wrong = bad_ending(result, codes=[0]) or differences(work.expected, state_of(place))
    return wrong and f"a clock that jumps by {env['STORM_CLOCK']} s, TZ {env['TZ']}: {wrong}"


def set_clock(command: Mapping[str, object]) -> None:
    """In a child: a clock that jumps with every twentieth look at it."""
    del command
    import time

    real, jump, looks = time.time, float(os.environ["STORM_CLOCK"]), [0]

    def look() -> float:
        looks[0] += 1
        return real() + (jump if looks[0] // 20 % 2 else 0)

    time.time = look
    time.tzset()


def write_image(place: Path) -> None:
    """A picture, x.png."""
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(place / "x.png")


KINDS = {"signal": by_signal, "streams": streams, "locale": locales, "path": paths, "home": homes, "clock": clocks}
