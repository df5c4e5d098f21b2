import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cifar.data.batches import to_device
from cifar.data.split import CLASSES, Split
from cifar.recipes import Augment
from cifar.training.augment import (
    alternate_flips,
    augment,
    augmented_examples,
    box_lambda,
    crop_and_flip,
    draw_augmentation,
    draw_box,
    draw_flips,
    draw_jitter,
    draw_lambda,
    draw_offsets,
    gather_crops,
    jitter,
    mix,
)


def random_images(num_images: int, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 3, 32, 32), dtype=torch.uint8, generator=generator)


def slow_crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int, mode: str) -> Tensor:
    torch_mode = {"zero": "constant", "reflect": "reflect"}[mode]
    padded = F.pad(images.double(), (padding,) * 4, mode=torch_mode).to(images.dtype)
    results = []
    for image, (top, left), flip in zip(padded, offsets.tolist(), flips.tolist(), strict=True):
        crop = image[:, top : top + 32, left : left + 32]
        results.append(crop.flip(-1) if flip else crop)
    return torch.stack(results)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_flip_equals_the_slow_loop(mode: str, padding: int, dtype: torch.dtype) -> None:
    images, generator = random_images(64).to(dtype), Generator().manual_seed(1)
    offsets = draw_offsets(64, most=2 * padding, generator=generator)
    flips = draw_flips(64, probability=0.5, generator=generator)
    fast = crop_and_flip(images, offsets, flips, padding=padding, mode=mode)
    slow = slow_crop_and_flip(images, offsets, flips, padding, mode)
    assert torch.equal(fast, slow)
    assert fast.dtype == dtype
    assert fast.is_contiguous(memory_format=torch.channels_last)
    all_images = images.flip(0).contiguous(memory_format=torch.channels_last)
    indices = torch.arange(63, -1, -1)
    static = gather_crops(all_images, indices, offsets, flips, padding=padding, mode=mode)
    assert torch.equal(static, slow)
    assert static.dtype == dtype
    assert static.is_contiguous(memory_format=torch.channels_last)
    few = gather_crops(all_images, indices[:3], offsets[:3], flips[:3], padding=padding, mode=mode)
    assert torch.equal(few, slow[:3])


def test_padding_wider_than_the_image_is_black() -> None:
    images, offsets = random_images(4), torch.tensor([[0, 0], [80, 80], [40, 3], [75, 40]])
    flips = torch.tensor([True, False, True, False])
    slow = slow_crop_and_flip(images, offsets, flips, 40, "zero")
    assert torch.equal(crop_and_flip(images, offsets, flips, padding=40, mode="zero"), slow)
    images = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather_crops(images, torch.arange(4), offsets, flips, padding=40, mode="zero"), slow)


def test_every_corner_of_the_padding_is_reached() -> None:
    offsets = draw_offsets(4000, most=4, generator=Generator().manual_seed(0))
    assert sorted(set(map(tuple, offsets.tolist()))) == [(row, column) for row in range(5) for column in range(5)]


@pytest.mark.parametrize("probability, least, most", [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.25, 2300, 2700)])
def test_flips_at_both_ends_and_between(probability: float, least: int, most: int) -> None:
    count = int(draw_flips(10_000, probability=probability, generator=Generator().manual_seed(0)).sum())
    assert least <= count <= most


