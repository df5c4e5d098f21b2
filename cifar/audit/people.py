"""Predictions against people, and against label errors and near-duplicates of the test set.

Three published references, each indexed by the original order of the 10,000 test images:

CIFAR-10H (Peterson et al. 2019, "Human uncertainty makes classification more robust"): about 50 people labelled each
image. No model can have a lower soft cross-entropy than the people's own mean entropy, the floor.

Label errors (Northcutt et al. 2021, "Pervasive label errors in test sets"): five people looked at each of 275 suspect
images and chose the given label, the class that was guessed instead, both or neither. A label is unconfirmed where
fewer than three of the five chose it alone: 54 images. The error is confirmed with a correction where at least three of
the five chose the guessed class alone: 18 of the 54. (On the other 36 people did not agree, or agreed on neither.)

ciFAIR (Barz and Denzler 2020, "Do we train on test data?"): 286 test images have a near-duplicate among the training
images, so that remembering is enough to be right on them.
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

from cifar.audit.references import reference_file
from cifar.data.cifar10 import Dataset
from cifar.data.split import NUM_TEST
from cifar.errors import InputError, WorldError
from cifar.evaluation.calibration import logs
from cifar.evaluation.intervals import wilson_interval

MAJORITY = 3  # of five people


@dataclass(frozen=True)
class References:
    """What is known of the 10,000 test images beyond their labels.

    Attributes:
        people: float64 [10000, 10], the fraction of people that chose each class.
        unconfirmed: int64 [54], images whose label most of five people did not choose.
        corrected: int64 [18], those of them on which most chose the same other class.
        corrections: int64 [18], that class.
        near_duplicates: int64 [286], images with a near-duplicate among the training images.
    """

    people: Tensor
    unconfirmed: Tensor
    corrected: Tensor
    corrections: Tensor
    near_duplicates: Tensor


def open_references(dataset: Dataset, *, split: str, say: Callable[[str], None]) -> References:
    """The published references of the test images, fetched where they are not in the cache.

    Args:
        dataset: that is evaluated; split: of it.
        say: gets a sentence for each file that is fetched.

    Raises:
        InputError: the images are not the 10,000 that the references are of.
        WorldError: they cannot be had.
    """
    if split != "test" or dataset.is_sample:
        images = "the validation images" if split != "test" else "the sample"
        raise InputError(
            f"--references needs the test split of the whole CIFAR-10: people labelled its 10,000 images, not {images}."
        )
    return read_references(lambda name: reference_file(name, say=say))


def read_references(path_of: Callable[[str], Path]) -> References:
    """Return the references, read from their files.

    Args:
        path_of: returns the verified file of a name in `cifar.audit.references`.

    Raises:
        WorldError: a file holds something else.
    """
    try:
        references = parse_references(path_of)
        check_references(references)
    except OSError as error:
        raise WorldError(f"{error.filename}: {error.strerror or error}: remove it, and it is fetched anew.") from None
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise WorldError(
            f"The files of references are not those that were published ({' '.join(f'{error}'.split())}): remove "
            f"{path_of('cifar10h-probs.npy').parent}, and they are fetched anew."
        ) from None
    return references


def parse_references(path_of: Callable[[str], Path]) -> References:
    """`read_references` without its checks."""
    people = torch.from_numpy(np.load(path_of("cifar10h-probs.npy"), allow_pickle=False))
    suspects = json.loads(path_of("cifar10_mturk.json").read_text(encoding="utf-8"))
    unconfirmed = [suspect["id"] for suspect in suspects if suspect["mturk"]["given"] < MAJORITY]
    corrected = [suspect for suspect in suspects if suspect["mturk"]["guessed"] >= MAJORITY]
    with path_of("duplicates_cifar10.csv").open(newline="", encoding="utf-8") as file:
        near_duplicates = sorted({int(row["TestID"]) for row in csv.DictReader(file)})
    return References(
        people,
        torch.tensor(unconfirmed),
        torch.tensor([suspect["id"] for suspect in corrected]),
        torch.tensor([suspect["our_guessed_label"] for suspect in corrected]),
        torch.tensor(near_duplicates),
    )


def check_references(references: References) -> None:
    """Raise ValueError where shapes or ranges are not those of `References`."""
    if references.people.shape != (NUM_TEST, 10) or not references.people.isfinite().all():
        raise ValueError(f"people's labels have the shape {list(references.people.shape)}")
    for indices, end in (
        (references.unconfirmed, NUM_TEST),
        (references.corrected, NUM_TEST),
        (references.near_duplicates, NUM_TEST),
        (references.corrections, 10),
    ):
        if indices.dtype != torch.int64 or indices.ndim != 1 or not ((indices >= 0) & (indices < end)).all():
            raise ValueError(f"an index is not from 0 to {end - 1:,}")


def compare_with_references(probs: Tensor, labels: Tensor, references: References) -> dict[str, Any]:
    """Return everything that the references say of predictions, JSON-ready; accuracies are fractions.

    Args:
        probs: float [10000, 10], of the test images in their original order.
        labels: int64 [10000].
        references: as of `read_references`.
    """
    correct = probs.argmax(dim=1) == labels
    return {
        "people": compare_with_people(probs, labels, references.people),
        "label_errors": compare_with_corrections(probs, labels, references),
        "near_duplicates": {
            "num_images": len(references.near_duplicates),
            "all": proportion(correct),
            "without": proportion(correct[all_but(references.near_duplicates, len(labels))]),
            "only": proportion(correct[references.near_duplicates]),
        },
    }


def compare_with_people(probs: Tensor, labels: Tensor, people: Tensor) -> dict[str, Any]:
    """Return cross-entropy against people (nats), agreement with their majority, and correlation of entropies.

    The majority's class is that which most people chose, the lower index where two are level. The correlation is None
    where all predictions have the same entropy.

    Args:
        probs: float [N, 10].
        labels: int64 [N].
        people: float64 [N, 10], the fraction of people that chose each class.
    """
    from scipy.stats import spearmanr

    majority, predicted = people.argmax(dim=1), probs.argmax(dim=1)
    own_entropy, human_entropy = entropy(probs), entropy(people)
    has_spread = bool(own_entropy.min() < own_entropy.max())
    return {
        "soft_cross_entropy": cross_entropy(people, probs),
        "soft_cross_entropy_floor": human_entropy.mean().item(),
        "agreement_with_majority": proportion(predicted == majority),
        "majority_agrees_with_label": proportion(majority == labels),
        "entropy_correlation": float(spearmanr(own_entropy, human_entropy).statistic) if has_spread else None,
    }


def compare_with_corrections(probs: Tensor, labels: Tensor, references: References) -> dict[str, Any]:
    """Return accuracy without the unconfirmed labels, and with what predictions side where there is a correction.

    Args:
        probs: float [10000, 10].
        labels: int64 [10000].
        references: as of `read_references`.
    """
    predicted = probs.argmax(dim=1)
    correct = predicted == labels
    answers = predicted[references.corrected]
    with_correction = int((answers == references.corrections).sum())
    with_label = int((answers == labels[references.corrected]).sum())
    return {
        "num_unconfirmed": len(references.unconfirmed),
        "without_unconfirmed": proportion(correct[all_but(references.unconfirmed, len(labels))]),
        "num_corrected": len(answers),
        "sides_with_correction": with_correction,
        "sides_with_label": with_label,
        "sides_with_neither": len(answers) - with_correction - with_label,
    }


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy of each row in nats, float64 [N]; 0·log 0 is 0."""
    terms: Tensor = torch.special.entr(probs.double())  # [N, 10]
    return terms.sum(dim=1)


def cross_entropy(target: Tensor, probs: Tensor) -> float:
    """Return the mean over images of -Σ target·log(probs), in nats.

    Args:
        target: float [N, 10].
        probs: float [N, 10]; a probability of 0 counts as float32's smallest.
    """
    return -(target.double() * logs(probs)).sum(dim=1).mean().item()


def all_but(indices: Tensor, num_images: int) -> Tensor:
    """Return a mask of all images but these, bool [num_images]; indices: int64 [M]."""
    mask = torch.ones(num_images, dtype=torch.bool)
    mask[indices] = False
    return mask


def proportion(mask: Tensor) -> dict[str, Any]:
    """Return the fraction of images in a mask, bool [N], under "share", with its 95 % interval (Wilson) and N."""
    count = int(mask.sum())
    return {
        "num_images": len(mask),
        "share": count / len(mask),
        "interval": list(wilson_interval(count, len(mask))),
    }
