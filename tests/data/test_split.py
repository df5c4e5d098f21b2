import os
import subprocess
import sys

import pytest
import torch

from cifar.data.cifar10 import Dataset, load, validation_split
from cifar.data.split import Split, cut, stratified_folds, stratified_sample
from cifar.errors import InputError
from cifar.recipes import Holdout

LABELS = torch.arange(50_000) % 10
PINNED = [4, 7, 8, 13, 19, 23, 61, 78, 88, 107]


def validation_indices(labels: torch.Tensor, holdout: Holdout) -> torch.Tensor:
    """Indices of the validation images that `cut` holds out; checks that the training images are all the others."""
    split = Split(torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    training, validation = cut(split, holdout)
    both = torch.cat([training.images, validation.images]).flatten()
    assert torch.equal(both.sort().values, torch.arange(len(labels)))
    assert torch.equal(training.images.flatten(), training.images.flatten().sort().values)
    return validation.images.flatten()


def test_a_tenth_of_the_training_images_is_500_of_every_class() -> None:
    indices = validation_indices(LABELS, Holdout())
    assert len(indices) == 5000
    assert LABELS[indices].bincount().tolist() == [500] * 10


def test_the_cut_is_the_same_on_every_machine_and_depends_on_the_seed() -> None:
    first, second = Holdout(), Holdout(split_seed=1)
    assert validation_indices(LABELS, first)[:10].tolist() == PINNED
    assert not torch.equal(validation_indices(LABELS, first), validation_indices(LABELS, second))
    assert torch.equal(validation_indices(LABELS, second), validation_indices(LABELS, second))


@pytest.mark.parametrize("fraction", [0.0, 0.013, 0.1, 0.5, 0.999])
def test_a_fraction_of_uneven_classes_is_within_one_image_of_each(fraction: float) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((997, 100, 450))])
    if fraction == 0.999:
        with pytest.raises(InputError, match="validation_fraction"):
            stratified_sample(labels, fraction, seed=0)
        return
    indices = stratified_sample(labels, fraction, seed=0)
    assert len(indices) == round(fraction * len(labels))
    for label, count in enumerate((997, 100, 450)):
        assert abs((labels[indices] == label).sum().item() - fraction * count) < 1


@pytest.mark.parametrize("num_folds", [2, 3, 5, 7])
def test_folds_are_disjoint_cover_everything_and_keep_the_classes(num_folds: int) -> None:
    labels = torch.cat([LABELS[:1003], torch.zeros(8, dtype=torch.int64)])
    folds = stratified_folds(labels, num_folds, seed=0)
    assert torch.equal(torch.cat(folds).sort().values, torch.arange(len(labels)))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for label in range(10):
        counts = [int((labels[fold] == label).sum()) for fold in folds]
        assert max(counts) - min(counts) <= 1


def test_five_folds_of_the_training_images_have_1000_of_every_class() -> None:
    folds = [validation_indices(LABELS, Holdout(num_folds=5, fold=fold)) for fold in range(5)]
    assert [len(indices) for indices in folds] == [10_000] * 5
    assert all(LABELS[indices].bincount().tolist() == [1000] * 10 for indices in folds)


@pytest.mark.parametrize("num_folds", [1, 6])
def test_an_impossible_number_of_folds_is_refused(num_folds: int) -> None:
    with pytest.raises(InputError, match="from 2 to 5"):
        stratified_folds(torch.arange(50) % 10, num_folds, seed=0)


def test_the_sample_is_cut_like_the_whole(sample: Dataset) -> None:
    training, validation = cut(load(sample, "train"), Holdout())
    assert (len(training), len(validation)) == (900, 100)
    assert validation.labels.bincount().tolist() == [10] * 10


@pytest.mark.parametrize("holdout", [Holdout(split_seed=3), Holdout(num_folds=4, fold=2, validation_fraction=0)])
def test_the_validation_split_is_the_one_that_was_cut(sample: Dataset, holdout: Holdout) -> None:
    validation = validation_split(sample, holdout=holdout)
    assert validation is not None
    assert torch.equal(validation.images, cut(load(sample, "train"), holdout)[1].images)


def test_a_run_on_all_training_images_has_no_validation_split(sample: Dataset) -> None:
    assert validation_split(sample, holdout=Holdout(validation_fraction=0)) is None


PROGRAM = """
import torch
from cifar.data.cifar10 import load, open_dataset
{opening}
assert torch.get_num_threads() == 2
halves = (torch.full((2, 1_000_000), 1e-40) * 1).count_nonzero(dim=1)  # a thread computes each half
print(*halves.tolist())
"""


@pytest.mark.parametrize("opening, counts", [("load(open_dataset('sample'), 'train')", "0 0"), ("", "1000000 1000000")])
def test_opening_a_dataset_flushes_denormals_in_every_thread(opening: str, counts: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(opening=opening)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.stdout.strip() == counts, done.stderr
