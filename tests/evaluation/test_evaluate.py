"""What evaluation.json will hold."""

import json

import pytest
import torch
from torch import Generator

from cifar.data.split import CLASSES
from cifar.evaluation.evaluate import evaluate
from cifar.evaluation.metrics import wilson_interval


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


def test_nothing_is_no_evaluation() -> None:
    with pytest.raises(ValueError, match="n must be"):
        evaluate(torch.empty(0, 10), torch.empty(0, dtype=torch.int64), split="test")
