"""Two and five processes on one run folder, one data cache, one activation cache: nothing wrong is stored."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from storms.flips import make_start
from storms.forks import Command, Forks, Result
from storms.states import copy, differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import CNN, CPU, FREEZE, TRAIN, Prepared, environment, prepare

KINDS = ("train", "data", "freeze", "resume", "overwrite", "evaluate", "kernels")
LATEST = 0.4  # seconds between the first start and the last


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is one of KINDS."""
    kinds = [only] if only else list(KINDS)
    with Forks() as forks:
        prepared = {name: prepare(forks, name, folder / name) for name in ("train", "data", "freeze")}
        make_start(forks, folder / "start")
        shutil.copytree(prepared["train"].start / "home", folder / "start" / "home", dirs_exist_ok=True)
        shutil.rmtree(folder / "start" / "other")

        def one(seed: int) -> tuple[str, str]:
            rng, kind = random.Random(seed), kinds[seed % len(kinds)]
            num = rng.choice([2, 2, 5])
            delays = [0.0, *(rng.choice([0.0, rng.uniform(0, LATEST)]) for _ in range(num - 1))]
            place = folder / "trial"
            fault = TOGETHER[kind](forks, prepared, folder / "start", place, delays)
            return f"{kind}, {num}", fault and f"{num} processes: {fault}"

        return trials(Tally("together", seed), number, one)


def endings(results: Sequence[Result]) -> str:
    """What is wrong with how processes ended: each wins or is told, in one sentence; "" if nothing is."""
    return "; ".join(filter(None, (bad_ending(result, codes=[0, 1, 2]) for result in results)))


def subset(expected: dict[str, str], got: dict[str, str], below: str = "") -> str:
    """How what is expected differs from what lies below a folder, whatever else lies there."""
    return differences(expected, {name: got.get(f"{below}{name}", "absent") for name in expected})


def start(
    forks: Forks, work: Prepared, place: Path, argvs: Sequence[Sequence[str]], delays: list[float]
) -> list[Result]:
    """Run commands in a place at the same time."""
    return forks.run_together([
        Command(argv, place, environment(place), delay=delay, prepare=work.work.prepare)
        for argv, delay in zip(argvs, delays, strict=True)
    ])  # fmt: skip


def same_folder(forks: Forks, prepared: dict[str, Prepared], _start: Path, place: Path, delays: list[float]) -> str:
    """The same training into one new folder: one wins."""
    work = prepared["train"]
    copy(work.start, place)
    results = start(forks, work, place, [work.work.argv] * len(delays), delays)
    won = sum(result.code == 0 for result in results)
    return endings(results) or (f"{won} have won" if won != 1 else differences(work.expected, state_of(place)))


def overwrite(forks: Forks, prepared: dict[str, Prepared], _start: Path, place: Path, delays: list[float]) -> str:
    """The same training over one finished run: whoever wins, the folder holds one whole run."""
    work = prepared["train"]
    copy(work.unbroken, place)
    results = start(forks, work, place, [(*work.work.argv, "--overwrite")] * len(delays), delays)
    won = sum(result.code == 0 for result in results)
    return endings(results) or ("none has won" if not won else differences(work.expected, state_of(place)))


def resume(forks: Forks, prepared: dict[str, Prepared], begun: Path, place: Path, delays: list[float]) -> str:
    """One stopped run resumed by several: one trains, the others are told."""
    copy(begun, place)
    argv = ("train", "--resume", "stopped", *CPU)
    results = start(forks, prepared["train"], place, [argv] * len(delays), delays)
    trained = sum(result.code == 0 and "finished already" not in result.err for result in results)
    return endings(results) or (f"{trained} have trained" if trained != 1 else whole(prepared["train"], place))


def evaluate(forks: Forks, prepared: dict[str, Prepared], begun: Path, place: Path, delays: list[float]) -> str:
    """A stopped run resumed, while others evaluate it: afterwards it can be finished, with the same result."""
    copy(begun, place)
    resumed = ("train", "--resume", "stopped", *CPU)
    others = [("evaluate", "stopped", "--tta", "shift", *CPU), ("evaluate", "stopped", "--split", "validation", *CPU)]
    argvs = [resumed, *(others[index % 2] for index in range(len(delays) - 1))]
    results = start(forks, prepared["train"], place, argvs, delays)
    again = start(forks, prepared["train"], place, [resumed], [0.0])
    return endings([*results, *again]) or (again[0].err if again[0].code else whole(prepared["train"], place))


def whole(work: Prepared, place: Path) -> str:
    """How the run `stopped` differs from an unbroken one, but for its name in pictures and records."""
    expected = {name: text for name, text in work.expected.items() if name.startswith("run/")}
    kept = {name.replace("run/", "stopped/", 1): text.replace('"run": "run"', '"run": "stopped"')
            for name, text in expected.items() if not name.endswith(".png")}  # fmt: skip
    return subset(kept, state_of(place))


def data(forks: Forks, prepared: dict[str, Prepared], _start: Path, place: Path, delays: list[float]) -> str:
    """One data cache filled by several."""
    work = prepared["data"]
    copy(work.start, place)
    results = start(forks, work, place, [work.work.argv] * len(delays), delays)
    again = forks.run(work.command(place, work.work.argv))
    wrong = endings(results) or bad_ending(again, codes=[0]) or differences(work.expected, state_of(place))
    return wrong or ("none has won" if all(result.code for result in results) else "")


def freeze(forks: Forks, prepared: dict[str, Prepared], _start: Path, place: Path, delays: list[float]) -> str:
    """One activation cache filled by trainings in folders of their own: all give the same."""
    work = prepared["freeze"]
    copy(work.start, place)
    train = [argument for argument in (*TRAIN, *FREEZE) if argument not in ("-s", "run")]
    return each(forks, work, place, [(*train, "-s", f"{index}/run") for index in range(len(delays))], delays)


def kernels(forks: Forks, prepared: dict[str, Prepared], _start: Path, place: Path, delays: list[float]) -> str:
    """Native kernels compiled by trainings in folders of their own, into one cache."""
    work = prepared["train"]
    copy(work.start, place)
    shutil.rmtree(place / "home" / "kernels", ignore_errors=True)
    train = [argument for argument in (*TRAIN, *CNN, "2") if argument not in ("-s", "run")]
    return each(forks, work, place, [(*train, "-s", f"{index}/run") for index in range(len(delays))], delays)


def each(forks: Forks, work: Prepared, place: Path, argvs: list[tuple[str, ...]], delays: list[float]) -> str:
    """Run trainings in folders 0, 1, … and compare each of those that end well; one at least must."""
    results = start(forks, work, place, argvs, delays)
    state = state_of(place)
    expected = {name: text for name, text in work.expected.items() if name.startswith("run/")}
    wrong = [endings(results)] + [subset(expected, state, f"{index}/") for index, result in enumerate(results)
                                  if not result.code]  # fmt: skip
    wrong.append(subset({name: text for name, text in work.expected.items() if name.startswith("home/")}, state))
    wrong.append("left over: " + ", ".join(left) if (left := [name for name in state if ".part" in name]) else "")
    return "; ".join(filter(None, wrong)) or ("none has won" if all(result.code for result in results) else "")


TOGETHER = {"train": same_folder, "overwrite": overwrite, "resume": resume, "evaluate": evaluate, "data": data,
            "freeze": freeze, "kernels": kernels}  # fmt: skip
