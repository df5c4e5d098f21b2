"""Runs compared on the same images: what may be compared, every pair, their vote, and seeds of one recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar.errors import InputError
from cifar.evaluation.conclusions import conclude
from cifar.evaluation.intervals import mean_interval, wilson_interval
from cifar.evaluation.paired import CONFIDENCE, NUM_RESAMPLES, compare_pair, holm, majority_vote
from cifar.evaluation.seeds import hierarchical_interval, mean_accuracy_interval, welch
from cifar.recipes import Recipe, with_fields


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run with the predictions of its last evaluation.

    Attributes:
        name: unlike every other's.
        folder: where the run lies.
        recipe: its recipe.
        data, data_sha256: name and checksum of the data set that it was evaluated on.
        split: test or validation.
        views: of the evaluation's test-time augmentation.
        num_test_evaluations: how often the run has been evaluated on the test split so far.
        probs: float32 [N, 10], in the original order of the images.
        labels: int64 [N].
        computed: how and where it was trained: what besides recipe and seed decides its bits.
    """

    name: str
    folder: Path
    recipe: Recipe
    data: str
    data_sha256: str
    split: str
    views: str
    num_test_evaluations: int
    probs: NDArray[np.float32]
    labels: NDArray[np.int64]
    computed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Top-1 classes, int64 [N]."""
        return np.asarray(self.probs.argmax(axis=1), dtype=np.int64)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each top-1 class is the label, bool [N]."""
        return np.asarray(self.predicted == self.labels)


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Refuse runs that were not evaluated on the same images.

    Args:
        runs: one or more.

    Raises:
        InputError: says which runs differ from the first, and in what.
    """
    first = runs[0]
    clauses = [f"{run.name} {difference}" for run in runs[1:] if (difference := difference_from(run, first))]
    if clauses:
        raise InputError(
            f"Runs are compared on the same images only, and {'; '.join(clauses)}: evaluate them on one split of one "
            "data set, or leave out what differs."
        )


def difference_from(run: EvaluatedRun, first: EvaluatedRun) -> str:
    """Return how the images of a run differ from those of another, as the end of a sentence; "" where they do not."""
    if run.data_sha256 != first.data_sha256:
        data, other = (f"{each.data} (sha256 {each.data_sha256[:8]}…)" for each in (run, first))
        return f"was evaluated on {data}, {first.name} on {other}"
    if run.split != first.split:
        return f"was evaluated on its {run.split} images, {first.name} on its {first.split} images"
    fields, expected = holdout_fields(run.recipe), holdout_fields(first.recipe)
    if run.split == "validation" and fields != expected:
        return f"held out other validation images ({as_words(fields)}) than {first.name} ({as_words(expected)})"
    if len(run.labels) != len(first.labels):
        return f"has predictions for {len(run.labels):,} images, {first.name} for {len(first.labels):,}"
    if not np.array_equal(run.labels, first.labels):
        return f"has other labels beside its predictions than {first.name}"
    return ""


def holdout_fields(recipe: Recipe) -> dict[str, float]:
    """Return the fields of a recipe that decide which training images are held out."""
    holdout = recipe.holdout
    if holdout.num_folds:
        return {"num_folds": holdout.num_folds, "fold": holdout.fold, "split_seed": holdout.split_seed}
    return {"validation_fraction": holdout.validation_fraction, "split_seed": holdout.split_seed}


def as_words(fields: Mapping[str, float]) -> str:
    """Return fields with their values, for a sentence."""
    return ", ".join(f"{name} {value:g}" for name, value in fields.items())


def compare_runs(runs: Sequence[EvaluatedRun], *, seed: int = 0) -> dict[str, Any]:
    """Return all that is said of runs on the same images.

    Each interval has a bootstrap generator of its own with the same seed, so that it does not depend on which other
    runs are compared.

    Args:
        runs: one or more, comparable (`check_comparable`).
        seed: of the bootstraps.

    Returns:
        JSON-ready: data, runs, pairs, majority, recipes, recipe_pairs and conclusions (sentences).
    """
    first = runs[0]
    result: dict[str, Any] = {
        "data": first.data,
        "data_sha256": first.data_sha256,
        "split": first.split,
        "num_images": len(first.labels),
        "confidence": CONFIDENCE,
        "bootstrap": {"seed": seed, "num_resamples": NUM_RESAMPLES, "interval": "percentile"},
        "runs": [describe_run(run) for run in runs],
        "pairs": compare_pairs(runs, seed=seed),
        "majority": describe_majority(runs) if len(runs) > 1 else None,
        **compare_recipes(runs, seed=seed),
    }
    return result | {"conclusions": conclude(result)}


def describe_run(run: EvaluatedRun) -> dict[str, Any]:
    """Return a run's own figures, JSON-ready."""
    num_correct = int(run.hits.sum())
    return {
        "run": run.name,
        "folder": str(run.folder),
        "model": run.recipe.model,
        "seed": run.recipe.seed,
        "views": run.views,
        "test_readings": run.num_test_evaluations,
        "computed": dict(run.computed),
        "num_correct": num_correct,
        "accuracy": num_correct / len(run.labels),
        "interval": list(wilson_interval(num_correct, len(run.labels))),
    }


