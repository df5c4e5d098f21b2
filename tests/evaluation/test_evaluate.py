"""What evaluation.json will hold."""

import json

import pytest
import torch
from torch import Generator

from cifar.data.split import CLASSES
from cifar.evaluation.evaluate import evaluate, temperature_scaling
from cifar.evaluation.intervals import wilson_interval


def test_an_evaluation_agrees_with_itself_and_is_json() -> None:
    generator = Generator().manual_seed(0)
    labels = torch.randint(10, (203,), generator=generator)
    probs = (torch.randn(203, 10, generator=generator) + 2 * torch.eye(10)[labels]).softmax(dim=1)
    evaluation = evaluate(probs, labels, split="validation")

    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation
    assert evaluation["split"] == "validation"
    assert evaluation["num_images"] == 203
    confusion = torch.tensor(evaluation["confusion"])  # [10, 10]
    num_correct = int(confusion.diagonal().sum())
    assert confusion.sum() == 203
    assert evaluation["accuracy"] == pytest.approx(num_correct / 203)
    assert evaluation["interval"] == list(wilson_interval(num_correct, 203))
    assert evaluation["loss"] == pytest.approx(-probs[torch.arange(203), labels].log().mean().item(), rel=1e-5)
    bins = evaluation["reliability"]
    assert len(bins) == 15
    assert sum(bin_["count"] for bin_ in bins) == 203
    gaps = [bin_["count"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in bins if bin_["count"]]
    assert evaluation["calibration_error"] == pytest.approx(sum(gaps) / 203, abs=1e-6)
    assert 0 < evaluation["adaptive_calibration_error"] < 1
    target = torch.eye(10)[labels]
    assert evaluation["brier"] == pytest.approx((probs - target).square().sum(dim=1).mean().item(), rel=1e-5)
    assert [row["class"] for row in evaluation["per_class"]] == list(CLASSES)
    for index, row in enumerate(evaluation["per_class"]):
        assert set(row) == {"class", "precision", "recall", "f1", "support"}
        assert row["support"] == confusion[index].sum() == (labels == index).sum()
        assert row["recall"] == pytest.approx((confusion[index, index] / confusion[index].sum()).item())
        assert row["precision"] == pytest.approx((confusion[index, index] / confusion[:, index].sum()).item())


def test_classes_that_never_occur_are_json_too() -> None:
    evaluation = evaluate(torch.eye(10)[:1], torch.tensor([0]), split="test")
    json.dumps(evaluation, allow_nan=False)
    assert evaluation["accuracy"] == 1.0
    assert evaluation["per_class"][9] == {"class": "truck", "precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_empty_bins_are_none_in_json() -> None:
    bins = evaluate(torch.eye(10)[:1], torch.tensor([0]), split="test")["reliability"]
    assert bins[0] == {"low": 0.0, "high": pytest.approx(1 / 15), "count": 0, "confidence": None, "accuracy": None}
    assert (bins[14]["count"], bins[14]["accuracy"]) == (1, 1.0)


def test_a_temperature_is_fitted_on_one_set_and_judged_on_another() -> None:
    generator = Generator().manual_seed(0)
    calibrated = (1.5 * torch.randn(8000, 10, generator=generator)).softmax(dim=1)
    labels = torch.multinomial(calibrated, 1, generator=generator).flatten()
    overconfident = (2 * calibrated.log()).softmax(dim=1)
    scaling = temperature_scaling(overconfident[:4000], labels[:4000], overconfident[4000:], labels[4000:])
    json.dumps(scaling, allow_nan=False)
    assert scaling["temperature"] == pytest.approx(2, rel=0.05)
    assert (scaling["fitted_on"], scaling["num_fitted"]) == ("validation", 4000)
    expected = evaluate(overconfident[4000:], labels[4000:], split="test")
    assert scaling["before"] == {key: expected[key] for key in ("loss", "calibration_error")}
    assert scaling["after"]["loss"] < scaling["before"]["loss"]
    assert scaling["after"]["calibration_error"] < 0.03 < scaling["before"]["calibration_error"]
    # What it is judged on changes nothing of what is fitted.
    assert (
        temperature_scaling(overconfident[:4000], labels[:4000], overconfident[:9], labels[:9])["temperature"]
        == scaling["temperature"]
    )


def test_no_images_give_no_evaluation() -> None:
    with pytest.raises(ValueError, match="There are no images"):
        evaluate(torch.empty(0, 10), torch.empty(0, dtype=torch.int64), split="test")
