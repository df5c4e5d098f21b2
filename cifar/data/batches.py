"""Batches: the whole split is on the device and a batch is an index into it, so there are no loader processes."""

import math

import torch
from torch import Generator, Tensor

from cifar.data.split import Split


def draw_order(num_images: int, *, generator: Generator) -> Tensor:
    """A random order of the images.

    Args:
        num_images: N.
        generator: on the CPU, so that the order is the same on every device.

    Returns:
        int64 [N], on the CPU.
    """
    return torch.randperm(num_images, generator=generator)


def to_device(split: Split, device: torch.device) -> Split:
    """The split on a device, images in channels_last memory; the 50,000 training images take 154 MB."""
    images = split.images.to(device)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return Split(images, split.labels.to(device))


def take(images: Tensor, indices: Tensor) -> Tensor:
    """images[indices], many times faster on a CPU: it copies whole images, not single elements.

    Args:
        images: [N, …].
        indices: int64 [B].

    Returns:
        [B, …], in the memory format of the images.
    """
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        return images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
    return images.index_select(0, indices)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches in an epoch. The last may be smaller, but a last image alone joins the batch before it.

    Batch normalisation has no statistics of one image, and its gradient would be noise.

    Args:
        num_images: N.
        batch_size: images per batch.
    """
    batches = math.ceil(num_images / batch_size)
    return batches - 1 if batches > 1 and num_images % batch_size == 1 else batches


def last_batch_remark(num_images: int, batch_size: int) -> str:
    """A sentence about the last batch where it is larger than the others, or ""."""
    if batch_size * num_batches(num_images, batch_size) >= num_images:
        return ""
    return f"The last of {num_images:,} images would be a batch of its own: it joins the batch before it."


def batch_bounds(num_images: int, batch_size: int) -> list[int]:
    """Where each batch of an epoch begins among the images in their order, and, last, where the epoch ends.

    There are as many batches as `num_batches` says; the last may be smaller, or larger by one.

    Args:
        num_images: N.
        batch_size: images per batch.
    """
    return [number * batch_size for number in range(num_batches(num_images, batch_size))] + [num_images]


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to float pixels in [0, 1], in channels_last memory; float activations are left unchanged."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)