def compare_pairs(runs: Sequence[EvaluatedRun], *, seed: int) -> list[dict[str, Any]]:
    """Return every pair of runs, their p values also corrected for the number of pairs (Holm), JSON-ready."""
    pairs = [
        {"first": first.name, "second": second.name}
        | compare_pair(first.predicted, second.predicted, first.labels, generator=np.random.default_rng(seed))
        for first, second in combinations(runs, 2)
    ]
    corrected = holm([pair["mcnemar_p"] for pair in pairs])
    return [pair | {"holm_p": p} for pair, p in zip(pairs, corrected, strict=True)]


def describe_majority(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Return the accuracy of the vote of all runs, with its interval and the number of ties, JSON-ready."""
    voted, num_ties = majority_vote(np.stack([run.probs for run in runs]))
    num_correct, num_images = int((voted == runs[0].labels).sum()), len(voted)
    interval = list(wilson_interval(num_correct, num_images))
    return {"accuracy": num_correct / num_images, "interval": interval, "num_ties": num_ties}


def group_seeds(runs: Sequence[EvaluatedRun]) -> list[list[EvaluatedRun]]:
    """Return runs whose recipes differ in the seed only and whose views are equal, in the order of their first runs."""
    groups: dict[tuple[Recipe, str], list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault((with_fields(run.recipe, seed=0), run.views), []).append(run)
    return list(groups.values())


def compare_recipes(runs: Sequence[EvaluatedRun], *, seed: int) -> dict[str, Any]:
    """Return `recipes`: mean, standard deviation over seeds, interval over seeds and images; `recipe_pairs`: tests.

    A seed that occurs twice counts once, by its first run: the other is no new draw. Pairs are those of recipes with
    two seeds or more.

    Args:
        runs: one or more, comparable.
        seed: of the bootstraps.
    """
    recipes, hits = [], {}
    groups = group_seeds(runs)
    for group, name in zip(groups, recipe_names(groups), strict=True):
        by_seed = {run.recipe.seed: run for run in reversed(group)}
        members = [run for run in group if by_seed[run.recipe.seed] is run]
        mean, std, _ = mean_interval([float(run.hits.mean()) for run in members])
        several = len(members) > 1
        if several:
            hits[name] = np.stack([run.hits for run in members])
        recipes.append({
            "recipe": name,
            "runs": [run.name for run in members],
            "seeds": [run.recipe.seed for run in members],
            "repeats": [run.name for run in group if run not in members],
            "mean": mean,
            "std": std if several else None,
            "interval": list(mean_accuracy_interval(hits[name])) if several else None,
        })  # fmt: skip
    return {"recipes": recipes, "recipe_pairs": compare_recipe_pairs(hits, seed=seed)}


def recipe_names(groups: Sequence[Sequence[EvaluatedRun]]) -> list[str]:
    """Return a name for each group of seeds: its network's; of several also the folder of its runs, or its first run.

    The folder tells where each group has one of its own, as studies do.
    """
    models = [group[0].recipe.model for group in groups]
    parents = [{run.folder.resolve().parent.name for run in group} for group in groups]
    apart = all(map(len, parents)) and len(set.union(*parents)) == len(groups) == sum(map(len, parents))
    return [
        model if models.count(model) == 1 else f"{model} ({folder if apart else group[0].name})"
        for group, model, (folder, *_) in zip(groups, models, parents, strict=True)
    ]


def compare_recipe_pairs(hits: Mapping[str, NDArray[np.bool_]], *, seed: int) -> list[dict[str, Any]]:
    """Return Welch's test and the hierarchical bootstrap for every pair of recipes, JSON-ready.

    Args:
        hits: bool [S, N] by the recipe's name, one row per seed.
        seed: of the bootstraps.
    """
    pairs = []
    for first, second in combinations(hits, 2):
        test = welch(hits[first].mean(axis=1), hits[second].mean(axis=1))
        interval = hierarchical_interval(hits[first], hits[second], generator=np.random.default_rng(seed))
        pairs.append({"first": first, "second": second, "difference": test["difference"], "welch": test,
                      "hierarchical_interval": interval.tolist()})  # fmt: skip
    # Where no accuracy varies with its seed there is no test, and p counts as 1 among the others.
    corrected = holm([1.0 if pair["welch"]["p"] is None else pair["welch"]["p"] for pair in pairs])
    for pair, p in zip(pairs, corrected, strict=True):
        pair["welch"]["holm_p"] = None if pair["welch"]["p"] is None else p
    return pairs
