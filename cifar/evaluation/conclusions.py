"""What a comparison of runs amounts to, in plain words: pure functions of what `comparison.compare_runs` returns."""

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05  # of p, that of the 95 % intervals
ONE_SEED = "one seed each, so the luck of the seed is not in it"


def conclude(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on the runs and on recipes with several seeds.

    Args:
        result: with runs, pairs, recipes, recipe_pairs, num_images and split, as of `compare_runs`.
    """
    sentences = []
    if len(result["pairs"]) == 1:
        sentences.append(conclude_pair(result))
    elif result["pairs"]:
        sentences.append(conclude_runs(result))
    sentences += [conclude_recipes(pair, result["recipes"]) for pair in result["recipe_pairs"]]
    return sentences + conclude_tta(result["runs"]) + conclude_seeds(result["recipes"])


def conclude_pair(result: Mapping[str, Any]) -> str:
    """Return which of two runs is better; the argument as of `conclude`."""
    pair = result["pairs"][0]
    luck = luck_of_one_recipe(*result["runs"]) if len(result["recipes"]) == 1 else ONE_SEED
    return (
        f"{verdict(pair, p=pair['mcnemar_p'])}, 95 % interval {points_range(signed(pair['interval'], pair))}, "
        f"McNemar {p_words(pair['mcnemar_p'])} (paired over {images(result)}; {luck})."
    )


def luck_of_one_recipe(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Return why two runs of one recipe differ: their seeds, or how they were computed.

    Args:
        first, second: items of `runs` of `compare_runs`.
    """
    if first["seed"] != second["seed"]:
        return "two runs of one recipe, so this is the luck of the seed"
    other = [name for name, value in first["computed"].items() if value != second["computed"].get(name)]
    if other:
        return f"one recipe and seed, computed otherwise: {', '.join(other)}"
    return "one recipe and seed, computed alike as far as is recorded"


def conclude_runs(result: Mapping[str, Any]) -> str:
    """Return which of several runs is ahead, and of which others; the argument as of `conclude`."""
    best = max(result["runs"], key=lambda run: run["accuracy"])["run"]
    worse: list[str] = []
    level: list[str] = []
    for pair in result["pairs"]:
        if best in (pair["first"], pair["second"]):
            other = pair["second"] if pair["first"] == best else pair["first"]
            (worse if pair["holm_p"] < LEVEL else level).append(other)
    clauses = [f"is better than {', '.join(worse)}"] * bool(worse)
    clauses += [f"cannot be told apart from {', '.join(level)}"] * bool(level)
    return (
        f"{best} is ahead: it {' and '.join(clauses)} (McNemar p against {LEVEL}, corrected for {len(result['pairs'])} "
        f"pairs; paired over {images(result)}; each run is one seed, whose luck is not in it)."
    )


def conclude_recipes(pair: Mapping[str, Any], recipes: Sequence[Mapping[str, Any]]) -> str:
    """Return whether two recipes differ, by their seeds, and by seeds and images together.

    Args:
        pair: an item of `recipe_pairs` of `compare_runs`.
        recipes: its `recipes`.
    """
    seeds = {recipe["recipe"]: f"{recipe['recipe']} ({len(recipe['seeds'])} seeds)" for recipe in recipes}
    first, second, test = seeds[pair["first"]], seeds[pair["second"]], pair["welch"]
    if test["p"] is None:
        by_seeds = "no accuracy varies with its seed, so Welch's test says nothing"
        words = f"{first} and {second}: {points(abs(pair['difference']))} points apart in the mean"
    else:
        corrected = "" if test["holm_p"] == test["p"] else f", {p_words(test['holm_p'])} corrected"
        ends = points_range(signed(test["interval"], pair))
        by_seeds = f"Welch's 95 % interval over the seeds {ends}, {p_words(test['p'])}{corrected}"
        named = {**pair, "first": first, "second": second, "interval": test["interval"]}
        words = verdict(named, p=test["holm_p"]) + " in the mean"
    both = signed(pair["hierarchical_interval"], pair)
    contains_zero = ", which contains 0" if both[0] <= 0 <= both[1] else ""
    return f"{words}; {by_seeds}; over seeds and images {points_range(both)}{contains_zero}."


def conclude_tta(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return whose test-time augmentation differs, since a difference of accuracy may be its gain.

    Args:
        runs: of `compare_runs`.
    """
    if len({run["views"] for run in runs}) == 1:
        return []
    each = ", ".join(f"{run['run']} {run['views']}" for run in runs)
    return [f"Test-time augmentation differs ({each}): a part of a difference may be its gain."]


def conclude_seeds(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the seeds at hand do not tell, where a recipe has several; the argument as of `compare_runs`."""
    single = [recipe["recipe"] for recipe in recipes if len(recipe["seeds"]) == 1]
    sentences = [
        f"{', '.join(recipe['repeats'])}: a seed that {recipe['recipe']} already has, left out of its mean."
        for recipe in recipes
        if recipe["repeats"]
    ]
    if single and len(single) < len(recipes):
        sentences.append(f"One seed only, so nothing is said of the recipe: {', '.join(single)}.")
    return sentences


def verdict(pair: Mapping[str, Any], *, p: float) -> str:
    """Return which of first and second is better and by how many points, or that the evidence leaves it open.

    Args:
        pair: first, second, difference and interval (fractions), of the first minus the second.
        p: of the test; where it and the interval disagree, the pair is on the edge.
    """
    ahead, behind = (pair["first"], pair["second"]) if pair["difference"] >= 0 else (pair["second"], pair["first"])
    by = f"{points(abs(pair['difference']))} points"
    low, high = pair["interval"]
    apart = not low <= 0 <= high
    if p < LEVEL and apart:
        return f"{ahead} is better than {behind} by {by}"
    if p >= LEVEL and not apart:
        return f"{ahead} and {behind} cannot be told apart: {ahead} leads by {by}"
    return f"Whether {ahead} is better than {behind} is on the edge: it leads by {by}"


def signed(interval: Sequence[float], pair: Mapping[str, Any]) -> tuple[float, float]:
    """Return an interval of first minus second as that of better minus worse."""
    low, high = interval
    return (low, high) if pair["difference"] >= 0 else (-high, -low)


def images(result: Mapping[str, Any]) -> str:
    """Return how many images of which split, in words."""
    return f"{result['num_images']:,} {result['split']} images"


def points(fraction: float, *, sign: bool = False) -> str:
    """Return a difference of fractions in percentage points, never -0.00; with its sign where asked."""
    value = round(100 * fraction, 2) + 0.0
    return f"{value:+.2f}" if sign and value else f"{value:.2f}"


def points_range(ends: Sequence[float], *, sign: bool = False) -> str:
    """Return both ends of an interval of differences, in points."""
    return f"{points(ends[0], sign=sign)} to {points(ends[1], sign=sign)}"


def p_words(p: float) -> str:
    """Return a p value with its relation: p < 0.001, p = 0.034."""
    return f"p {figure_of_p(p)}" if p < 0.001 else f"p = {figure_of_p(p)}"


def figure_of_p(p: float) -> str:
    """Return a p value to three decimals; a smaller one is only "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
