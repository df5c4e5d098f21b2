"""Runs read from their folders: what may be compared, what is refused and in which words, and all figures together."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_probs, make_run
from numpy.typing import NDArray

from cifar.errors import InputError, WorldError
from cifar.evaluation.comparable import Run, check_comparable, check_whole_test, read_run, read_runs
from cifar.evaluation.compare import compare_runs, group_seeds
from cifar.evaluation.metrics import mean_interval
from cifar.recipes import Recipe, cnn, resnet

Labels = NDArray[np.int64]


@pytest.fixture
def labels() -> Labels:
    return np.random.default_rng(0).integers(0, 10, 200)


@pytest.fixture
def folders(tmp_path: Path, labels: Labels) -> list[Path]:
    """Three seeds of a good recipe and two of a bad one."""
    good = [
        make_run(tmp_path / f"good-{n}", labels, make_probs(labels, 0.9, seed=n), seed=n, recipe=resnet())
        for n in range(3)
    ]
    return good + [make_run(tmp_path / f"bad-{n}", labels, make_probs(labels, 0.6, seed=n), seed=n) for n in range(2)]


def test_a_run_is_what_its_folder_holds(folders: list[Path], labels: Labels) -> None:
    run = read_run(folders[1], name="one")
    assert (run.name, run.data, run.split, run.views) == ("one", "SAMPLE OF CIFAR-10", "test", "none")
    assert (run.recipe, run.num_readings) == (dataclasses.replace(resnet(), seed=1), 1)
    assert np.array_equal(run.probs, make_probs(labels, 0.9, seed=1))
    assert np.array_equal(run.hits, run.probs.argmax(axis=1) == labels)
    assert 0.8 < run.hits.mean() < 1


def test_all_figures_together(folders: list[Path]) -> None:
    runs = read_runs(folders)
    result = compare_runs(runs, seed=1)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [len(result[key]) for key in ("runs", "pairs", "recipes", "recipe_pairs")] == [5, 10, 2, 1]
    assert result["published"] is None
    for row, run in zip(result["runs"], runs, strict=True):
        assert row["accuracy"] == pytest.approx(run.hits.mean())
        assert row["interval"][0] < row["accuracy"] < row["interval"][1]
    by_name = {run.name: run for run in runs}
    for pair in result["pairs"]:
        first, second = by_name[pair["first"]], by_name[pair["second"]]
        assert pair["difference"] == pytest.approx(first.hits.mean() - second.hits.mean())
        assert pair["mcnemar_p"] <= pair["holm_p"] <= 10 * pair["mcnemar_p"] + 1e-12
    good, bad = result["recipes"]
    mean, std, interval = mean_interval([float(run.hits.mean()) for run in runs[:3]])
    assert (good["mean"], good["std"], tuple(good["interval"])) == (mean, std, interval)
    assert (good["seeds"], bad["seeds"]) == ([0, 1, 2], [0, 1])
    pair = result["recipe_pairs"][0]
    assert (pair["first"], pair["second"]) == ("resnet20", "cnn")
    assert pair["difference"] == pytest.approx(good["mean"] - bad["mean"])
    low, high = pair["hierarchical_interval"]
    assert 0 < low < pair["difference"] < high
    assert result["majority"]["accuracy"] > bad["mean"]


def test_a_pair_has_the_same_interval_whoever_stands_beside_it(folders: list[Path]) -> None:
    runs = read_runs(folders)
    alone = compare_runs([runs[0], runs[4]], seed=5)["pairs"][0]
    among = next(p for p in compare_runs(runs, seed=5)["pairs"] if (p["first"], p["second"]) == ("good-0", "bad-1"))
    assert alone == among | {"holm_p": alone["holm_p"]}
    assert compare_runs([runs[0], runs[4]], seed=6)["pairs"][0]["interval"] != alone["interval"]


def test_seeds_are_grouped_by_all_else_of_the_recipe(folders: list[Path]) -> None:
    runs = read_runs(folders)
    assert [[run.name for run in group] for group in group_seeds(runs)] == [
        ["good-0", "good-1", "good-2"], ["bad-0", "bad-1"],
    ]  # fmt: skip
    longer = dataclasses.replace(runs[1], recipe=dataclasses.replace(runs[1].recipe, epochs=51))
    other_views = dataclasses.replace(runs[2], views="mirror")
    assert len(group_seeds([runs[0], longer, other_views])) == 3
    names = [recipe["recipe"] for recipe in compare_runs([runs[0], longer, runs[4]])["recipes"]]
    assert names == ["resnet20 (good-0)", "resnet20 (good-1)", "cnn"]


def test_a_seed_counts_once(folders: list[Path]) -> None:
    runs = read_runs(folders[:3])
    again = dataclasses.replace(runs[0], name="again")
    result = compare_runs([*runs, again])
    assert result["recipes"][0]["runs"] == ["good-0", "good-1", "good-2"]
    assert result["recipes"][0]["repeats"] == ["again"]
    assert any("again" in sentence and "left out" in sentence for sentence in result["conclusions"])
    copies = compare_runs([runs[0], again])
    assert (copies["recipes"][0]["std"], copies["recipes"][0]["interval"]) == (None, None)
    pair = copies["pairs"][0]
    assert (pair["difference"], pair["interval"], pair["mcnemar_p"], pair["agreement"]) == (0, [0, 0], 1, 1)


def test_runs_without_any_error_have_no_overlap(folders: list[Path], labels: Labels) -> None:
    right = np.eye(10, dtype=np.float32)[labels]
    runs = [dataclasses.replace(run, probs=right) for run in read_runs(folders)]
    result = compare_runs(runs)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["pairs"][0]["error_overlap"] is None
    assert result["recipe_pairs"][0]["welch"] == {
        "difference": 0, "interval": None, "p": None, "holm_p": None, "degrees_of_freedom": None,
    }  # fmt: skip
    assert any("says nothing" in sentence for sentence in result["conclusions"])


@pytest.mark.parametrize("changes, words", [
    ({"data_sha256": "f" * 64, "data": "CIFAR-10"}, "other was evaluated on CIFAR-10 (sha256 ffffffff…), good-0 on SA"),
    ({"split": "validation"}, "other was evaluated on its validation images, good-0 on its test images"),
    ({"few": 100}, "other has predictions for 100 images, good-0 for 200"),
    ({"labels": np.zeros(200, dtype=np.int64)}, "other has other labels in its predictions.npz than good-0"),
])  # fmt: skip
def test_what_differs_is_named(changes: dict[str, object], words: str, folders: list[Path]) -> None:
    runs = read_runs(folders[:2])
    if few := changes.pop("few", 0):
        assert isinstance(few, int)
        changes = {"probs": runs[1].probs[:few], "labels": runs[1].labels[:few]}
    other = dataclasses.replace(runs[1], name="other", **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        check_comparable([runs[0], runs[1], other])
    assert words in str(error.value)
    assert "good-1" not in str(error.value)
    check_comparable(runs)


@pytest.mark.parametrize("one, other, words", [
    ({"split_seed": 1}, {}, "split_seed 1) than first (validation_fraction 0.1, split_seed 0)"),
    ({"validation_fraction": 0.2}, {}, "validation_fraction 0.2"),
    ({"num_folds": 5, "fold": 1}, {"num_folds": 5}, "fold 1, split_seed 0) than first (num_folds 5, fold 0, split_s"),
    ({"num_folds": 5}, {}, "num_folds 5"),
    ({"num_folds": 5, "validation_fraction": 0.2}, {"num_folds": 5}, ""),
    ({"seed": 3, "epochs": 2, "model": "resnet20"}, {}, ""),
])  # fmt: skip
def test_other_validation_images_are_refused_and_matter_only_there(
    one: dict[str, object], other: dict[str, object], words: str, folders: list[Path]
) -> None:
    def with_recipe(run: Run, changes: dict[str, object], split: str) -> Run:
        recipe: Recipe = dataclasses.replace(cnn(), **changes)  # type: ignore[arg-type]
        return dataclasses.replace(run, recipe=recipe, split=split)

    first, second = (dataclasses.replace(read_run(folder, name=folder.name)) for folder in folders[:2])
    first = dataclasses.replace(first, name="first")
    check_comparable([with_recipe(first, other, "test"), with_recipe(second, one, "test")])
    runs = [with_recipe(first, other, "validation"), with_recipe(second, one, "validation")]
    if not words:
        check_comparable(runs)
        return
    with pytest.raises(InputError) as error:
        check_comparable(runs)
    assert words in str(error.value)


def test_folders_that_cannot_be_read(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        read_runs([folders[0], folders[1], tmp_path / "good-1" / ".." / "good-0"])
    with pytest.raises(InputError, match="not a run folder"):
        read_runs([folders[0], tmp_path])
    (folders[0] / "predictions.npz").write_bytes(b"PK damaged")
    with pytest.raises(WorldError, match=r"predictions.npz is damaged: make it with `cifar evaluate .*good-0` anew"):
        read_runs(folders)
    (folders[0] / "predictions.npz").unlink()
    with pytest.raises(WorldError, match=r"has no predictions.npz: make it with `cifar evaluate .*good-0`"):
        read_runs(folders)
    evaluation = json.loads((folders[1] / "evaluation.json").read_text())
    (folders[1] / "evaluation.json").write_text(json.dumps(evaluation | {"split": "validation"}))
    with pytest.raises(WorldError, match="two evaluations"):
        read_runs(folders[1:])
    (folders[2] / "crossval.json").write_text("{}")
    with pytest.raises(InputError, match="fold-0"):
        read_runs(folders[2:])


def test_two_folders_of_one_name_are_told_by_their_paths(tmp_path: Path, labels: Labels) -> None:
    paths = [make_run(tmp_path / place / "run", labels, make_probs(labels, 0.9, seed=0)) for place in "ab"]
    assert [run.name for run in read_runs(paths)] == [str(path) for path in paths]


def test_published_networks_are_for_the_whole_test_split(tmp_path: Path, labels: Labels) -> None:
    run = read_run(make_run(tmp_path / "run", labels, make_probs(labels, 0.9, seed=0), data="CIFAR-10"), name="run")
    check_whole_test(run)
    for changes in ({"split": "validation"}, {"data_sha256": "0" * 64}):
        with pytest.raises(InputError, match="--published"):
            check_whole_test(dataclasses.replace(run, **changes))  # type: ignore[arg-type]
