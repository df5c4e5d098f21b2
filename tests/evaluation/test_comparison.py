"""Which runs may be compared, what is refused and in which words, and all figures together."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_probs
from numpy.typing import NDArray

from cifar.errors import InputError
from cifar.evaluation.comparison import EvaluatedRun, check_comparable, compare_runs, group_seeds
from cifar.evaluation.intervals import mean_interval
from cifar.evaluation.seeds import mean_accuracy_interval
from cifar.recipes import Recipe, cnn, resnet, with_fields

Labels = NDArray[np.int64]


@pytest.fixture
def labels() -> Labels:
    return np.random.default_rng(0).integers(0, 10, 200)


@pytest.fixture
def runs(labels: Labels) -> list[EvaluatedRun]:
    """Three seeds of a good recipe and two of a bad one."""

    def evaluated(name: str, fraction: float, recipe: Recipe, seed: int) -> EvaluatedRun:
        probs = make_probs(labels, fraction, seed=seed)
        recipe = with_fields(recipe, seed=seed)
        return EvaluatedRun(f"{name}-{seed}", Path(name), recipe, "SAMPLE", "5" * 64, "test", "none", 1, probs, labels)

    good = [evaluated("good", 0.9, resnet(), seed) for seed in range(3)]
    return good + [evaluated("bad", 0.6, cnn(), seed) for seed in range(2)]


def test_hits_are_the_images_whose_top_class_is_the_label(runs: list[EvaluatedRun], labels: Labels) -> None:
    run = runs[1]
    assert run.predicted.tolist() == [row.index(max(row)) for row in run.probs.tolist()]
    assert run.hits.tolist() == [predicted == label for predicted, label in zip(run.predicted, labels, strict=True)]
    assert 0.8 < run.hits.mean() < 1


def test_compare_runs_gives_all_figures_together(runs: list[EvaluatedRun]) -> None:
    result = compare_runs(runs, seed=1)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [len(result[key]) for key in ("runs", "pairs", "recipes", "recipe_pairs")] == [5, 10, 2, 1]
    for row, run in zip(result["runs"], runs, strict=True):
        assert row["accuracy"] == pytest.approx(run.hits.mean())
        assert row["interval"][0] < row["accuracy"] < row["interval"][1]
    by_name = {run.name: run for run in runs}
    for pair in result["pairs"]:
        first, second = by_name[pair["first"]], by_name[pair["second"]]
        assert pair["difference"] == pytest.approx(first.hits.mean() - second.hits.mean())
        assert pair["mcnemar_p"] <= pair["holm_p"] <= 10 * pair["mcnemar_p"] + 1e-12
    good, bad = result["recipes"]
    mean, std, _ = mean_interval([float(run.hits.mean()) for run in runs[:3]])
    interval = mean_accuracy_interval(np.stack([run.hits for run in runs[:3]]))
    assert (good["mean"], good["std"], tuple(good["interval"])) == (mean, std, interval)
    assert (good["seeds"], bad["seeds"]) == ([0, 1, 2], [0, 1])
    pair = result["recipe_pairs"][0]
    assert (pair["first"], pair["second"]) == ("resnet20", "cnn")
    assert pair["difference"] == pytest.approx(good["mean"] - bad["mean"])
    low, high = pair["hierarchical_interval"]
    assert 0 < low < pair["difference"] < high
    assert result["majority"]["accuracy"] > bad["mean"]


def test_the_interval_of_a_pair_does_not_depend_on_other_runs(runs: list[EvaluatedRun]) -> None:
    alone = compare_runs([runs[0], runs[4]], seed=5)["pairs"][0]
    among = next(p for p in compare_runs(runs, seed=5)["pairs"] if (p["first"], p["second"]) == ("good-0", "bad-1"))
    assert alone == among | {"holm_p": alone["holm_p"]}
    assert compare_runs([runs[0], runs[4]], seed=6)["pairs"][0]["interval"] != alone["interval"]


def test_seeds_are_grouped_by_the_rest_of_the_recipe(runs: list[EvaluatedRun]) -> None:
    assert [[run.name for run in group] for group in group_seeds(runs)] == [
        ["good-0", "good-1", "good-2"], ["bad-0", "bad-1"],
    ]  # fmt: skip
    longer = dataclasses.replace(runs[1], recipe=with_fields(runs[1].recipe, epochs=51))
    other_views = dataclasses.replace(runs[2], views="mirror")
    assert len(group_seeds([runs[0], longer, other_views])) == 3
    names = [recipe["recipe"] for recipe in compare_runs([runs[0], longer, runs[4]])["recipes"]]
    assert names == ["resnet20 (good-0)", "resnet20 (good-1)", "cnn"]


def test_a_seed_counts_once(runs: list[EvaluatedRun]) -> None:
    runs = runs[:3]
    again = dataclasses.replace(runs[0], name="again")
    result = compare_runs([*runs, again])
    assert result["recipes"][0]["runs"] == ["good-0", "good-1", "good-2"]
    assert result["recipes"][0]["repeats"] == ["again"]
    assert any("again" in sentence and "left out" in sentence for sentence in result["conclusions"])
    copies = compare_runs([runs[0], again])
    assert (copies["recipes"][0]["std"], copies["recipes"][0]["interval"]) == (None, None)
    pair = copies["pairs"][0]
    assert (pair["difference"], pair["interval"], pair["mcnemar_p"], pair["agreement"]) == (0, [0, 0], 1, 1)


def test_recipes_of_one_network_are_named_by_the_folders_of_their_runs(runs: list[EvaluatedRun]) -> None:
    low, high = (with_fields(resnet(), lr=lr) for lr in (0.1, 0.2))

    def named(*places: tuple[str, Recipe, int]) -> list[str]:
        moved = [
            dataclasses.replace(run, folder=Path(place) / run.name, recipe=with_fields(recipe, seed=seed))
            for run, (place, recipe, seed) in zip(runs, places, strict=False)
        ]
        return [recipe["recipe"] for recipe in compare_runs(moved)["recipes"]]

    assert named(("a", low, 0), ("a", low, 1), ("b", high, 0)) == ["resnet20 (a)", "resnet20 (b)"]
    assert named(("a", low, 0), ("a", low, 1), ("a", high, 0)) == ["resnet20 (good-0)", "resnet20 (good-2)"]
    assert named(("a", low, 0), ("b", low, 1), ("c", high, 0)) == ["resnet20 (good-0)", "resnet20 (good-2)"]
    assert named(("a", low, 0), ("b", low, 1)) == ["resnet20"]


def test_runs_without_any_error_have_no_overlap(runs: list[EvaluatedRun], labels: Labels) -> None:
    right = np.eye(10, dtype=np.float32)[labels]
    result = compare_runs([dataclasses.replace(run, probs=right) for run in runs])
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
    ({"labels": np.zeros(200, dtype=np.int64)}, "other has other labels beside its predictions than good-0"),
])  # fmt: skip
def test_the_difference_of_incomparable_runs_is_named(
    changes: dict[str, object], words: str, runs: list[EvaluatedRun]
) -> None:
    if few := changes.pop("few", 0):
        assert isinstance(few, int)
        changes = {"probs": runs[1].probs[:few], "labels": runs[1].labels[:few]}
    other = dataclasses.replace(runs[1], name="other", **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        check_comparable([runs[0], runs[1], other])
    assert words in str(error.value)
    assert "good-1" not in str(error.value)
    check_comparable(runs)


@pytest.mark.parametrize("fields, first_fields, words", [
    ({"split_seed": 1}, {}, "split_seed 1) than first (validation_fraction 0.1, split_seed 0)"),
    ({"validation_fraction": 0.2}, {}, "validation_fraction 0.2"),
    ({"num_folds": 5, "fold": 1}, {"num_folds": 5}, "fold 1, split_seed 0) than first (num_folds 5, fold 0, split_s"),
    ({"num_folds": 5}, {}, "num_folds 5"),
    ({"num_folds": 5, "validation_fraction": 0.2}, {"num_folds": 5}, ""),
    ({"seed": 3, "epochs": 2, "model": "resnet20"}, {}, ""),
])  # fmt: skip
def test_other_validation_images_are_refused_on_the_validation_split_only(
    fields: dict[str, object], first_fields: dict[str, object], words: str, runs: list[EvaluatedRun]
) -> None:
    recipes = [with_fields(cnn(), **first_fields), with_fields(cnn(), **fields)]
    first, second = (dataclasses.replace(run, recipe=recipe) for run, recipe in zip(runs, recipes, strict=False))
    first = dataclasses.replace(first, name="first")
    check_comparable([first, second])
    on_validation = [dataclasses.replace(run, split="validation") for run in (first, second)]
    if not words:
        check_comparable(on_validation)
        return
    with pytest.raises(InputError) as error:
        check_comparable(on_validation)
    assert words in str(error.value)