def test_draws_are_decided_by_the_generator() -> None:
    first, second = (draw_offsets(100, most=8, generator=Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_jitter_equals_the_slow_loop() -> None:
    pixels = torch.rand(3, 3, 4, 4, generator=Generator().manual_seed(0))
    brightness, contrast = torch.tensor([0.0, 0.1, -0.2]), torch.tensor([0.0, 0.5, -1.0])
    found = jitter(pixels, brightness, contrast)
    torch.testing.assert_close(found[0], pixels[0])
    for image, shift, spread, ours in zip(pixels, brightness, contrast, found, strict=True):
        mean = sum(image.flatten().tolist()) / 48
        for place, value in enumerate(image.flatten().tolist()):
            expected = mean + (value - mean) * (1 + spread.item()) + shift.item()
            assert ours.flatten()[place].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("most", [0.0, 0.14])
def test_jitter_is_drawn_from_either_side(most: float) -> None:
    drawn = draw_jitter(10_000, most=most, generator=Generator().manual_seed(0))
    assert drawn.abs().max() <= most
    assert drawn.mean().abs() <= 0.005
    assert drawn.std() == pytest.approx(most / 3**0.5, abs=0.002)  # of a uniform distribution


NO_BOX = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixup_equals_the_slow_loop(lam: float) -> None:
    images, partners = random_images(8).float() / 255, torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])
    slow = torch.stack([lam * images[i] + (1 - lam) * images[partners[i]] for i in range(8)])
    found = mix(images, partners, torch.tensor(lam), NO_BOX)
    torch.testing.assert_close(found, slow)
    if lam in (0, 1):
        assert torch.equal(found, slow)


def test_cutmix_pastes_exactly_the_box() -> None:
    images, partners, box = random_images(6) / 255, torch.tensor([1, 2, 3, 4, 5, 0]), (3, 10, 20, 32)
    mixed = mix(images, partners, torch.tensor(1.0), torch.tensor(box))
    for i in range(6):
        for row in range(32):
            for column in (0, 9, 10, 31):
                inside = 3 <= row < 20 and 10 <= column < 32
                assert torch.equal(mixed[i, :, row, column], images[partners[i] if inside else i, :, row, column])
    assert box_lambda(box, size=32) == 1 - 17 * 22 / 1024


@pytest.mark.parametrize("lam, left_alone", [(1.0, 1.0), (0.0, None)])
def test_boxes_at_both_ends(lam: float, left_alone: float | None) -> None:
    generator = Generator().manual_seed(0)
    for _ in range(100):
        box = draw_box(lam, size=32, generator=generator)
        assert 0 <= box[0] <= box[2] <= 32
        assert 0 <= box[1] <= box[3] <= 32
        if left_alone is not None:
            assert box_lambda(box, size=32) == left_alone
        else:  # the box is as large as the image, centred anywhere: at least a quarter lies inside
            assert box_lambda(box, size=32) <= 0.75


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_lambdas_follow_the_beta_distribution(alpha: float) -> None:
    from scipy.stats import beta, kstest

    generator = Generator().manual_seed(0)
    lambdas = [draw_lambda(alpha=alpha, generator=generator) for _ in range(2000)]
    assert all(0 <= lam <= 1 and not math.isnan(lam) for lam in lambdas)
    assert kstest(lambdas, beta(alpha, alpha).cdf).pvalue > 0.01


def test_crops_agree_with_torchvision() -> None:
    from cifar.models.repair import repair_torchvision

    repair_torchvision()
    from torchvision.transforms.v2 import functional as V

    images, offsets = random_images(5), torch.tensor([[0, 0], [8, 8], [4, 4], [0, 8], [3, 5]])
    ours = crop_and_flip(images, offsets, torch.ones(5, dtype=torch.bool), padding=4, mode="zero")
    for image, (top, left), mine in zip(images, offsets.tolist(), ours, strict=True):
        theirs = V.horizontal_flip(V.crop(V.pad(image, [4]), top, left, 32, 32))
        assert torch.equal(mine, theirs)


def test_alternate_flips_turn_round_every_epoch() -> None:
    first = torch.tensor([True, False, True, False])
    indices = torch.tensor([3, 2, 0])
    for epoch in (0, 2, 10):
        assert alternate_flips(first, indices, epoch=epoch).tolist() == [False, True, True]
        assert alternate_flips(first, indices, epoch=epoch + 1).tolist() == [True, False, False]


def augmented(split: Split, recipe: Augment, generator: Generator, *, static: bool = False) -> tuple[Tensor, ...]:
    """All images of a split in their order."""
    drawn = {"indices": torch.arange(len(split)), **draw_augmentation(len(split), recipe, generator=generator)}
    return augment(split, drawn, recipe, static=static)  # type: ignore[return-value]


