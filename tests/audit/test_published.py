"""The published networks: their known accuracies from the shared copies, and ranks by a slow count."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cifar.audit.published import (
    check_whole_test,
    conclude_rank,
    rank_published,
    rank_runs,
    read_classes,
    read_published,
)
from cifar.audit.references import PUBLISHED_MODELS
from cifar.data.cache import cache_folder
from cifar.data.cifar10 import SHA256
from cifar.errors import InputError, WorldError
from cifar.evaluation.comparison import EvaluatedRun
from cifar.evaluation.paired import mcnemar_p, outcome_table
from cifar.recipes import cnn

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")
def test_published_networks_have_their_known_accuracies() -> None:
    references = cache_folder() / "references"
    references.mkdir(parents=True)
    for path in (SHARED / "published-predictions").iterdir():
        shutil.copy(path, references)
    published = read_published()
    labels = np.load(SHARED / "label-errors" / "cifar10_test_labels.npy")
    assert set(published) == set(PUBLISHED_MODELS)
    ranked = rank_published(published["resnet_basic_56"], labels, published, seed=0)
    by_name = {model["model"]: model for model in ranked["models"]}
    known = {"shake_shake_26_2x64d_SSI_cutout16": 0.9711, "wrn_28_10": 0.9593, "resnet_basic_56": 0.9330}
    assert {name: by_name[name]["accuracy"] for name in known} == pytest.approx(known)
    itself = by_name["resnet_basic_56"]
    assert (itself["difference"], itself["mcnemar_p"], itself["agreement"]) == (0, 1, 1)
    assert (ranked["rank"], ranked["num_ranked"]) == (itself["rank"], 31)
    best = ranked["models"][0]
    assert (best["model"], best["rank"]) == ("shake_shake_26_2x64d_SSI_cutout16", 1)
    table = outcome_table(published[best["model"]] == labels, published["resnet_basic_56"] == labels)
    assert best["mcnemar_p"] == mcnemar_p(table)
    assert best["interval"][0] < 0.9711 - 0.9330 < best["interval"][1]
    accuracies = [model["accuracy"] for model in ranked["models"]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_runs_are_ranked_by_name_and_each_has_a_sentence() -> None:
    labels = np.arange(10_000) % 10
    probs = np.eye(10, dtype=np.float32)[labels]
    right = EvaluatedRun("right", Path("right"), cnn(), "", "", "test", "none", 1, probs, labels)
    wrong = dataclasses.replace(right, name="wrong", probs=np.roll(probs, 1, axis=1))
    rankings = rank_runs([right, wrong], {"half": np.where(labels < 5, labels, 0)}, seed=0)
    assert [(ranking["run"], ranking["rank"]) for ranking in rankings] == [("right", 1), ("wrong", 2)]
    assert [conclude_rank(ranking).partition(" that")[0] for ranking in rankings] == [
        "right ranks 1 of 2: 0 of the published networks better, 1 worse, 0",
        "wrong ranks 2 of 2: 1 of the published networks better, 0 worse, 0",
    ]


def test_the_sentence_on_a_rank_counts_what_can_be_told_apart() -> None:
    models = [{"difference": d, "holm_p": p} for d, p in ((0.05, 0.0), (0.01, 0.3), (-0.01, 0.01), (-0.1, 0.0))]
    assert conclude_rank({"run": "mine", "rank": 3, "num_ranked": 5, "models": models}) == (
        "mine ranks 3 of 5: 1 of the published networks better, 2 worse, 1 that cannot be told apart from it "
        "(McNemar p against 0.05, corrected for 4)."
    )


def test_only_runs_on_the_whole_test_split_are_ranked() -> None:
    whole, probs = SHA256["CIFAR-10"]["all"], np.eye(10, dtype=np.float32)
    run = EvaluatedRun("run", Path("run"), cnn(), "CIFAR-10", whole, "test", "none", 1, probs, np.arange(10))
    check_whole_test(run)
    for changes in ({"split": "validation"}, {"data_sha256": "0" * 64}):
        with pytest.raises(InputError, match="--published"):
            check_whole_test(dataclasses.replace(run, **changes))  # type: ignore[arg-type]


def test_ranks_are_right_with_ties_and_at_both_ends() -> None:
    labels = np.arange(10)
    classes = {f"right-{n}": np.where(np.arange(10) < n, labels, (labels + 1) % 10) for n in (9, 7, 3)}
    classes["also-7"] = classes["right-7"]
    for hits, rank in ((10, 1), (9, 1), (8, 2), (7, 2), (3, 4), (1, 5)):
        predicted = np.where(np.arange(10) < hits, labels, (labels + 1) % 10)
        ranked = rank_published(predicted, labels, classes, seed=0)
        assert ranked["rank"] == rank, hits
        higher = {model["model"]: 1 + sum(other > model["accuracy"] for other in [hits / 10, 0.9, 0.7, 0.7, 0.3])
                  for model in ranked["models"]}  # fmt: skip
        assert {model["model"]: model["rank"] for model in ranked["models"]} == higher
        assert [model["model"] for model in ranked["models"]] == ["right-9", "also-7", "right-7", "right-3"]


@pytest.mark.parametrize(
    "content", ["", "{}", "[1, 2]", json.dumps([10] * 10_000), json.dumps([0.5] * 10_000), "[[1], 2]"]
)
def test_a_file_that_holds_no_classes_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x_predictions.json"
    path.write_text(content)
    with pytest.raises(WorldError, match="no list of 10,000 classes"):
        read_classes(path)
    path.write_text(json.dumps([0, 9] * 5_000))
    assert read_classes(path).tolist() == [0, 9] * 5_000
