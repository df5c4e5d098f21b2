"""Readers of the references give the known figures; comparisons agree with slow obvious ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from cifar.audit.people import (
    References,
    compare_with_references,
    cross_entropy,
    entropy,
    read_references,
)
from cifar.evaluation.calibration import calibration_error

COPIES = Path(__file__).parents[2].parent / "shared" / "data"
needs_copies = pytest.mark.skipif(not COPIES.is_dir(), reason="no copies at hand")


def copy_of(name: str) -> Path:
    return next(COPIES.glob(f"*/{name}"))


@pytest.fixture(scope="module")
def known() -> References:
    return read_references(copy_of)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.from_numpy(np.load(copy_of("cifar10_test_labels.npy")).astype(np.int64))


def one_hot(predicted: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(predicted, 10).float()


@needs_copies
def test_the_references_give_their_published_figures(known: References, labels: Tensor) -> None:
    assert (len(known.unconfirmed), len(known.corrected), len(known.corrections)) == (54, 18, 18)
    assert len(known.near_duplicates) == 286
    assert set(known.corrected.tolist()) < set(known.unconfirmed.tolist())
    assert not (known.corrections == labels[known.corrected]).any()
    people = compare_with_references(known.people, labels, known)["people"]
    assert people["majority_agrees_with_label"]["share"] == 0.9921
    assert people["agreement_with_majority"]["share"] == 1
    assert people["soft_cross_entropy_floor"] == pytest.approx(0.1545, abs=5e-5)
    assert people["soft_cross_entropy"] == pytest.approx(people["soft_cross_entropy_floor"])  # people reach the floor
    assert people["entropy_correlation"] == pytest.approx(1)


@needs_copies
@pytest.mark.parametrize(
    "model, whole, without",  # of 10,000, of 9,714: 97.02, 95.81 and 93.10 %
    [
        ("shake_shake_26_2x64d_SSI_cutout16", 9711, 9425),
        ("wrn_28_10", 9593, 9307),
        ("resnet_basic_56", 9330, 9044),
    ],
)
def test_published_models_without_the_near_duplicates(
    model: str, whole: int, without: int, known: References, labels: Tensor
) -> None:
    predicted = torch.tensor(json.loads(copy_of(f"{model}_predictions.json").read_text()))
    compared = compare_with_references(one_hot(predicted), labels, known)
    near_duplicates = compared["near_duplicates"]
    assert near_duplicates["all"]["share"] == whole / 10_000
    assert near_duplicates["without"]["share"] == without / 9714
    assert near_duplicates["without"]["num_images"] == 9714
    disjoint = (near_duplicates["without"], near_duplicates["only"])
    assert sum(images["num_images"] * images["share"] for images in disjoint) == pytest.approx(
        10_000 * near_duplicates["all"]["share"]
    )
    assert compared["people"]["entropy_correlation"] is None  # the same entropy for all
    json.dumps(compared, allow_nan=False)


@needs_copies
def test_published_probabilities_give_their_published_calibration_error(labels: Tensor) -> None:
    probs = torch.from_numpy(np.load(copy_of("cifar10_test_set_pyx.npy")))
    assert (probs.argmax(dim=1) == labels).double().mean().item() == 0.9294
    assert 100 * calibration_error(probs, labels) == pytest.approx(3.26, abs=0.005)


def made_up() -> tuple[Tensor, Tensor, References]:
    generator = Generator().manual_seed(0)
    labels = torch.randint(10, (60,), generator=generator)
    probs = (2 * torch.randn(60, 10, generator=generator) + torch.eye(10)[labels]).softmax(dim=1)
    people = torch.rand(60, 10, generator=generator, dtype=torch.float64)
    people[:, 0] = 0
    people /= people.sum(dim=1, keepdim=True)
    predicted = probs.argmax(dim=1)
    wrong, right = (predicted != labels).nonzero().flatten(), (predicted == labels).nonzero().flatten()
    corrected = torch.stack([wrong[0], right[0], wrong[1]])
    third = next(number for number in range(10) if number not in (predicted[wrong[1]], labels[wrong[1]]))
    corrections = torch.tensor([int(predicted[wrong[0]]), (int(labels[right[0]]) + 1) % 10, third])
    unconfirmed = torch.cat([corrected, right[1:2]])
    return probs, labels, References(people, unconfirmed, corrected, corrections, torch.arange(50, 60))


def test_comparison_with_references_equals_a_slow_count() -> None:
    probs, labels, known = made_up()
    compared = compare_with_references(probs, labels, known)
    rows, truth, people = probs.tolist(), labels.tolist(), known.people.tolist()
    best = [row.index(max(row)) for row in rows]
    choice = [row.index(max(row)) for row in people]
    pairs = [pair for row, other in zip(rows, people, strict=True) for pair in zip(row, other, strict=True)]
    soft = -sum(q * math.log(p) for p, q in pairs) / 60
    assert compared["people"]["soft_cross_entropy"] == pytest.approx(soft, rel=1e-5)
    floor = -sum(q * math.log(q) for row in people for q in row if q) / 60
    assert compared["people"]["soft_cross_entropy_floor"] == pytest.approx(floor)
    assert compared["people"]["agreement_with_majority"]["share"] == sum(map(int.__eq__, best, choice)) / 60
    kept = [index for index in range(60) if index not in known.unconfirmed.tolist()]
    errors = compared["label_errors"]
    assert errors["without_unconfirmed"]["share"] == sum(best[index] == truth[index] for index in kept) / 56
    sides = [0, 0, 0]
    for index, correction in zip(known.corrected.tolist(), known.corrections.tolist(), strict=True):
        sides[0 if best[index] == correction else 1 if best[index] == truth[index] else 2] += 1
    assert [errors[f"sides_with_{who}"] for who in ("correction", "label", "neither")] == sides == [1, 1, 1]
    near_duplicates = compared["near_duplicates"]
    assert near_duplicates["without"]["share"] == sum(best[index] == truth[index] for index in range(50)) / 50
    low, high = near_duplicates["without"]["interval"]
    assert low < near_duplicates["without"]["share"] < high


def test_entropy_correlation_equals_scipys_and_cross_entropy_of_certainty_is_finite() -> None:
    from scipy.stats import spearmanr

    probs, labels, known = made_up()
    correlation = compare_with_references(probs, labels, known)["people"]["entropy_correlation"]
    slow = [[-sum(p * math.log(p) for p in row if p) for row in rows.tolist()] for rows in (probs, known.people)]
    assert correlation == pytest.approx(spearmanr(*slow).statistic)
    assert entropy(torch.eye(10)).tolist() == [0] * 10
    assert entropy(torch.full((1, 10), 0.1)).item() == pytest.approx(math.log(10))
    assert math.isfinite(cross_entropy(torch.eye(10), torch.eye(10).roll(1, 1)))
    assert cross_entropy(torch.eye(10), torch.eye(10)) == 0
