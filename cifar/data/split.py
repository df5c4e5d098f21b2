"""Split: images with their labels; and how the training images are cut, into a held-out part or into folds."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from cifar.errors import InputError

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

    def select(self, indices: Tensor) -> "Split":
        """The images at these positions, in this order; indices: int64 [M] or bool [N]."""
        return Split(self.images[indices], self.labels[indices])


def cut(split: Split, *, validation_fraction: float, num_folds: int, fold: int, seed: int) -> tuple[Split, Split]:
    """Cut training images into a part to train on and a part to validate on, both in the original order.

    With num_folds > 0 the second part is that fold; else it is a stratified share, which may be 0.

    Raises:
        InputError: more folds, or a smaller share, than there are images of some class.
    """
    if num_folds:
        held = stratified_folds(split.labels, num_folds, seed=seed)[fold]
    else:
        held = stratified_share(split.labels, validation_fraction, seed=seed)
    mask = torch.zeros(len(split), dtype=torch.bool)
    mask[held] = True
    return split.select(~mask), split.select(mask)


def stratified_share(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """Indices of a random share of every class, ascending: int64 [M].

    Every class gives its share rounded down, and those with the largest remainders, ties by chance, give one more
    until the total is right. The draws are `torch.randperm` on a CPU generator, one of the classes, then one a class:
    the same on every machine.

    Args:
        labels: int64 [N].
        fraction: 0 to 1; the total is fraction·N, rounded.

    Raises:
        InputError: the share rounds to no image of some class, or leaves none to train on.
    """
    if fraction == 0:
        return torch.empty(0, dtype=torch.int64)
    generator = Generator().manual_seed(seed)
    members = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    counts = [int(fraction * len(indices)) for indices in members]
    missing = round(fraction * len(labels)) - sum(counts)
    by_chance = torch.randperm(len(members), generator=generator).tolist()
    by_remainder = sorted(by_chance, key=lambda index: counts[index] - fraction * len(members[index]))
    for index in by_remainder[:missing]:
        counts[index] += 1
    for indices, count in zip(members, counts, strict=True):
        if not 0 < count < len(indices):
            raise InputError(f"validation_fraction {fraction} leaves a class of {len(indices)} images without one.")
    chosen = [
        indices[torch.randperm(len(indices), generator=generator)[:count]]
        for indices, count in zip(members, counts, strict=True)
    ]
    return torch.cat(chosen).sort().values


def stratified_folds(labels: Tensor, num_folds: int, *, seed: int) -> list[Tensor]:
    """Indices of every fold, ascending: disjoint, together all images, each class spread evenly to within one image.

    Each class is shuffled (`torch.randperm` on a CPU generator, class by class) and dealt out in turn; where one class
    ends, the next goes on with the following fold, so that the folds' sizes differ by at most one as well.

    Raises:
        InputError: fewer than two folds, or more than images of some class.
    """
    members = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    smallest = min(map(len, members))
    if not 2 <= num_folds <= smallest:
        raise InputError(
            f"num_folds is {num_folds}: it must be from 2 to {smallest}, the images of the smallest class."
        )
    generator = Generator().manual_seed(seed)
    shuffled = torch.cat([indices[torch.randperm(len(indices), generator=generator)] for indices in members])
    return [shuffled[fold::num_folds].sort().values for fold in range(num_folds)]
