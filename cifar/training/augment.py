"""Augmentation of whole batches, on whatever device they lie.

Randomness is drawn first (`draw_*`, from an explicit CPU generator, so that every device sees the same draws) and then
applied by pure functions (`crop_and_flip`, `gather_crops`, `jitter`, `mix`). Both ends of every probability are exact.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from cifar.data.batches import draw_order, take, to_pixels
from cifar.data.split import CLASSES, Split
from cifar.errors import InputError
from cifar.machine import is_out_of_memory
from cifar.models.own import find_function
from cifar.models.weights import first_line
from cifar.randomness import generators_kept
from cifar.recipes.schema import Augment

# What `draw_augmentation` draws for a batch as a whole; everything else has a row for each image.
PER_BATCH = ("blend", "box", "label_weights")


def draw_augmentation(
    num_images: int, recipe: Augment, *, generator: Generator, flips: Tensor | None = None, size: int = 32
) -> dict[str, Tensor]:
    """Everything random of a batch's augmentation, on the CPU; what the recipe does not do is left out.

    Args:
        num_images: N.
        recipe: its augmentation group.
        generator: on the CPU.
        flips: bool [N], which images to mirror; drawn where not given.
        size: of the images, in pixels a side.

    Returns:
        offsets int64 [N, 2] and flips bool [N]; brightness and contrast, float [N]; and of mixup and CutMix partners,
        int64 [N], the image of the batch that each is mixed with; blend, float32, the weight of an image's own pixels
        outside the box; box, int64 [4], as of `draw_box`, where they have none; label_weights, float32 [2], the weight
        of its own label and of the other.
    """
    drawn: dict[str, Tensor] = {}
    if recipe.crop_padding or recipe.flip:
        drawn["offsets"] = draw_offsets(num_images, most=2 * recipe.crop_padding, generator=generator)
        if flips is None:
            flips = draw_flips(num_images, probability=recipe.flip, generator=generator)
        drawn["flips"] = flips
    if recipe.brightness or recipe.contrast:
        drawn["brightness"] = draw_jitter(num_images, most=recipe.brightness, generator=generator)
        drawn["contrast"] = draw_jitter(num_images, most=recipe.contrast, generator=generator)
    if not (recipe.mixup or recipe.cutmix):
        return drawn
    drawn["partners"] = draw_order(num_images, generator=generator)
    use_mixup = bool(recipe.mixup)
    if recipe.mixup and recipe.cutmix:
        use_mixup = bool(torch.rand((), generator=generator) < 0.5)
    lam = draw_lambda(alpha=recipe.mixup if use_mixup else recipe.cutmix, generator=generator)
    blend, box = lam, (0, 0, 0, 0)
    if not use_mixup:
        box = draw_box(lam, size=size, generator=generator)
        blend, lam = 1.0, box_lambda(box, size=size)
    drawn["blend"], drawn["box"] = torch.tensor(blend), torch.tensor(box)
    drawn["label_weights"] = torch.tensor([lam, 1 - lam])
    return drawn


def augment(
    split: Split, drawn: Mapping[str, Tensor], recipe: Augment, *, static: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Take a batch out of a split, crop, mirror, jitter and mix it.

    Args:
        split: images uint8 [M, 3, H, W], or float activations of a frozen part, which pass unchanged; labels int64 [M].
        drawn: what `draw_augmentation` returns, and indices, int64 [N], of the images in the split. All on the split's
            device, but for offsets and flips, which `crop_and_flip` wants on the CPU.
        recipe: its augmentation group.
        static: whether to crop in one gather of fixed shapes (`gather_crops`), as a GPU likes it; the pixels are equal.

    Returns:
        float pixels [N, 3, H, W] in [0, 1], beyond it only by jitter; the labels; the labels that were mixed in [N];
        the weights of the two [2], None without mixing.
    """
    indices, padding, mode = drawn["indices"], recipe.crop_padding, recipe.crop_mode
    if "offsets" not in drawn:
        images = take(split.images, indices)
    elif static:
        images = gather_crops(split.images, indices, drawn["offsets"], drawn["flips"], padding=padding, mode=mode)
    else:
        images = take(split.images, indices)
        images = crop_and_flip(images, drawn["offsets"], drawn["flips"], padding=padding, mode=mode)
    pixels, labels = to_pixels(images), split.labels.index_select(0, indices)
    if "contrast" in drawn:
        pixels = jitter(pixels, drawn["brightness"], drawn["contrast"])
    if "partners" not in drawn:
        return pixels, labels, labels, None
    pixels = mix(pixels, drawn["partners"], drawn["blend"], drawn["box"])
    return pixels, labels, labels.index_select(0, drawn["partners"]), drawn["label_weights"]


