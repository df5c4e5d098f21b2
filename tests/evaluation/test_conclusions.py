"""The words of a comparison: which is better and whether that is certain, in every case and both ways round."""

from typing import Any

import pytest

from cifar.evaluation.conclusions import conclude, p_words, points, points_range, verdict


def pair(first: str, second: str, difference: float, p: float, *, half: float = 0.006) -> dict[str, Any]:
    interval = [difference - half, difference + half]
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "interval": interval,
        "mcnemar_p": p,
        "holm_p": p,
    }


def comparison(pairs: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    names = list(dict.fromkeys(name for each in pairs for name in (each["first"], each["second"])))
    return {
        "split": "test",
        "num_images": 10_000,
        "runs": [{"run": name, "accuracy": 0.9 - rank / 100, "views": "none"} for rank, name in enumerate(names)],
        "pairs": pairs,
        "recipes": [{"recipe": name, "seeds": [0], "repeats": []} for name in names],
        "recipe_pairs": [],
    } | parts


@pytest.mark.parametrize("swapped", [False, True])
def test_two_runs_give_the_same_sentence_in_either_order(swapped: bool) -> None:
    better_first, worse_first = pair("resnet", "quick", 0.0315, 1e-9), pair("quick", "resnet", -0.0315, 1e-9)
    assert conclude(comparison([worse_first if swapped else better_first])) == [
        "resnet is better than quick by 3.15 points, 95 % interval 2.55 to 3.75, McNemar p < 0.001 (paired over 10,000 "
        "test images; one seed each, so the luck of the seed is not in it)."
    ]


@pytest.mark.parametrize("seeds, threads, words", [
    ((0, 1), (2, 2), "two runs of one recipe, so this is the luck of the seed"),
    ((0, 1), (2, 4), "two runs of one recipe, so this is the luck of the seed"),
    ((0, 0), (2, 4), "one recipe and seed, computed otherwise: threads)"),
    ((0, 0), (2, 2), "one recipe and seed, computed alike as far as is recorded"),
])  # fmt: skip
def test_two_runs_of_one_recipe_are_called_that(seeds: tuple[int, int], threads: tuple[int, int], words: str) -> None:
    """The same seed on another machine is not another seed."""
    runs = [
        {"run": name, "accuracy": 0.9, "views": "none", "seed": seed, "computed": {"threads": number, "commit": "abc"}}
        for name, seed, number in zip("ab", seeds, threads, strict=True)
    ]
    recipes = [{"recipe": "cnn", "seeds": sorted(set(seeds)), "repeats": []}]
    (sentence,) = conclude(comparison([pair("a", "b", 0.001, 0.4)], recipes=recipes, runs=runs))
    assert "a and b cannot be told apart: a leads by 0.10 points" in sentence
    assert words in sentence


@pytest.mark.parametrize("difference, p, words", [
    (0.01, 0.001, "a is better than b by 1.00 points"),
    (-0.01, 0.001, "b is better than a by 1.00 points"),
    (0.01, 0.05, "on the edge"),  # the interval excludes 0, p does not say so
    (0.001, 0.049, "on the edge"),
    (0.001, 0.8, "a and b cannot be told apart"),
    (0.0, 1.0, "a and b cannot be told apart: a leads by 0.00 points"),
])  # fmt: skip
def test_verdict_needs_both_p_and_interval(difference: float, p: float, words: str) -> None:
    assert words in verdict(pair("a", "b", difference, p), p=p)


def test_the_best_of_several_runs_is_named_with_those_behind() -> None:
    pairs = [pair("a", "b", 0.01, 0.001), pair("a", "c", 0.02, 0.2), pair("b", "c", 0.01, 0.0)]
    (sentence,) = conclude(comparison(pairs))
    assert sentence.startswith("a is ahead: it is better than b and cannot be told apart from c (")
    assert "corrected for 3 pairs" in sentence


def test_unequal_tta_is_named() -> None:
    runs = [{"run": "a", "accuracy": 0.9, "views": "mirror"}, {"run": "b", "accuracy": 0.89, "views": "none"}]
    sentences = conclude(comparison([pair("a", "b", 0.01, 0.001)], runs=runs))
    assert len(sentences) == 2
    assert "a is better" in sentences[0]
    assert sentences[1].startswith("Test-time augmentation differs (a mirror, b none)")


def recipe_pair(p: float | None, interval: list[float], *, holm_p: float | None = None) -> dict[str, Any]:
    welch = {"p": p, "holm_p": p if holm_p is None else holm_p, "interval": [-0.03, -0.01] if p is not None else None}
    return {"first": "a", "second": "b", "difference": -0.02, "welch": welch, "hierarchical_interval": interval}


@pytest.mark.parametrize("welch_pair, words, absent", [
    (recipe_pair(0.004, [-0.035, -0.005]),
     "b (2 seeds) is better than a (3 seeds) by 2.00 points in the mean; Welch's 95 % interval over the seeds 1.00 to "
     "3.00, p = 0.004; over seeds and images 0.50 to 3.50.", "contains 0"),
    (recipe_pair(0.004, [-0.045, 0.005]), "over seeds and images -0.50 to 4.50, which contains 0.", "corrected"),
    (recipe_pair(0.02, [-0.035, -0.005], holm_p=0.06), "p = 0.020, p = 0.060 corrected", "is better than b by"),
    (recipe_pair(None, [-0.035, -0.005]), "Welch's test says nothing", "p ="),
])  # fmt: skip
def test_recipes_are_told_apart_by_seeds_and_by_images(welch_pair: dict[str, Any], words: str, absent: str) -> None:
    recipes = [
        {"recipe": "a", "seeds": [0, 1, 2], "repeats": []},
        {"recipe": "b", "seeds": [0, 1], "repeats": []},
        {"recipe": "c", "seeds": [0], "repeats": []},
    ]
    sentences = conclude(comparison([pair("x", "y", 0.01, 0.1)], recipes=recipes, recipe_pairs=[welch_pair]))
    assert words in sentences[1]
    assert absent not in sentences[1]
    assert sentences[2] == "One seed only, so nothing is said of the recipe: c."


def test_figures_are_rounded_and_signed() -> None:
    assert [p_words(p) for p in (0, 0.0009, 0.001, 0.0344, 1)] == [
        "p < 0.001", "p < 0.001", "p = 0.001", "p = 0.034", "p = 1.000",
    ]  # fmt: skip
    assert [points(value) for value in (-0.00001, 0.0315, -0.0315)] == ["0.00", "3.15", "-3.15"]
    assert points_range([-0.01, 0.02], sign=True) == "-1.00 to +2.00"
    assert points(0, sign=True) == "0.00"
