"""Runs compared on the same images: every pair, their vote, seeds of one recipe, and published networks."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar.evaluation.comparable import Run
from cifar.evaluation.conclusions import conclude
from cifar.evaluation.metrics import mean_interval, wilson_interval
from cifar.evaluation.paired import CONFIDENCE, NUM_RESAMPLES, compare_pair, holm, majority_vote
from cifar.evaluation.published import rank_published
from cifar.evaluation.seeds import hierarchical_interval, welch
from cifar.recipes import Recipe


def compare_runs(
    runs: Sequence[Run], *, seed: int = 0, published: Mapping[str, NDArray[np.int64]] | None = None
) -> dict[str, Any]:
    """All that `cifar compare` says, JSON-ready.

    Each interval has a bootstrap generator of its own with the same seed, so that it is the same whichever runs stand
    beside it.

    Args:
        runs: comparable ones (`comparable.read_runs`).
        seed: of the bootstraps.
        published: predicted classes of other models, int64 [N] each, on the same images (`published.read_published`).
    """
    first, several = runs[0], len(runs) > 1
    result: dict[str, Any] = {
        "data": first.data,
        "data_sha256": first.data_sha256,
        "split": first.split,
        "num_images": len(first.labels),
        "confidence": CONFIDENCE,
        "bootstrap": {"seed": seed, "num_resamples": NUM_RESAMPLES, "interval": "percentile"},
        "runs": [describe_run(run) for run in runs],
        "pairs": compare_pairs(runs, seed=seed),
        "majority": describe_majority(runs) if several else None,
        **compare_recipes(runs, seed=seed),
        "published": [
            {"run": run.name, **rank_published(run.predicted, run.labels, published, seed=seed)} for run in runs
        ]
        if published
        else None,
    }
    return result | {"conclusions": conclude(result)}


def describe_run(run: Run) -> dict[str, Any]:
    """A run's own figures."""
    num_correct = int(run.hits.sum())
    return {
        "run": run.name,
        "folder": str(run.folder),
        "model": run.recipe.model,
        "seed": run.recipe.seed,
        "views": run.views,
        "test_readings": run.num_readings,
        "num_correct": num_correct,
        "accuracy": num_correct / len(run.labels),
        "interval": list(wilson_interval(num_correct, len(run.labels))),
    }


def compare_pairs(runs: Sequence[Run], *, seed: int) -> list[dict[str, Any]]:
    """Every pair of runs, their p values also corrected for the number of pairs (Holm)."""
    pairs = [
        {"first": first.name, "second": second.name}
        | compare_pair(first.predicted, second.predicted, first.labels, generator=np.random.default_rng(seed))
        for first, second in combinations(runs, 2)
    ]
    corrected = holm([pair["mcnemar_p"] for pair in pairs])
    return [pair | {"holm_p": p} for pair, p in zip(pairs, corrected, strict=True)]


def describe_majority(runs: Sequence[Run]) -> dict[str, Any]:
    """Accuracy of the vote of all runs."""
    voted, num_ties = majority_vote(np.stack([run.probs for run in runs]))
    num_correct, num_images = int((voted == runs[0].labels).sum()), len(voted)
    interval = list(wilson_interval(num_correct, num_images))
    return {"accuracy": num_correct / num_images, "interval": interval, "num_ties": num_ties}


def group_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs whose recipes are equal but for the seed, and whose views are equal; in the order of their first runs."""
    groups: dict[tuple[Recipe, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((dataclasses.replace(run.recipe, seed=0), run.views), []).append(run)
    return list(groups.values())


def compare_recipes(runs: Sequence[Run], *, seed: int) -> dict[str, Any]:
    """`recipes`: mean, standard deviation and interval over the seeds of each; `recipe_pairs`: whether two differ.

    A seed that is there twice counts once, by its first run: the other is no new draw. Pairs are those of recipes with
    two seeds or more.
    """
    recipes, hits = [], {}
    groups = group_seeds(runs)
    models = [group[0].recipe.model for group in groups]
    for group, model in zip(groups, models, strict=True):
        name = model if models.count(model) == 1 else f"{model} ({group[0].name})"
        by_seed = {run.recipe.seed: run for run in reversed(group)}
        members = [run for run in group if by_seed[run.recipe.seed] is run]
        mean, std, interval = mean_interval([float(run.hits.mean()) for run in members])
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
            "interval": list(interval) if several else None,
        })  # fmt: skip
    return {"recipes": recipes, "recipe_pairs": compare_recipe_pairs(hits, seed=seed)}


def compare_recipe_pairs(hits: Mapping[str, NDArray[np.bool_]], *, seed: int) -> list[dict[str, Any]]:
    """Welch's test and the hierarchical bootstrap for every pair; hits bool [S, N] by recipe."""
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
