"""Predictions against people and against the known faults of the test set; from numbers to numbers.

Three published references, each indexed by the original order of the 10,000 test images:

CIFAR-10H (Peterson et al. 2019, "Human uncertainty makes classification more robust"): about 50 people labelled each
image. No model can have a lower soft cross-entropy than the people's own mean entropy, the floor.

Label errors (Northcutt et al. 2021, "Pervasive label errors in test sets"): five people looked at each of 275 suspect
images and chose the given label, the class that was guessed instead, both or neither. A label is unconfirmed where
fewer than three of the five chose it alone: 54 images. The error is confirmed with a correction where at least three of
the five chose the guessed class alone: 18 of the 54. (On the other 36 people did not agree, or agreed on neither.)

ciFAIR (Barz and Denzler 2020, "Do we train on test data?"): 286 test images have a near twin among the training images,
so that remembering is enough to be right on them.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar.evaluation.metrics import wilson_interval

MAJORITY = 3  # of five people


@dataclass(frozen=True)
class References:
    """What is known of the 10,000 test images beyond their labels.

    Attributes:
        people: float64 [10000, 10], the share of people that chose each class.
        unconfirmed: int64 [54], images whose label most of five people did not choose.
        corrected: int64 [18], those of them on which most chose the same other class; corrections: int64 [18], which.
        twins: int64 [286], images with a near twin among the training images.
    """

    people: Tensor
    unconfirmed: Tensor
    corrected: Tensor
    corrections: Tensor
    twins: Tensor


def read_references(path_of: Callable[[str], Path]) -> References:
    """The references from their files; path_of gives the verified file of a name in `cifar.data.references`."""
    people = torch.from_numpy(np.load(path_of("cifar10h-probs.npy")))
    suspects = json.loads(path_of("cifar10_mturk.json").read_text(encoding="utf-8"))
    unconfirmed = [one["id"] for one in suspects if one["mturk"]["given"] < MAJORITY]
    corrected = [one for one in suspects if one["mturk"]["guessed"] >= MAJORITY]
    with path_of("duplicates_cifar10.csv").open(newline="", encoding="utf-8") as file:
        twins = sorted({int(row["TestID"]) for row in csv.DictReader(file)})
    return References(
        people,
        torch.tensor(unconfirmed),
        torch.tensor([one["id"] for one in corrected]),
        torch.tensor([one["our_guessed_label"] for one in corrected]),
        torch.tensor(twins),
    )


def compare_with_references(probs: Tensor, labels: Tensor, references: References) -> dict[str, Any]:
    """Everything that the references say of predictions, JSON-ready; accuracies and shares are fractions.

    Args:
        probs: float [10000, 10]; labels: int64 [10000], of the test images in their original order.
    """
    correct = probs.argmax(dim=1) == labels
    return {
        "people": compare_with_people(probs, labels, references.people),
        "label_errors": compare_with_corrections(probs, labels, references),
        "near_duplicates": {
            "num_images": len(references.twins),
            "all": share_of(correct),
            "without": share_of(correct[others(references.twins, len(labels))]),
            "only": share_of(correct[references.twins]),
        },
    }


def compare_with_people(probs: Tensor, labels: Tensor, people: Tensor) -> dict[str, Any]:
    """Cross-entropy against the people's shares (nats), agreement with their first choice, correlation of entropies.

    The first choice is the class that most people chose, the lower index where two are level.
    """
    from scipy.stats import spearmanr

    majority, predicted = people.argmax(dim=1), probs.argmax(dim=1)
    ours, theirs = entropy(probs), entropy(people)
    # Without any spread, as of a network that is always equally sure, there is no correlation.
    has_spread = bool(ours.min() < ours.max())
    return {
        "soft_cross_entropy": cross_entropy(people, probs),
        "soft_cross_entropy_floor": theirs.mean().item(),
        "agreement_with_majority": share_of(predicted == majority),
        "majority_agrees_with_label": share_of(majority == labels),
        "entropy_correlation": float(spearmanr(ours.numpy(), theirs.numpy()).statistic) if has_spread else None,
    }


def compare_with_corrections(probs: Tensor, labels: Tensor, references: References) -> dict[str, Any]:
    """Accuracy without the unconfirmed labels; on those with a correction, how often the prediction is which."""
    predicted = probs.argmax(dim=1)
    correct = predicted == labels
    answers = predicted[references.corrected]
    with_correction = int((answers == references.corrections).sum())
    with_label = int((answers == labels[references.corrected]).sum())
    return {
        "num_unconfirmed": len(references.unconfirmed),
        "without_unconfirmed": share_of(correct[others(references.unconfirmed, len(labels))]),
        "num_corrected": len(answers),
        "sides_with_correction": with_correction,
        "sides_with_label": with_label,
        "sides_with_neither": len(answers) - with_correction - with_label,
    }


def entropy(probs: Tensor) -> Tensor:
    """Entropy of each row in nats, float64 [N]; 0·log 0 is 0."""
    parts: Tensor = torch.special.entr(probs.double())
    return parts.sum(dim=1)


def cross_entropy(target: Tensor, probs: Tensor) -> float:
    """Mean over images of -Σ target·log(probs), in nats; a probability of 0 counts as float32's smallest."""
    logs = probs.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return -(target.double() * logs).sum(dim=1).mean().item()


def others(indices: Tensor, num_images: int) -> Tensor:
    """All images but these: bool [N]."""
    mask = torch.ones(num_images, dtype=torch.bool)
    mask[indices] = False
    return mask


def share_of(mask: Tensor) -> dict[str, Any]:
    """Of how many images what share, with its 95 % interval (Wilson); mask: bool [N]."""
    count = int(mask.sum())
    return {
        "num_images": len(mask),
        "share": count / len(mask),
        "interval": list(wilson_interval(count, len(mask))),
    }
