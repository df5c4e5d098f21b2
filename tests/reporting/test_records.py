"""Run folders read: what is in them, which states and damages are refused in which words, and the names of runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_probs, make_run
from numpy.typing import NDArray

from cifar.errors import InputError, WorldError
from cifar.recipes import resnet, with_fields
from cifar.reporting.records import (
    distinct_names,
    read_evaluated_run,
    read_evaluated_runs,
    read_record,
    read_records,
)
from cifar.runs import CORRUPTIONS

RESULTS = Path(__file__).parent.parent.parent / "results"
Labels = NDArray[np.int64]


@pytest.fixture
def labels() -> Labels:
    return np.random.default_rng(0).integers(0, 10, 200)


@pytest.fixture
def folders(tmp_path: Path, labels: Labels) -> list[Path]:
    """Three seeds of a recipe."""
    return [
        make_run(tmp_path / f"good-{seed}", labels, make_probs(labels, 0.9, seed=seed), seed=seed, recipe=resnet())
        for seed in range(3)
    ]


def test_an_evaluated_run_is_what_its_folder_holds(folders: list[Path], labels: Labels) -> None:
    run = read_evaluated_run(folders[1], name="mine")
    assert (run.name, run.folder, run.data, run.split, run.views) == (
        "mine", folders[1], "SAMPLE OF CIFAR-10", "test", "none",
    )  # fmt: skip
    assert (run.recipe, run.num_test_evaluations) == (with_fields(resnet(), seed=1), 1)
    assert np.array_equal(run.probs, make_probs(labels, 0.9, seed=1))
    assert np.array_equal(run.labels, labels)


def test_evaluated_runs_have_the_names_of_their_records(folders: list[Path]) -> None:
    assert [run.name for run in read_evaluated_runs(folders)] == ["good-0", "good-1", "good-2"]


def test_evaluated_runs_that_differ_in_their_images_are_refused(folders: list[Path], labels: Labels) -> None:
    other = make_run(folders[0].parent / "other", labels, make_probs(labels, 0.9, seed=0), split="validation")
    with pytest.raises(InputError, match="other was evaluated on its validation images"):
        read_evaluated_runs([*folders, other])


def test_folders_that_cannot_be_compared_are_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        read_evaluated_runs([folders[0], folders[1], tmp_path / "good-1" / ".." / "good-0"])
    with pytest.raises(InputError, match="not a run folder"):
        read_evaluated_runs([folders[0], tmp_path])
    (folders[0] / "predictions.npz").write_bytes(b"PK damaged")
    with pytest.raises(WorldError, match=r"predictions.npz is damaged: make it with `cifar evaluate .*good-0` anew"):
        read_evaluated_runs(folders)
    (folders[0] / "predictions.npz").unlink()
    with pytest.raises(WorldError, match=r"has no predictions.npz: make it with `cifar evaluate .*good-0`"):
        read_evaluated_runs(folders)
    evaluation = json.loads((folders[1] / "evaluation.json").read_text())
    (folders[1] / "evaluation.json").write_text(json.dumps(evaluation | {"split": "validation"}))
    with pytest.raises(WorldError, match="two evaluations"):
        read_evaluated_runs(folders[1:])
    (folders[2] / "crossval.json").write_text("{}")
    with pytest.raises(InputError, match="fold-0"):
        read_evaluated_runs(folders[2:])


def test_a_cross_validation_stands_for_its_folds() -> None:
    records = read_records([RESULTS / "cnn-crossval", RESULTS / "cnn", RESULTS / "cnn"])
    assert [record.name for record in records] == [*(f"cnn-crossval/fold-{fold}" for fold in range(5)), "cnn"]
    assert records[-1].summary == json.loads((RESULTS / "cnn" / "summary.json").read_text())
    assert list(records[-1].evaluations) == ["evaluation.json"]
    assert len(records[-1].rows) == records[-1].summary["epochs"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"finished": False}, "is not finished: `cifar train --resume "),
        ({"test_accuracy": None}, "has no test result yet: `cifar evaluate "),
        ({"state": "unfinished"}, "is not finished: `cifar train --resume "),
        ({"state": "trained"}, "has no test result yet: `cifar evaluate "),
    ],
)
def test_a_run_without_test_result_is_refused_with_the_command_that_helps(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    shutil.copytree(RESULTS / "cnn", folder)
    assert read_record(folder, name="run").summary["model"] == "cnn"
    summary = json.loads((folder / "summary.json").read_text())
    del summary["state"]  # which older versions did not write
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    with pytest.raises(InputError) as error:
        read_record(folder, name="run")
    assert f"{words}'{folder}'`" in str(error.value)


def test_corruptions_with_another_tta_than_the_recipes_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS / "resnet", tmp_path / "run")
    expected = read_record(folder, name="run", extras=[CORRUPTIONS]).evaluations[CORRUPTIONS]
    (folder / "corruptions.json").rename(folder / "corruptions-test-none.json")
    assert read_record(folder, name="run", extras=[CORRUPTIONS]).evaluations[CORRUPTIONS] == expected


def test_names_are_as_short_as_they_can_be() -> None:
    assert distinct_names([]) == []
    assert distinct_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert distinct_names([Path("/x/a"), Path("/y/a")]) == ["x/a", "y/a"]
    assert distinct_names([Path("/x/cv/fold-0"), Path("/x/a")]) == ["cv/fold-0", "a"]
    with pytest.raises(InputError, match=r"/x/y/\.\./a is given twice"):
        distinct_names([Path("/x/y/../a"), Path("/x/a")])
