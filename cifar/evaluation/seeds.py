"""Several seeds of two recipes: whether the recipes differ, and not only two of their runs; pure functions on arrays.

A pair of runs compared on the same images (`paired.py`) answers for these two sets of weights: another seed might have
reversed it. Two answers for the recipes themselves:

- Welch's test asks whether the mean accuracy over seeds differs **on these test images**. Its only luck is that of the
  seed, so it is right for a claim like "on the CIFAR-10 test set, recipe A is better on average".
- The hierarchical bootstrap asks how the difference would vary **with other seeds and other images** alike. Its
  interval is for a claim about images of this kind. It redraws both, and so counts the luck of single answers (this
  image under this seed) more than once (Owen 2007, "The pigeonhole bootstrap"): where seeds differ by a few tenths of a
  point, as here, it is conservative. In simulations of two like recipes on 2,000 images its 95 % interval covered 96 to
  99.5 % with two to ten seeds that differ by 0.4 points. But it can only redraw the seeds there are: with seeds that
  differ by 1.3 points it covered 82 % with two, 86 % with three and 90 % with five. Where it comes out narrower than
  Welch's, trust Welch's.
"""

import warnings
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from cifar.evaluation.paired import CONFIDENCE, NUM_RESAMPLES

CHUNK = 1_000  # resamples at a time, which bounds the memory


def welch(first: ArrayLike, second: ArrayLike, *, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """Return Welch's t test (1947) of two means, whose variances may differ.

    In simulations of equal spreads its 95 % interval covers 95.6 % with five seeds each, 96.5 % with three and 97.6 %
    with two: few seeds make it wide, not wrong.

    Args:
        first, second: accuracies, one per seed; two seeds or more.
        confidence: coverage of the interval, a fraction.

    Returns:
        difference of the means; interval, p and degrees_of_freedom, all None where no accuracy varies with its seed.
    """
    from scipy.stats import ttest_ind

    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    assert len(first) >= 2, first
    assert len(second) >= 2, second
    difference = float(first.mean() - second.mean())
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return {"difference": difference, "interval": None, "p": None, "degrees_of_freedom": None}
    with warnings.catch_warnings():
        # Of a recipe whose seeds agree exactly: no loss of precision, as scipy suspects, but a fact.
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        test = ttest_ind(first, second, equal_var=False)
        ends = test.confidence_interval(confidence)
    return {
        "difference": difference,
        "interval": [float(ends.low), float(ends.high)],
        "p": float(test.pvalue),
        "degrees_of_freedom": float(test.df),
    }


def hierarchical_interval(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    *,
    generator: Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> NDArray[np.float64]:
    """Return the interval of the difference of two recipes' mean accuracies over seeds and images (percentiles).

    Each resample draws, with replacement, as many seeds as there are within each recipe, then N images, the same for
    all seeds of both. Images with the same hits and misses over all seeds are alike, so they are drawn as counts of
    their patterns from one multinomial: the same distribution as drawing images.

    Args:
        first, second: hits, bool [S, N] and [T, N], on the same images; one row per seed.
        generator: of the resamples.
        num_resamples: how many.
        confidence: coverage of the interval, a fraction.

    Returns:
        [2]: low and high ends, fractions.
    """
    num_images = first.shape[1]
    patterns, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)  # [S + T, K], [K]
    differences = []
    for start in range(0, num_resamples, CHUNK):
        size = min(CHUNK, num_resamples - start)
        weights = [seed_weights(len(first), size, generator), -seed_weights(len(second), size, generator)]
        gains = np.concatenate(weights, axis=1) @ patterns.astype(np.float64)  # [size, K]: of one image of a pattern
        images = generator.multinomial(num_images, counts / num_images, size=size)  # [size, K]
        differences.append((gains * images).sum(axis=1) / num_images)
    ends = np.quantile(np.concatenate(differences), [(1 - confidence) / 2, (1 + confidence) / 2])
    return np.asarray(ends, dtype=np.float64)


def seed_weights(num_seeds: int, size: int, generator: Generator) -> NDArray[np.float64]:
    """Return the weight of each seed in resamples with replacement: [size, num_seeds], rows sum to 1."""
    return generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size) / num_seeds


def mean_accuracy_interval(hits: NDArray[np.bool_], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a recipe's mean accuracy with other seeds and other images of the same kind.

    Each hit is taken as a sum of the mean, an effect of its seed, one of its image, and a rest: the analysis of
    variance of two crossed factors, with degrees of freedom by Satterthwaite (1946, "An approximate distribution of
    estimates of variance components"). Nothing is counted twice, unlike in the bootstrap above. In simulations on
    10,000 images the 95 % interval covered 95 to 96 % with five seeds that differ by 0 to 0.4 points, 93 to 95 % with
    three, 94 to 98 % with two; where seeds differ by 1.3 points 94, 90 and 91 %.

    Args:
        hits: bool [S, N], two seeds or more on the same images.
        confidence: coverage of the interval, a fraction.

    Returns:
        its low and high ends, fractions in 0 to 1.
    """
    from scipy.special import stdtrit

    num_seeds, num_images = hits.shape
    assert num_seeds >= 2, hits.shape
    mean, of_seeds, of_images = hits.mean(), hits.mean(axis=1), hits.mean(axis=0)
    rest = hits - of_seeds[:, None] - of_images + mean
    degrees = np.array([num_seeds - 1, num_images - 1, (num_seeds - 1) * (num_images - 1)])
    sums = [num_images * ((of_seeds - mean) ** 2).sum(), num_seeds * ((of_images - mean) ** 2).sum(), (rest**2).sum()]
    squares = np.array(sums) / degrees  # mean squares: of seeds, of images, of the rest
    squares = np.maximum(squares, squares[2])  # an effect's variance is not negative, whatever its estimate
    variance = squares[0] + squares[1] - squares[2]
    if variance == 0:
        return float(mean), float(mean)
    half = stdtrit(variance**2 / (squares**2 / degrees).sum(), (1 + confidence) / 2) * np.sqrt(variance / hits.size)
    return max(float(mean - half), 0.0), min(float(mean + half), 1.0)
