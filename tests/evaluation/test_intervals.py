"""Intervals against scipy, their definitions and Student's table."""

import math

import numpy as np
import pytest
import scipy.stats

from cifar.evaluation.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize("num_correct, num_images", [(0, 10), (10, 10), (1, 3), (9_412, 10_000)])
@pytest.mark.parametrize("confidence, z", [(0.95, 1.959963984540054), (0.99, 2.5758293035489004)])
def test_wilson_interval_solves_its_equation(num_correct: int, num_images: int, confidence: float, z: float) -> None:
    fraction = num_correct / num_images
    low, high = wilson_interval(num_correct, num_images, confidence=confidence)
    for end in (low, high):  # as far from the observed fraction as z of its own standard errors
        assert abs(fraction - end) == pytest.approx(z * math.sqrt(end * (1 - end) / num_images), abs=1e-12)
    assert 0 <= low <= fraction <= high <= 1


@pytest.mark.parametrize("num_images", [1, 2, 7, 200, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_interval_equals_scipys(num_images: int, confidence: float) -> None:
    for num_correct in {0, 1, num_images // 3, num_images - 1, num_images}:
        theirs = scipy.stats.binomtest(num_correct, num_images).proportion_ci(confidence, method="wilson")
        own = wilson_interval(num_correct, num_images, confidence=confidence)
        assert own == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_images_have_no_interval() -> None:
    with pytest.raises(ValueError, match="There are no images"):
        wilson_interval(0, 0)


def test_mean_interval_equals_the_table_of_student() -> None:
    values = [0.941, 0.938, 0.944, 0.940, 0.943]
    mean, std, (low, high) = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert std == pytest.approx(np.std(values, ddof=1))
    half = 2.7764451051977987 * np.std(values, ddof=1) / math.sqrt(5)  # t, 4 degrees of freedom, 97.5 %
    assert (low, high) == pytest.approx((mean - half, mean + half))


def test_mean_interval_equals_scipys() -> None:
    for num_values in (2, 3, 10, 40):
        values = np.random.default_rng(num_values).normal(0.93, 0.002, num_values).tolist()
        for confidence in (0.8, 0.95, 0.99):
            _, std, interval = mean_interval(values, confidence=confidence)
            theirs = scipy.stats.t.interval(
                confidence, num_values - 1, loc=np.mean(values), scale=std / math.sqrt(num_values)
            )
            assert interval == pytest.approx(theirs, rel=1e-12)


def test_mean_interval_at_its_ends() -> None:
    mean, std, (low, high) = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(std)
    assert math.isnan(low)
    assert math.isnan(high)
    assert mean_interval([0.25, 0.25]) == (0.25, 0.0, (0.25, 0.25))
    with pytest.raises(ValueError, match="data point"):
        mean_interval([])
