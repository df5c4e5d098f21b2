"""A Split is images with their labels; `cut` holds some of the training images out for validation."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from cifar.errors import InputError
from cifar.recipes.schema import Holdout

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_TRAIN, NUM_TEST = 50_000, 10_000


@dataclass(frozen=True)
class Split:
    """Images and their labels, in the original order.

    Attributes:
        images: uint8, [N, 3, 32, 32], RGB.
        labels: int64, [N], indices into CLASSES.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images)"

    def select(self, indices: Tensor) -> "Split":
        """The images at these indices, int64 [M], in this order, or where a mask, bool [N], is true."""
        return Split(self.images[indices], self.labels[indices])


def cut(split: Split, holdout: Holdout) -> tuple[Split, Split]:
    """Cut the training images into those to train on and those to validate on, both in the original order.

    Args:
        split: all training images.
        holdout: which to validate on: one fold where it has folds, else a stratified fraction, which may be 0.

    Returns:
        training images, validation images.

    Raises:
        InputError: some class has too few images for the number of folds or the fraction.
    """
    if holdout.num_folds:
        indices = stratified_folds(split.labels, holdout.num_folds, seed=holdout.split_seed)[holdout.fold]
    else:
        indices = stratified_sample(split.labels, holdout.validation_fraction, seed=holdout.split_seed)
    is_validation = torch.zeros(len(split), dtype=torch.bool)
    is_validation[indices] = True
    return split.select(~is_validation), split.select(is_validation)


def stratified_sample(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """Draw the same fraction of every class at random.

    Each class gives its fraction rounded down; the classes with the largest remainders, ties broken at random, give one
    more until the total is right. The draws are `torch.randperm` on a CPU generator, first over the classes, then over
    the images of each class, so they are the same on every machine.

    Args:
        labels: int64 [N].
        fraction: 0 to 1; fraction·N images, rounded, are drawn.
        seed: of the draws.

    Returns:
        int64 [M]: indices of the images, ascending.

    Raises:
        InputError: all or none of the images of some class would be drawn.
    """
    if fraction == 0:
        return torch.empty(0, dtype=torch.int64)
    generator = Generator().manual_seed(seed)
    members = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    counts = [int(fraction * len(indices)) for indices in members]
    missing = round(fraction * len(labels)) - sum(counts)
    shuffled = torch.randperm(len(members), generator=generator).tolist()
    by_remainder = sorted(shuffled, key=lambda index: counts[index] - fraction * len(members[index]))
    for index in by_remainder[:missing]:
        counts[index] += 1
    for indices, count in zip(members, counts, strict=True):
        if not 0 < count < len(indices):
            raise InputError(
                f"validation_fraction {fraction} would hold out {count} of a class's {len(indices)} images: it must "
                "leave at least one of every class on each side."
            )
    drawn = [
        indices[torch.randperm(len(indices), generator=generator)[:count]]
        for indices, count in zip(members, counts, strict=True)
    ]
    return torch.cat(drawn).sort().values


def stratified_folds(labels: Tensor, num_folds: int, *, seed: int) -> list[Tensor]:
    """Cut all images into disjoint folds; the folds' sizes, in total and by class, differ by at most one.

    Each class is shuffled (`torch.randperm` on a CPU generator, class by class) and dealt round-robin to the folds; the
    next class starts at the fold where the last one ended.

    Args:
        labels: int64 [N].
        num_folds: 2 or more.
        seed: of the shuffles.

    Returns:
        for each fold the indices of its images, int64, ascending.

    Raises:
        InputError: fewer than two folds, or some class has fewer images than there are folds.
    """
    members = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    smallest = min(map(len, members))
    if not 2 <= num_folds <= smallest:
        raise InputError(f"num_folds is {num_folds}: it must be from 2 to {smallest}, the size of the smallest class.")
    generator = Generator().manual_seed(seed)
    shuffled = torch.cat([indices[torch.randperm(len(indices), generator=generator)] for indices in members])
    return [shuffled[fold::num_folds].sort().values for fold in range(num_folds)]
