"""Two classifiers on the same images, and a vote of several: pure functions on arrays.

An image that both get right, or both wrong, says nothing about which is better. All evidence lies in the images that
only one of them gets right, so the two sets of hits shrink to a table of four counts: both right, only the first, only
the second, both wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 9_999  # so that (resamples + 1) · 2.5 % is a whole number
CONFIDENCE = 0.95


def compare_pair(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], *, generator: Generator
) -> dict[str, Any]:
    """Return everything that is said of two classifiers on the same images, JSON-ready.

    Args:
        first, second: predicted classes, int64 [N].
        labels: int64 [N].
        generator: of the bootstrap.

    Returns:
        difference: accuracy of the first minus that of the second, a fraction, with its interval (`paired_interval`);
        the four counts; mcnemar_p; agreement: fraction of images on which both predict the same class, right or wrong;
        error_overlap: see there.
    """
    first_hits, second_hits = first == labels, second == labels
    table = outcome_table(first_hits, second_hits)
    return {
        "difference": float(table[1] - table[2]) / len(labels),
        "interval": paired_interval(table, generator=generator).tolist(),
        **dict(zip(("both_right", "only_first_right", "only_second_right", "both_wrong"), table.tolist(), strict=True)),
        "mcnemar_p": mcnemar_p(table),
        "agreement": float((first == second).mean()),
        "error_overlap": error_overlap(first_hits, second_hits),
    }


def outcome_table(first_hits: NDArray[np.bool_], second_hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many images both, only the first, only the second and neither get right: int64 [4], of bool [N]."""
    cell = 2 * ~first_hits + ~second_hits  # 0, 1, 2, 3 in that order
    return np.bincount(cell, minlength=4)


def paired_interval(
    table: ArrayLike, *, generator: Generator, num_resamples: int = NUM_RESAMPLES, confidence: float = CONFIDENCE
) -> NDArray[np.float64]:
    """Return the interval of the difference of two accuracies by the paired bootstrap (Efron 1979; percentiles).

    The bootstrap draws N images with replacement, each with both its outcomes, and takes the difference anew. An image
    enters it only by its cell of the table, so a resample is a draw of four counts from Multinomial(N, table / N): the
    same distribution as drawing images, without the images. It is the luck of which images were drawn, not that of the
    seeds. With fewer than about ten images that only one gets right it is too narrow; trust McNemar's p there.

    Args:
        table: counts as of `outcome_table`, [..., 4]; several tables of one N at once.
        generator: of the resamples.
        num_resamples: how many.
        confidence: coverage of the interval, a fraction.

    Returns:
        [2, ...]: low and high ends, fractions.
    """
    counts = np.asarray(table)
    num_images = counts.sum(axis=-1)
    shape = (num_resamples, *counts.shape[:-1])
    draws = generator.multinomial(num_images, counts / num_images[..., None], size=shape)  # [resamples, ..., 4]
    differences = (draws[..., 1] - draws[..., 2]) / num_images  # [resamples, ...]
    ends = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.asarray(ends, dtype=np.float64)


def mcnemar_p(table: ArrayLike) -> float:
    """Return the exact two-sided p of McNemar's test (1947).

    Were both as good, an image that only one of them gets right would be a fair coin.

    Args:
        table: counts as of `outcome_table`, [4].

    Returns:
        1 where no image tells the two apart.
    """
    from scipy.stats import binomtest

    only_first, only_second = (int(count) for count in np.asarray(table)[1:3])
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the same order (Holm 1979).

    The smallest counts n times, the next n - 1 times and so on. Calling those below 5 % different is wrong about any of
    them with a probability of 5 % at most, however the tests depend on each other.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def error_overlap(first_hits: NDArray[np.bool_], second_hits: NDArray[np.bool_]) -> float | None:
    """Return images that both get wrong, as a fraction of those that at least one gets wrong; None without errors.

    Which wrong class they predict does not matter. 1: the same errors; 0: none in common. Both arguments: bool [N].
    """
    either = int((~first_hits | ~second_hits).sum())
    return int((~first_hits & ~second_hits).sum()) / either if either else None


def majority_vote(probs: NDArray[np.float32]) -> tuple[NDArray[np.int64], int]:
    """Return the class that most classifiers predict; among equally many, that of the highest mean probability.

    Args:
        probs: float [R, N, 10], R classifiers. With two, every disagreement is a tie.

    Returns:
        int64 [N], and how many images were tied.
    """
    votes = np.eye(probs.shape[2])[probs.argmax(axis=2)].sum(axis=0)  # [N, 10]
    num_ties = int(((votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
    # A mean probability is at most 1: half of it decides between equal votes and never outweighs one.
    return (votes + probs.mean(axis=0, dtype=np.float64) / 2).argmax(axis=1), num_ties
