import pytest
import torch

from cifar.data.cifar10 import Dataset, load
from cifar.data.split import Split, cut, stratified_folds, stratified_share
from cifar.errors import InputError

LABELS = torch.arange(50_000) % 10


def held(labels: torch.Tensor, **arguments: int | float) -> torch.Tensor:
    """Indices of the validation part, by way of `cut`."""
    split = Split(torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    settings = {"validation_fraction": 0.1, "num_folds": 0, "fold": 0, "seed": 0} | arguments
    training, validation = cut(split, **settings)  # type: ignore[arg-type]
    both = torch.cat([training.images, validation.images]).flatten()
    assert torch.equal(both.sort().values, torch.arange(len(labels)))
    assert torch.equal(training.images.flatten(), training.images.flatten().sort().values)
    return validation.images.flatten()


def test_45_000_and_5_000_with_as_many_of_every_class() -> None:
    indices = held(LABELS)
    assert len(indices) == 5000
    assert LABELS[indices].bincount().tolist() == [500] * 10


def test_the_cut_is_the_same_on_every_machine() -> None:
    assert held(LABELS)[:10].tolist() == PINNED
    assert not torch.equal(held(LABELS), held(LABELS, seed=1))
    assert torch.equal(held(LABELS, seed=1), held(LABELS, seed=1))


PINNED = [4, 7, 8, 13, 19, 23, 61, 78, 88, 107]


@pytest.mark.parametrize("fraction", [0.0, 0.013, 0.1, 0.5, 0.999])
def test_shares_of_uneven_classes(fraction: float) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((997, 100, 450))])
    if fraction == 0.999:
        with pytest.raises(InputError, match="validation_fraction"):
            stratified_share(labels, fraction, seed=0)
        return
    indices = stratified_share(labels, fraction, seed=0)
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


def test_five_folds_of_the_50_000() -> None:
    parts = [held(LABELS, num_folds=5, fold=fold) for fold in range(5)]
    assert [len(part) for part in parts] == [10_000] * 5
    assert all(LABELS[part].bincount().tolist() == [1000] * 10 for part in parts)


@pytest.mark.parametrize("num_folds", [1, 6])
def test_impossible_folds_are_refused(num_folds: int) -> None:
    with pytest.raises(InputError, match="from 2 to 5"):
        stratified_folds(torch.arange(50) % 10, num_folds, seed=0)


def test_the_sample_is_cut_likewise(sample: Dataset) -> None:
    training, validation = cut(load(sample, "train"), validation_fraction=0.1, num_folds=0, fold=0, seed=0)
    assert (len(training), len(validation)) == (900, 100)
    assert validation.labels.bincount().tolist() == [10] * 10
