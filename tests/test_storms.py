"""benchmarks/storms: a short version of each storm, and that each of them notices what must not happen."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from storms import flips, full, kill, readers, together, works  # noqa: E402
from storms.forks import KILL, TEAR, Command, Forks, Result  # noqa: E402
from storms.fuzzed import Watch, mutate  # noqa: E402
from storms.states import copy, differences, digest, state_of  # noqa: E402
from storms.verdicts import Tally, bad_ending, sentence_of, write_record  # noqa: E402

needs_shim = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="wants Linux and a C compiler"
)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    kernels = pytest.MonkeyPatch()
    kernels.setenv("CIFAR_KERNELS", "pytorch")  # their compilation takes longer than all trials
    with Forks(few=True) as server:
        yield server
    kernels.undo()


@pytest.fixture(scope="module")
def prepared(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> works.Prepared:
    """A training, unbroken; the long storms run it in a process of its own as well."""
    return works.prepare(forks, "train", tmp_path_factory.mktemp("storm") / "train", twice=False)


@needs_shim
def test_the_library_kills_tears_and_fails_at_the_operation_named(forks: Forks, tmp_path: Path) -> None:
    def write(number: int, action: int, *, stays: bool = False) -> Result:
        return forks.run(Command(
            ["export", "run", "--format", "safetensors"], tmp_path, works.environment(tmp_path), folder=str(tmp_path),
            number=number, action=action, stays=stays,
        ))  # fmt: skip

    readers.a_run(tmp_path)
    whole = write(0, 0)
    assert whole.code == 0, whole.err
    size = (tmp_path / "run" / "model.safetensors").stat().st_size
    exported = tmp_path / "run" / "exported"
    weights = [(number, line.split()[1]) for number, line in enumerate(whole.operations, 1) if "model.saf" in line]
    assert [what for _, what in weights][:4] == ["open", "write", "fsync", "rename"]
    numbers = {what: number for number, what in weights}

    def left() -> list[int]:
        sizes = [path.stat().st_size for path in exported.rglob("*model.saf*") if path.name != "model.safetensors"]
        shutil.rmtree(exported)
        return sizes

    shutil.rmtree(exported)
    assert write(numbers["rename"], KILL).killed
    assert left() == [size]
    assert write(numbers["write"], TEAR).killed
    assert left() == [size // 2]
    failed = write(numbers["write"], 28, stays=True)
    assert failed.code == 1
    assert "No space left on device" in failed.err


@needs_shim
def test_killed_before_a_checkpoint_gets_its_name_and_resumed(
    forks: Forks, prepared: works.Prepared, tmp_path: Path
) -> None:
    place = copy(prepared.start, tmp_path / "place")
    number = min(n for n, line in enumerate(prepared.operations, 1) if " rename " in line and "last.ckpt" in line)
    assert forks.run(prepared.command(place, prepared.work.argv, number=number, action=KILL)).killed
    result = forks.run(prepared.command(place, prepared.work.again(place)))
    assert bad_ending(result, codes=[0]) == ""
    assert differences(prepared.expected, state_of(place)) == ""


@needs_shim
def test_a_full_disk_is_one_sentence_and_the_repetition_succeeds(
    forks: Forks, prepared: works.Prepared, tmp_path: Path
) -> None:
    place = copy(prepared.start, tmp_path / "place")
    number = next(n for n, line in enumerate(prepared.operations, 1) if "write" in line and ".metrics.csv" in line)
    result = forks.run(prepared.command(place, prepared.work.argv, number=number, action=28, stays=True))
    assert full.judge(forks, prepared, place, result, "ENOSPC") == ""


@needs_shim
def test_two_trainings_into_one_folder(forks: Forks, prepared: works.Prepared, tmp_path: Path) -> None:
    assert together.same_folder(forks, {"train": prepared}, tmp_path, tmp_path / "place", [0.0, 0.0]) == ""


def test_flips_notice_other_numbers_and_accept_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"damaged")
    known = flips.Outcome('{"a": 1}', {"weights": digest(tmp_path / "weights"), "figures": "x"}, frozenset({"figures"}))

    def judged(code: int, out: str, err: str = "") -> str:
        return flips.judge(known, Result(code, out, err, (), 0.0, False), tmp_path, Path("weights"), b"damaged")

    assert judged(0, '{"a": 1, "seconds": 3}') == ""
    assert "something else" in judged(0, '{"a": 2}')
    assert judged(1, "", "cifar: weights is damaged: restore it.") == ""
    assert "not one sentence" in judged(1, "", "a\nb")
    assert "traceback" in judged(1, "", "Traceback (most recent call last):\nKeyError: 'x'")
    assert "exit code -11" in judged(-11, "")


@pytest.mark.parametrize("seed", range(20))
def test_damage_changes_a_file(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(1, 256)) * 10)
    assert flips.damage(path, random.Random(seed))
    assert path.read_bytes() != bytes(range(1, 256)) * 10


def test_state_leaves_out_what_varies_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"accuracy": 0.5, "seconds": 1, "list": [{"time": 2, "loss": 3}]}')
    (tmp_path / "m.csv").write_text("epoch,train_loss,seconds\n1,2.5,9\n")
    before = state_of(tmp_path)
    (tmp_path / "a.json").write_text('{"accuracy": 0.5, "seconds": 4, "list": [{"time": 5, "loss": 3}]}')
    (tmp_path / "m.csv").write_text("epoch,train_loss,seconds\n1,2.5,7\n")
    assert differences(before, state_of(tmp_path)) == ""
    (tmp_path / "a.json").write_text('{"accuracy": 0.5, "seconds": 4, "list": [{"time": 5, "loss": 4}]}')
    (tmp_path / "m.csv").unlink()
    (tmp_path / ".m.csv.part").touch()
    assert differences(before, state_of(tmp_path)) == "absent: m.csv; left over: .m.csv.part; other: a.json"


def test_points_keep_every_operation_but_the_middle_of_long_writes() -> None:
    lines = ["1 open a", *(f"{number} write a" for number in range(2, 12)), "12 rename a", "13 write b"]
    assert kill.points(lines) == [1, 2, 6, 11, 12, 13]


def test_a_storm_is_recorded_whole_beside_the_others(tmp_path: Path) -> None:
    tally = Tally("kill", 3)
    tally.count(3, "train", "")
    tally.count(4, "train", "other weights")
    write_record(tmp_path / "storm.json", "full", {"tried": 1})
    write_record(tmp_path / "storm.json", "kill", tally.record())
    records = json.loads((tmp_path / "storm.json").read_text())
    assert records["full"] == {"tried": 1}
    assert (records["kill"]["tried"], records["kill"]["held"]) == (2, 1)
    assert records["kill"]["failures"] == [{"seed": 4, "kind": "train", "fault": "other weights"}]
    assert records["kill"].keys() >= {"seconds", "machine", "commit", "date", "kinds"}
    assert [path.name for path in tmp_path.iterdir()] == ["storm.json"]


@pytest.mark.parametrize("kind", ["images", "archives", "weights", "onnx", "arrays"])
def test_mutated_files_of_strangers_end_in_a_sentence(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnx")
    read, good = readers.READERS[kind](tmp_path)
    watch, rng = Watch(read, tmp_path), random.Random(0)
    for _ in range(60):
        watch.run(mutate(rng.choice(good), rng))
    found = tmp_path / "faults.jsonl"
    assert not found.exists(), found.read_text()
    assert watch.cases == 60


def test_fuzzing_notices_tracebacks_and_what_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def read(case: object) -> None:
        if case == b"run":
            subprocess.run(["true"])
        elif case == b"raise":
            raise KeyError("x")

    watch = Watch(read, tmp_path)
    for case in (b"good", b"run", b"raise"):
        watch.run(case)
    faults = [json.loads(line)["fault"] for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert len(faults) == 2
    assert faults[0].startswith("executed: ")
    assert faults[1].startswith("traceback KeyError")


def test_one_sentence_is_told_from_none_and_two() -> None:
    def ended(err: str) -> Result:
        return Result(1, "", err, (), 0.0, False)

    assert sentence_of(ended("a remark\ncifar: x.json: No space left.\n")) == "cifar: x.json: No space left."
    assert sentence_of(ended("cifar: a.\ncifar: b.\n")) == ""
    assert "hangs" in bad_ending(Result(-9, "", "", (), 120.0, True), codes=[0])
