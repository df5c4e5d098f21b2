"""Figures over folds against scipy, and their interval within what an accuracy can be."""

import pytest
from scipy.stats import ttest_1samp

from cifar.training.crossval import summarise_folds


def summaries(*accuracies: float) -> list[dict[str, float]]:
    return [{"validation_accuracy": each, "test_accuracy": each - 0.01} for each in accuracies]


def test_figures_over_folds_agree_with_scipy() -> None:
    result = summarise_folds(summaries(0.52, 0.54, 0.55))
    ends = ttest_1samp([0.52, 0.54, 0.55], 0).confidence_interval(0.95)
    assert result["num_folds"] == 3
    assert result["validation"]["interval"] == pytest.approx([ends.low, ends.high])
    assert result["test"]["mean"] == pytest.approx(result["validation"]["mean"] - 0.01)


def test_the_interval_of_two_folds_that_differ_much_is_all_there_is() -> None:
    assert summarise_folds(summaries(0.2, 0.9))["validation"]["interval"] == [0, 1]
