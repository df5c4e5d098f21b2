"""`cifar compare` as a person meets it: tables, JSON, both ways of every flag, every refusal one sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_probs, make_run

from cifar.cli import app, run_app
from cifar.errors import WorldError
from cifar.recipes import resnet

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"


def cifar(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments], program="cifar")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two seeds of each of two recipes, on the sample's 200 test images."""
    labels = np.arange(200) % 10
    good = [make_run(tmp_path / f"good-{n}", labels, make_probs(labels, 0.9, seed=n), seed=n, recipe=resnet())
            for n in range(2)]  # fmt: skip
    return good + [make_run(tmp_path / f"bad-{n}", labels, make_probs(labels, 0.5, seed=n), seed=n) for n in range(2)]


def columns_of(lines: list[str], title: str) -> list[str]:
    """The lines of the table that begins with this word, up to the first that is no row of it."""
    start = next(index for index, line in enumerate(lines) if line.startswith(title))
    end = next((index for index in range(start, len(lines)) if not lines[index]), len(lines))
    return lines[start:end]


@pytest.mark.usefixtures("blank_pictures")
def test_two_trained_runs_are_compared_without_a_new_test_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-m", "cnn", "-e", "1", "-b", "100", "-l", "1e-3", "-d", "cpu", "--data", "sample"]
    for seed in (0, 1):
        assert cifar("train", *flags, "--seed", seed, "-s", tmp_path / f"seed-{seed}") == 0
    before = (tmp_path / "seed-0" / "summary.json").read_text()
    capsys.readouterr()
    assert cifar("compare", tmp_path / "seed-0", tmp_path / "seed-1") == 0
    output = capsys.readouterr().out
    assert output.startswith("SAMPLE OF CIFAR-10: 200 test images")
    assert "luck of the seed" in output
    assert (tmp_path / "seed-0" / "summary.json").read_text() == before  # no new test evaluation
    accuracy = json.loads(before)["test_accuracy"]
    assert f"{accuracy:.2%}" in output
    # Other evaluations are compared where both runs have them.
    both = (tmp_path / "seed-0", tmp_path / "seed-1")
    assert cifar("evaluate", both[1], "--split", "validation", "-d", "cpu") == 0
    assert cifar("compare", *both, "--split", "validation") == 1
    assert f"make it with `cifar evaluate {both[0]} --split validation --tta none`." in capsys.readouterr().err
    assert cifar("evaluate", both[0], "--split", "validation", "-d", "cpu") == 0
    capsys.readouterr()
    assert cifar("compare", *both, "--split", "validation") == 0
    assert capsys.readouterr().out.startswith("SAMPLE OF CIFAR-10: 100 validation images")


def test_tables_are_aligned_and_whole(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("compare", *folders) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = {"run ": 5, "recipe ": 3}
    for title, count in tables.items():
        rows = columns_of(lines, title)
        assert len(rows) == count
        end = rows[0].index("accuracy" if title == "run " else "mean") + len("accuracy" if title == "run " else "mean")
        assert all(row[:end].endswith("%") for row in rows[1:])
    text = "\n".join(lines)
    for words in ("McNemar p", "Holm p", "agreement", "error overlap", "majority vote of the 4 runs", "Welch p",
                  "interval over seeds and images", "resnet20 (2 seeds)", "good-0", "bad-1"):  # fmt: skip
        assert words in text
    assert lines[-1].startswith("SAMPLE OF CIFAR-10: resnet20 (2 seeds)")


def test_two_runs_need_no_correction(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("compare", folders[0], folders[2]) == 0
    output = capsys.readouterr().out
    assert "good-0 is better than bad-0 by" in output
    assert "Holm" not in output
    assert "Welch" not in output


def test_json_and_save_hold_the_same(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.json"
    assert cifar("compare", *folders[:2], "--json", "--save", path) == 0
    output = capsys.readouterr()
    printed = json.loads(output.out)
    assert printed == json.loads(path.read_text())
    assert str(path) in output.err
    assert printed["bootstrap"]["seed"] == 0
    assert cifar("compare", *folders[:2], "--json", "--seed", 5) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["bootstrap"]["seed"] == 5
    assert other["pairs"][0]["difference"] == printed["pairs"][0]["difference"]
    path.unlink()
    assert cifar("compare", *folders[:2], "--save", path) == 0
    assert json.loads(path.read_text()) == printed
    assert "McNemar" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "'runs'"),
    (["good-0"], 2, "two runs or more"),
    (["good-0", "good-0"], 2, "given twice"),
    (["good-0", "nowhere"], 2, "not a run folder"),
    (["good-0", "--published"], 2, "whole CIFAR-10"),
    (["good-0", "bad-0", "--published"], 2, "whole CIFAR-10"),
    (["good-0", "bad-0", "--seed", "-1"], 2, "--seed"),
    (["good-0", "bad-0", "--save", "nowhere/file.json"], 2, "nowhere/file.json"),
    (["good-0", "bad-0", "--save", "good-1"], 2, "no file that can be written"),
    (["good-0", "bare"], 1, "bare has no predictions.npz: make it with `cifar evaluate bare`"),
])  # fmt: skip
def test_bad_input_is_one_sentence(
    arguments: list[str], code: int, words: str, folders: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders[0], "bare")
    Path("bare/predictions.npz").unlink()
    assert cifar("compare", *arguments) == code
    output = capsys.readouterr()
    assert words in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert not output.out


def test_without_a_network_the_runs_are_compared_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(**_: object) -> None:
        raise WorldError("nobody answers")

    monkeypatch.setattr("cifar.audit.published.read_published", unreachable)
    monkeypatch.setattr("cifar.audit.published.check_whole_test", lambda _: None)
    labels = np.arange(200) % 10
    folders = [make_run(tmp_path / name, labels, make_probs(labels, 0.8, seed=0)) for name in ("one", "two")]
    assert cifar("compare", *folders, "--published", "--json", "--save", tmp_path / "saved.json") == 1
    output = capsys.readouterr()
    assert json.loads(output.out) == json.loads((tmp_path / "saved.json").read_text())
    assert json.loads(output.out)["published"] is None
    assert len(json.loads(output.out)["pairs"]) == 1
    assert output.err.endswith("cifar: nobody answers\n")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")
def test_published_networks_are_ranked_with_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIFAR_HOME", str(tmp_path / "home"))
    shutil.copytree(SHARED / "published-predictions", tmp_path / "home" / "references")
    (tmp_path / "home" / "references").chmod(0o755)
    labels = np.load(SHARED / "label-errors" / "cifar10_test_labels.npy").astype(np.int64)
    folders = [
        make_run(tmp_path / name, labels, make_probs(labels, fraction, seed=0), recipe=recipe, data="CIFAR-10")
        for name, fraction, recipe in (("better", 0.935, resnet()), ("worse", 0.7, None))
    ]
    assert cifar("compare", folders[0], "--published") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = columns_of(lines, "rank ")[1:-1]  # the last explains a column
    assert len(rows) == 31
    assert rows[0].split()[:3] == ["1", "shake_shake_26_2x64d_SSI_cutout16", "97.11%"]
    own_rows = [row for row in rows if "> better" in row]
    assert len(own_rows) == 1
    assert lines[-1].startswith(f"better ranks {own_rows[0].split()[0]} of 31:")
    assert cifar("compare", *folders, "--published", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [ranking["run"] for ranking in result["published"]] == ["better", "worse"]
    assert [len(ranking["models"]) for ranking in result["published"]] == [30, 30]
    assert result["published"][1]["rank"] == 31
    assert len(result["pairs"]) == 1
