"""Batches hold the images that their indices name, in every memory format."""

from itertools import pairwise

import pytest
import torch

from cifar.data.batches import batch_bounds, last_batch_remark, num_batches, take, to_device
from cifar.data.split import Split

IMAGES = torch.arange(25 * 3 * 4 * 4, dtype=torch.int16).view(25, 3, 4, 4)
LABELS = torch.arange(25)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.to(memory_format=torch.channels_last), IMAGES.flatten(2)])
def test_take_equals_indexing_in_every_memory_format(images: torch.Tensor) -> None:
    indices = torch.tensor([3, 0, 24, 3])
    assert torch.equal(take(images, indices), images[indices])
    assert take(images, indices).stride() == images[:4].stride()  # the same memory format


def test_to_device_makes_images_channels_last_and_changes_no_value() -> None:
    split = to_device(Split(IMAGES, LABELS), torch.device("cpu"))
    assert torch.equal(split.images, IMAGES)
    assert split.images.is_contiguous(memory_format=torch.channels_last)
    activations = to_device(Split(IMAGES.flatten(2), LABELS), torch.device("cpu"))
    assert torch.equal(activations.images, IMAGES.flatten(2))


@pytest.mark.parametrize("num_images", range(26))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 12, 24, 25, 26])
def test_no_image_is_a_batch_of_its_own_among_larger_ones(num_images: int, batch_size: int) -> None:
    bounds = batch_bounds(num_images, batch_size)
    sizes = [stop - start for start, stop in pairwise(bounds)]
    assert (bounds[0], bounds[-1]) == (0, num_images)
    assert len(sizes) == num_batches(num_images, batch_size)
    assert sum(sizes) == num_images
    slow = [batch_size] * (num_images // batch_size) + [num_images % batch_size] * (num_images % batch_size > 0)
    if len(slow) > 1 and slow[-1] == 1 < batch_size:
        slow[-2:] = [batch_size + 1]
    assert sizes == slow
    assert bool(last_batch_remark(num_images, batch_size)) == (bool(sizes) and sizes[-1] > batch_size)