def augmented_examples(training: Split, recipe: Augment, *, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Some images as they are trained on, at their full size, with what their labels are.

    Args:
        training: the images to draw from.
        recipe: its augmentation group.
        count: how many at most.
        seed: of the draws, which are not those of the training.

    Returns:
        uint8 [≤ count, 3, 32, 32], and a caption each: a class, or with mixing two and their weights.
    """
    generator = Generator().manual_seed(seed)
    indices = torch.randperm(len(training), generator=generator)[:count]
    drawn = draw_augmentation(len(indices), recipe, generator=generator)
    pixels, labels, others, weights = augment(training, {"indices": indices, **drawn}, recipe, static=False)
    if recipe.own_augmentation:
        with generators_kept():
            pixels = own_augmentation(recipe.own_augmentation)(pixels)
    captions = [CLASSES[label] for label in labels.tolist()]
    if weights is not None:
        own, other = (f"{weight:.0%}" for weight in weights.tolist())
        mixed_in = (CLASSES[label] for label in others.tolist())
        captions = [f"{name} {own}\n{second} {other}" for name, second in zip(captions, mixed_in, strict=True)]
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8), captions


def try_augmentation(name: str) -> None:
    """Refuse a function of the user's that fails or breaks the contract, before anything is trained.

    Args:
        name: "package.module:function".

    Raises:
        InputError: as `find_function` and `own_augmentation`.
    """
    with generators_kept():
        own_augmentation(name)(torch.rand(2, 3, 32, 32))


def own_augmentation(name: str) -> Callable[[Tensor], Tensor]:
    """A function of the user's, from a batch's pixels to those to train on, checked whenever it is called.

    Args:
        name: "package.module:function".

    Raises:
        InputError: it cannot be imported; or, when called, it fails, or gives anything but pixels of the same shape,
            type and device.
    """
    function = find_function(name)

    def change(pixels: Tensor) -> Tensor:
        try:
            changed = function(pixels)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"{name} fails with {type(error).__name__}: {first_line(error)}") from error
        wanted = (pixels.shape, pixels.dtype, pixels.device)
        if not isinstance(changed, Tensor) or (changed.shape, changed.dtype, changed.device) != wanted:
            given = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise InputError(
                f"{name} gives {given} for pixels {pixels.dtype} {list(pixels.shape)}: it must return pixels of the "
                "same shape, type and device."
            )
        return changed

    return change


def draw_offsets(num_images: int, *, most: int, generator: Generator) -> Tensor:
    """Where each crop begins: int64 [N, 2] (row, column), uniform over 0 … most.

    Args:
        num_images: N.
        most: twice the padding, in pixels.
        generator: on the CPU.
    """
    return torch.randint(0, most + 1, (num_images, 2), generator=generator)


def draw_flips(num_images: int, *, probability: float, generator: Generator) -> Tensor:
    """Which images are mirrored: bool [N]; never for probability 0, always for 1.

    Args:
        num_images: N.
        probability: of each to be mirrored.
        generator: on the CPU.
    """
    return torch.rand(num_images, generator=generator) < probability


def alternate_flips(first: Tensor, indices: Tensor, *, epoch: int) -> Tensor:
    """Which images of a batch are mirrored, so that each is seen both ways in two epochs (Jordan 2024, section 3.6).

    Args:
        first: bool [N], mirrored in the even epochs.
        indices: int64 [B], the batch; on the CPU as well.
        epoch: from 0.
    """
    return ~first[indices] if epoch % 2 else first[indices]


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int, mode: str) -> Tensor:
    """Pad each side, crop to the original size, mirror left to right.

    Args:
        images: [N, C, H, W], any dtype, on any device; fastest in channels_last memory.
        offsets: int64 [N, 2], first row and column of the crop in the padded image, 0 … 2·padding.
        flips: bool [N], mirrored after the crop. Both are on the CPU, where they were drawn.
        padding: pixels per side; at most H - 1 for reflect.
        mode: "zero" (black) or "reflect" (mirrored about the border pixel, as in PyTorch's pad).

    Returns:
        [N, C, H, W] of the same dtype, in channels_last memory.
    """
    num_images, num_channels, height, width = images.shape
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    # Padded images: first those that are kept as they are, then those that are mirrored.
    kept, mirrored = (~flips).nonzero().flatten(), flips.nonzero().flatten()
    order = torch.cat([kept, mirrored])
    pixels = images.permute(0, 2, 3, 1).index_select(0, order.to(images.device))  # [N, H, W, C]
    padded = images.new_zeros(num_images, padded_height, padded_width, num_channels)
    inner = padded[:, padding : padding + height, padding : padding + width]
    inner[: len(kept)] = pixels[: len(kept)]
    inner[len(kept) :] = pixels[len(kept) :].flip(2)
    if mode == "reflect":
        for axis, length in ((2, padded_width), (1, padded_height)):
            for border, source in ((0, padding + 1), (length - padding, length - 2 * padding - 1)):
                padded.narrow(axis, border, padding).copy_(padded.narrow(axis, source, padding).flip(axis))

    # A row of a crop is a run of adjacent pixels: copied as one run of bytes, not pixel by pixel.
    column = torch.where(flips, padded_width - width - offsets[:, 1], offsets[:, 1])
    first_pixel = (order.argsort() * padded_height + offsets[:, 0]) * padded_width + column  # [N]
    rows = first_pixel.to(images.device)[:, None] + padded_width * torch.arange(height, device=images.device)  # [N, H]
    num_runs = num_images * padded_height * padded_width - width + 1
    runs = padded.flatten().as_strided((num_runs, width * num_channels), (num_channels, 1))
    cropped = runs.index_select(0, rows.flatten())  # [N·H, W·C]
    return cropped.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def gather_crops(images: Tensor, indices: Tensor, offsets: Tensor, flips: Tensor, *, padding: int, mode: str) -> Tensor:
    """What `crop_and_flip` makes of chosen images, in one gather whose shapes do not depend on the draws.

    Args:
        images: [M, C, H, W] in channels-last memory, any dtype, on any device.
        indices: int64 [N], of the images to take.
        offsets, flips, padding, mode: as of `crop_and_flip`, but on the device of the images.

    Returns:
        [N, C, H, W] of the same dtype, in channels-last memory.
    """
    _, num_channels, height, width = images.shape
    across = torch.arange(width, device=images.device)
    rows = torch.arange(height, device=images.device) + (offsets[:, :1] - padding)  # [N, H], outside 0 … H - 1 padding
    columns = torch.where(flips[:, None], width - 1 - across, across) + (offsets[:, 1:] - padding)  # [N, W]
    row_is_padding, column_is_padding = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    if mode == "reflect":
        rows, columns = reflected(rows, height), reflected(columns, width)
    else:
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pixels = (indices[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]  # [N, H, W]
    cropped = images.permute(0, 2, 3, 1).reshape(-1, num_channels).index_select(0, pixels.flatten())
    cropped = cropped.view(*pixels.shape, num_channels)
    if mode == "zero":
        cropped = cropped.masked_fill((row_is_padding[:, :, None] | column_is_padding[:, None, :])[..., None], 0)
    return cropped.permute(0, 3, 1, 2)


def reflected(places: Tensor, length: int) -> Tensor:
    """Places beyond an end of 0 … length - 1, by less than length, mirrored about the end."""
    return (length - 1) - ((length - 1) - places.abs()).abs()


def draw_jitter(num_images: int, *, most: float, generator: Generator) -> Tensor:
    """How much each image's brightness or contrast changes: float [N], uniform from -most to most.

    Args:
        num_images: N.
        most: the maximum.
        generator: on the CPU.
    """
    return (2 * torch.rand(num_images, generator=generator) - 1) * most


def jitter(pixels: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Contrast, then brightness jitter of each image (hiverge/cifar10-speedrun); nothing is clamped.

    Args:
        pixels: float [N, 3, H, W] in [0, 1].
        brightness: float [N], added to all pixels.
        contrast: float [N], the relative change of a pixel's distance to the image's mean; -1 is uniform grey.
    """
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
    factor = (1 + contrast).view(-1, 1, 1, 1)
    return pixels * factor + (mean * (1 - factor) + brightness.view(-1, 1, 1, 1))


def draw_lambda(*, alpha: float, generator: Generator) -> float:
    """The weight of the first image in a mixture, from Beta(alpha, alpha), by inverting its distribution function."""
    from scipy.special import betaincinv

    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    return float(betaincinv(alpha, alpha, uniform))


def mix(pixels: Tensor, partners: Tensor, blend: Tensor, box: Tensor) -> Tensor:
    """Blend each image with another (Zhang et al. 2018, "mixup"), and paste a box of it (Yun et al. 2019, "CutMix").

    Args:
        pixels: float [N, 3, H, W].
        partners: int64 [N], the other image of each.
        blend: float32, no dimension: the weight of the image itself outside the box, 0 to 1; 1 for CutMix.
        box: int64 [4], top, left, bottom, right in pixels, bottom and right excluded; empty for mixup.
    """
    rows, columns = (torch.arange(length, device=pixels.device) for length in pixels.shape[2:])
    top, left, bottom, right = box.unbind()
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    weight = blend * ~(in_rows[:, None] & in_columns)  # [H, W]
    return torch.lerp(take(pixels, partners), pixels, weight)


def draw_box(lam: float, *, size: int, generator: Generator) -> tuple[int, int, int, int]:
    """A box of area 1 - lam of a size × size image, its centre anywhere, cut off at the border."""
    side = round(size * (1 - lam) ** 0.5)
    centre = torch.randint(0, size, (2,), generator=generator)
    top, left = (int(value) - side // 2 for value in centre)
    return max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)


def box_lambda(box: tuple[int, int, int, int], *, size: int) -> float:
    """The fraction of a size × size image outside a box."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / size**2
