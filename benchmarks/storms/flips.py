"""Flipped bits and truncations in every file of a run: the same result or one sentence, never other numbers."""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.forks import KILL, Command, Forks, Result
from storms.states import VARIES, copy, differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import CNN, CPU, TRAIN, environment, succeed

# What is asked of each folder, and how often.
COMMANDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "run": (
        ("predict", "run", "x.png", "--json", *CPU), ("predict", "run", "x.png", "--json", *CPU),
        ("evaluate", "run", "--json", *CPU), ("report", "run"), ("card", "run"), ("compare", "run", "other", "--json"),
        ("export", "run", "--format", "safetensors"), ("train", "--resume", "run", *CPU),
        ("predict", "run/exported", "x.png", "--json", *CPU),
    ),
    "stopped": (
        ("train", "--resume", "stopped", *CPU), ("train", "--resume", "stopped", *CPU),
        ("train", "--resume", "stopped", *CPU), ("predict", "stopped", "x.png", "--json", *CPU),
        ("evaluate", "stopped", "--split", "validation", "--json", *CPU),
    ),
    "folds": (("train", "--resume", "folds", *CPU), ("report", "folds"), ("evaluate", "folds/fold-0", "--json", *CPU)),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What an undamaged command prints and leaves; `varies` are files that differ from time to time."""

    printed: str
    state: Mapping[str, str]
    varies: frozenset[str]


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is the name of a file, such as last.ckpt."""
    start = folder / "start"
    with Forks() as forks:
        make_start(forks, start)
        known: dict[tuple[str, ...], Outcome] = {}
        files = [path for path in sorted(start.rglob("*"))
                 if path.is_file() and path.relative_to(start).parts[0] in COMMANDS
                 and only in ("", path.name)]  # fmt: skip

        def one(seed: int) -> tuple[str, str]:
            rng = random.Random(seed)
            file = files[seed % len(files)].relative_to(start)
            argv = rng.choice(COMMANDS[file.parts[0]])
            if argv not in known:
                known[argv] = undamaged(forks, start, folder, argv)
            place = copy(start, folder / "trial")
            story = damage(place / file, rng)
            damaged = (place / file).read_bytes()
            result = forks.run(Command(argv, place, environment(place)))
            fault = judge(known[argv], result, place, file, damaged)
            return file.name, fault and f"{file} {story}; `{' '.join(argv)}`: {fault}"

        return trials(Tally("flips", seed), number, one)


def make_start(forks: Forks, start: Path) -> None:
    """A tested run with its export, another, a stopped one, a cross-validation, and an image."""
    (start / "home").mkdir(parents=True)

    def run(*argv: str, **faults: Any) -> Result:
        return forks.run(Command(argv, start, environment(start), folder=str(start), **faults))

    train = [argument for argument in TRAIN if argument not in ("-s", "run")]
    succeed(run(*train, *CNN, "2", "-s", "other", "--seed", "1"))
    succeed(run(*train, *CNN, "2", "-s", "run"))
    succeed(run("export", "run", "--format", "safetensors"))
    succeed(run(*train, *CNN, "1", "-c", "--folds", "2", "-s", "folds"))
    whole = succeed(run(*train, *CNN, "2", "-s", "stopped"))
    shutil.rmtree(start / "stopped")
    renamed = [line for line in whole.operations if " rename " in line]
    epoch = next(index for index, line in enumerate(renamed) if line.endswith("/stopped/model.safetensors"))
    saved = next(line for line in renamed[epoch:] if line.endswith("/stopped/last.ckpt"))
    run(*train, *CNN, "2", "-s", "stopped", number=int(saved.split()[0]) + 1, action=KILL)
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(start / "x.png")


def undamaged(forks: Forks, start: Path, folder: Path, argv: tuple[str, ...]) -> Outcome:
    """What a command does to the undamaged folder, twice."""
    outcomes = []
    for _ in range(2):
        place = copy(start, folder / "trial")
        result = succeed(forks.run(Command(argv, place, environment(place))))
        outcomes.append((printed(result), state_of(place)))
    (text, state), (_, other) = outcomes
    return Outcome(text, state, frozenset(name for name in state if state[name] != other.get(name)))


def printed(result: Result) -> str:
    """Standard output without times."""
    try:
        value = json.loads(result.out)
    except ValueError:
        return "" if "written" in result.out or "one file" in result.out or "0:0" in result.out else result.out
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if not VARIES.search(key)}
    return json.dumps(value)


def damage(path: Path, rng: random.Random) -> str:
    """Flip bits of a file, lose a sector of it, cut it off or empty it; in words, what was done."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "flip", "cut", "cut", "sector", "empty"]) if content else "empty"
    if kind == "flip":
        bits = [rng.randrange(8 * len(content)) for _ in range(rng.choice([1, 1, 1, 2, 8]))]
        for bit in bits:
            content[bit // 8] ^= 1 << bit % 8
        story = f"with bits {bits} flipped"
    elif kind == "cut":
        content = content[: rng.randrange(len(content))]
        story = f"cut off after {len(content):,} bytes"
    elif kind == "sector":
        first = 512 * rng.randrange(1 + (len(content) - 1) // 512)
        length = len(content[first : first + 512])
        content[first : first + 512] = bytes(length)
        story = f"with {length} zeros at {first:,}"
    else:
        content, story = bytearray(), "empty"
    path.write_bytes(content)
    return story


def judge(known: Outcome, result: Result, place: Path, file: Path, damaged: bytes) -> str:
    """What did not hold, in words; "" if all did: one sentence, or what the undamaged command does."""
    if wrong := bad_ending(result, codes=[0, 1, 2]):
        return wrong
    if result.code:
        return ""
    if printed(result) != known.printed:
        return f"it prints something else: {result.out[:200]!r}"
    ignored = set(known.varies)
    if not (place / file).exists() or (place / file).read_bytes() == damaged:
        ignored |= {str(file), str(Path(file).with_name("checksums.json"))}
    if Path(file).name == "checksums.json":  # it may have lost a name, or a digest of what was before
        ignored.add(str(file))
    state = {name: value for name, value in state_of(place).items() if name not in ignored}
    expected = {name: value for name, value in known.state.items() if name not in ignored}
    for name in expected:
        if name.endswith(".html") and str(file) in state.get(name, "") and str(file) not in expected[name]:
            state[name] = expected[name]  # the report says why something of it is missing
    difference = differences(expected, state)
    return f"another result: {difference}" if difference else ""