@pytest.mark.parametrize("fields", [{}, {"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_mixing_both_ways(fields: dict[str, float]) -> None:
    split = Split(random_images(20), torch.arange(20))
    pixels, own, mixed, weights = augmented(split, Augment(**fields), Generator().manual_seed(0))
    assert torch.equal(own, split.labels)
    assert torch.equal(mixed, split.labels) == (not fields)
    assert torch.equal(pixels, split.images / 255) == (not fields)
    if not fields:
        assert weights is None
    else:
        assert weights.sum().item() == pytest.approx(1)


def test_mixup_and_cutmix_alternate_at_random() -> None:
    split, generator = Split(random_images(2), torch.arange(2)), Generator().manual_seed(0)
    recipe, blended = Augment(mixup=1.0, cutmix=1.0), 0
    for _ in range(200):
        pixels = augmented(split, recipe, generator)[0]
        originals = (pixels[0] == split.images[0] / 255) | (pixels[0] == split.images[1] / 255)
        blended += not bool(originals.all())
    assert 30 < blended < 70  # half of them mixup, of which half leave every image as it is


def test_the_weights_of_labels_are_those_of_pixels() -> None:
    """White images among black ones: the mean pixel is the weight of the own label."""
    split = to_device(Split(torch.full((50, 3, 32, 32), 255, dtype=torch.uint8), torch.arange(50)), torch.device("cpu"))
    split.images[25:] = 0
    for fields in ({"mixup": 0.8}, {"cutmix": 1.0}):
        recipe, generator = Augment(**fields), Generator().manual_seed(3)
        for _ in range(20):
            pixels, own, other, weights = augmented(split, recipe, generator)
            expected = weights[0] * (own < 25) + weights[1] * (other < 25)
            torch.testing.assert_close(pixels.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("fields", [
    {}, {"flip": 1.0}, {"crop_padding": 4, "flip": 0.5}, {"crop_padding": 2, "crop_mode": "reflect", "mixup": 0.2},
    {"crop_padding": 4, "brightness": 0.2, "contrast": 0.3, "cutmix": 1.0, "mixup": 1.0},
])  # fmt: skip
def test_fixed_shapes_give_the_same_pixels(fields: dict[str, Any]) -> None:
    split = to_device(Split(random_images(40), torch.arange(40) % 10), torch.device("cpu"))
    recipe = Augment(**fields)
    for ours, theirs in zip(
        augmented(split, recipe, Generator().manual_seed(5), static=True),
        augmented(split, recipe, Generator().manual_seed(5), static=False),
        strict=True,
    ):
        assert ours is theirs or torch.equal(ours, theirs)


def test_examples_without_augmentation_are_the_images_with_their_classes() -> None:
    split = Split(random_images(30), torch.arange(30) % 10)
    pixels, captions = augmented_examples(split, Augment(), count=12, seed=0)
    assert pixels.shape == (12, 3, 32, 32)
    for image, caption in zip(pixels, captions, strict=True):
        (position,) = (split.images == image).flatten(1).all(1).nonzero().flatten().tolist()
        assert caption == CLASSES[split.labels[position]]
    assert len(augmented_examples(split, Augment(), count=99, seed=0)[1]) == 30


@pytest.mark.parametrize("how", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_examples_of_mixing_name_both_classes_and_weights_that_sum_to_one(how: dict[str, float]) -> None:
    split = Split(random_images(30), torch.arange(30) % 10)
    _, captions = augmented_examples(split, Augment(**how), count=12, seed=1)
    for caption in captions:
        (first, own), (second, other) = (line.split() for line in caption.splitlines())
        assert {first, second} <= set(CLASSES)
        assert int(own[:-1]) + int(other[:-1]) in (99, 100, 101)


def test_examples_of_jitter_stay_colours() -> None:
    split = Split(torch.full((4, 3, 32, 32), 255, dtype=torch.uint8), torch.arange(4))
    pixels, _ = augmented_examples(split, Augment(brightness=1.0), count=4, seed=0)
    assert pixels.dtype == torch.uint8
    assert len(pixels.flatten(1)[:, 0].unique()) > 1
