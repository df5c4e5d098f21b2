"""What one writes after a first tutorial: the alternative that `cifar bench` compares ours with.

torchvision's data set and transforms, one image at a time; a DataLoader with two workers; contiguous NCHW tensors; an
optimiser that updates one parameter at a time; the loss read every step.
"""

import pickle
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cifar.data.split import CLASSES, Split
from cifar.models.layers import MEAN, STD
from cifar.models.repair import repair_torchvision


def write_python_batches(training: Split, test: Split, folder: Path) -> None:
    """Write both splits as pickled batches into `folder`/cifar-10-batches-py, as torchvision reads them."""
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    parts = [*(training.select(part) for part in torch.arange(len(training)).chunk(5)), test]
    for name, part in zip(names, parts, strict=True):
        batch = {"data": part.images.flatten(1).numpy(), "labels": part.labels.tolist()}
        (target / name).write_bytes(pickle.dumps(batch))
    (target / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))


def open_torchvision(folder: Path) -> Any:
    """torchvision's CIFAR10 over those batches, without its check of MD5 sums, which these do not have."""
    repair_torchvision()
    from torchvision.datasets import CIFAR10

    class Unchecked(CIFAR10):  # type: ignore[misc]
        meta: ClassVar = {**CIFAR10.meta, "md5": None}

        def _check_integrity(self) -> bool:
            return True

    return Unchecked(str(folder), train=True, transform=tutorial_transform())


def tutorial_transform() -> Any:
    """Crop, mirror, convert to a tensor, normalise: takes a Pillow image."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def train_steps(model: nn.Module, dataset: Dataset[Any], *, batch_size: int, steps: int) -> float:
    """Train by the tutorial's loop; returns images/s from the second batch on, when the workers are running.

    Args:
        model: without normalisation.
        dataset: of transformed images.
        batch_size: images per step.
        steps: that are timed.
    """
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=False)
    model.train()
    running_loss, start, done = 0.0, 0.0, 0
    for number, (images, labels) in enumerate(loader):
        if number == 1:
            start = time.perf_counter()
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        optimiser.step()
        running_loss += loss.item()
        done += len(labels) if number else 0
        if number == steps:
            break
    return done / (time.perf_counter() - start)


@torch.no_grad()
def predict_steps(model: nn.Module, images: torch.Tensor, *, batch_size: int) -> float:
    """Predict uint8 images by a plain eager loop; returns images/s."""
    model.eval()
    start = time.perf_counter()
    classes = []
    for batch in torch.split(images, batch_size):
        classes.append(model(batch.float() / 255).argmax(1))
    torch.cat(classes)
    return len(images) / (time.perf_counter() - start)


def transform_images(images: torch.Tensor) -> float:
    """Crop and mirror uint8 images one by one with torchvision's v2 transforms; returns images/s."""
    repair_torchvision()
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    start = time.perf_counter()
    torch.stack([transform(image) for image in images])
    return len(images) / (time.perf_counter() - start)
