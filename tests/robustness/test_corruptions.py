"""Corruptions: the same images for the same seed, each severity alone, against slow versions and known properties."""

import resource
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import Tensor

from cifar.data.cache import cache_folder
from cifar.data.cifar10 import Dataset, load
from cifar.errors import WorldError
from cifar.robustness import corruptions, distort, weather
from cifar.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted_images


@pytest.fixture(scope="module")
def images(sample: Dataset) -> Tensor:
    return load(sample, "test").images[:40]


@pytest.fixture(scope="module")
def pixels(images: Tensor) -> distort.Pixels:
    return (images.permute(0, 2, 3, 1).numpy() / 255).astype(np.float32)


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_there_are_fifteen_in_five_severities() -> None:
    assert len(CORRUPTIONS) == 15
    assert all(len(set(corruption.settings)) == len(SEVERITIES) == 5 for corruption in CORRUPTIONS.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_images_and_every_severity_differs(name: str, images: Tensor) -> None:
    sets = [corrupt(images, name, severity, seed=0) for severity in SEVERITIES]
    for severity, corrupted in zip(SEVERITIES, sets, strict=True):
        assert corrupted.dtype == torch.uint8
        assert corrupted.shape == images.shape
        assert corrupted.is_contiguous()
        assert torch.equal(corrupted, corrupt(images, name, severity, seed=0))
    differences = [(corrupted.float() - images.float()).abs().mean().item() for corrupted in sets]
    assert all(0.5 < difference < 90 for difference in differences)
    assert all(not torch.equal(milder, stronger) for milder, stronger in pairwise(sets))
    is_random = not torch.equal(sets[4], corrupt(images, name, 5, seed=1))
    assert is_random == (name not in {
        "defocus blur", "zoom blur", "brightness", "contrast", "pixelate", "jpeg compression",
    })  # fmt: skip


def test_draws_of_a_chunk_do_not_depend_on_later_images(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "CHUNK", 16)
    for name in ("gaussian noise", "glass blur", "snow", "fog", "elastic transform"):
        assert torch.equal(corrupt(images[:32], name, 3, seed=0), corrupt(images, name, 3, seed=0)[:32])


def test_noise_has_its_size() -> None:
    grey = np.full((50, 32, 32, 3), 0.5, dtype=np.float32)
    noisy = distort.gaussian_noise(grey, 0.1, random())
    assert (noisy.mean(), noisy.std()) == pytest.approx((0.5, 0.1), abs=1e-3)
    shot = distort.shot_noise(grey, 50, random())
    assert (shot.mean(), shot.std()) == pytest.approx((0.5, (0.5 / 50) ** 0.5), abs=1e-3)
    salted = distort.impulse_noise(grey, 0.07, random())
    assert ((salted == 0).mean(), (salted == 1).mean()) == pytest.approx((0.035, 0.035), abs=2e-3)
    assert np.array_equal(distort.impulse_noise(grey, 0.0, random()), grey)
    assert set(np.unique(distort.impulse_noise(grey, 1.0, random()))) == {0, 1}


def test_blurs_leave_a_flat_image_alone_and_keep_the_mean() -> None:
    flat = np.full((3, 32, 32, 3), 0.3, dtype=np.float32)
    for name in ("defocus blur", "glass blur", "motion blur", "zoom blur", "elastic transform", "pixelate"):
        for setting in CORRUPTIONS[name].settings:
            assert_allclose(CORRUPTIONS[name].apply(flat, setting, random()), flat, atol=1e-5)
    dot = np.zeros((1, 32, 32, 3), dtype=np.float32)
    dot[0, 16, 16] = 1
    for name in ("defocus blur", "motion blur"):
        for setting in CORRUPTIONS[name].settings:
            assert CORRUPTIONS[name].apply(dot, setting, random()).sum() == pytest.approx(3, rel=1e-3)


def test_defocus_is_a_disk() -> None:
    dot = np.zeros((1, 33, 33, 1), dtype=np.float32)
    dot[0, 16, 16] = 1
    spot = distort.defocus_blur(dot, (2, 1e-3), random())[0, :, :, 0]
    assert (spot > 0).sum() == 13  # grid points within 2 of the centre
    assert spot.max() == pytest.approx(1 / 13)


def test_a_smear_runs_along_its_line() -> None:
    dot = np.zeros((2, 32, 32, 1), dtype=np.float32)
    dot[:, 16, 16] = 1
    along, down = distort.smear(dot, (3, 2.0), np.array([0.0, 90.0]))[..., 0]
    weights = np.exp(-(np.arange(7) ** 2) / 8)
    assert along[16, 10:17][::-1] == pytest.approx(weights / weights.sum(), abs=1e-6)
    assert down[10:17, 16][::-1] == pytest.approx(weights / weights.sum(), abs=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.05, 1.11, 1.2, 1.25, 1.75, 2.25])
def test_zoom_is_that_of_the_published_script(factor: float, pixels: distort.Pixels) -> None:
    """Its steps for one image, by scipy: cut, enlarge, cut again."""
    from scipy.ndimage import zoom

    for image, ours in zip(pixels[:4], distort.zoom(pixels[:4], factor), strict=True):
        side = -int(-32 // factor)  # rounded up
        first = (32 - side) // 2
        enlarged = zoom(image[first : first + side, first : first + side], (factor, factor, 1), order=1)
        cut = (len(enlarged) - 32) // 2
        assert_allclose(ours, enlarged[cut : cut + 32, cut : cut + 32], atol=1e-5)


def test_zoom_blur_is_a_mean(pixels: distort.Pixels) -> None:
    slow = (pixels + sum(distort.zoom(pixels, factor) for factor in (1, 1.01, 1.02))) / 4
    assert_allclose(distort.zoom_blur(pixels, 1.02, random()), slow, atol=1e-6)


@pytest.mark.parametrize("mode, reflect", [("mirror", distort.mirrored), ("reflect", distort.reflected)])
def test_sampling_between_pixels_is_scipys(mode: str, reflect: Callable[..., Any], pixels: distort.Pixels) -> None:
    from scipy.ndimage import map_coordinates

    rows, columns = random().uniform(-40, 70, size=(2, 3, 32, 32))
    ours = distort.interpolate(pixels[:3], rows, columns, reflect=reflect)
    for index in range(3):
        for channel in range(3):
            image = pixels[index, :, :, channel]
            expected = map_coordinates(image, [rows[index], columns[index]], order=1, mode=mode)
            assert_allclose(ours[index, :, :, channel], expected, atol=1e-5)


def test_brightness_is_that_of_hue_saturation_and_value(pixels: distort.Pixels) -> None:
    from colorsys import hsv_to_rgb, rgb_to_hsv

    few = np.concatenate((pixels[0, :4, :4].reshape(-1, 3), np.zeros((1, 3), dtype=np.float32)))
    slow = []
    for red, green, blue in few.tolist():
        hue, saturation, value = rgb_to_hsv(red, green, blue)
        slow.append(hsv_to_rgb(hue, saturation, min(value + 0.2, 1)))
    brighter = distort.brightness(few.reshape(1, 1, -1, 3), 0.2, random()).reshape(-1, 3)
    assert brighter == pytest.approx(np.array(slow), abs=1e-5)


def test_contrast_scales_about_the_mean(pixels: distort.Pixels) -> None:
    low = distort.contrast(pixels, 0.15, random())
    assert_allclose(low.mean(axis=(1, 2)), pixels.mean(axis=(1, 2)), atol=1e-5)
    assert_allclose(low.std(axis=(1, 2)), 0.15 * pixels.std(axis=(1, 2)), atol=1e-5)
    assert_allclose(distort.contrast(pixels, 1.0, random()), pixels, atol=1e-6)


def test_elastic_with_nothing_to_move_leaves_images_alone(pixels: distort.Pixels) -> None:
    assert_allclose(distort.elastic_transform(pixels, (0, 0, 0), random()), pixels, atol=1e-4)
    across = np.broadcast_to(np.arange(32, dtype=np.float32)[None, None, :, None], (20, 32, 32, 1))
    moved = distort.elastic_transform(np.ascontiguousarray(across), (0, 0, 2.0), random())[:, 8:24, 8:24, 0]
    assert np.abs(np.diff(moved, n=2, axis=2)).max() < 1e-3  # affine: lines stay lines
    assert 0.1 < np.abs(moved - across[:, 8:24, 8:24, 0]).max() < 6


@pytest.mark.parametrize("setting", [(0, 0, 2.56), (1.6, 6.4, 2.24), (3.2, 0.96, 0.96)])
def test_elastic_transform_is_that_of_the_published_script(
    setting: tuple[float, float, float], pixels: distort.Pixels
) -> None:
    """Its two steps for one image, with the same draws: an affine map, a smooth displacement, each interpolated."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    factor, std, reach = setting
    ours, generator = distort.elastic_transform(pixels[:3], setting, random()), random()
    first = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])  # across, down
    second = first + generator.uniform(-reach, reach, size=(3, 3, 2))
    steps = generator.uniform(-1, 1, size=(2, 3, 32, 32))
    down, across = np.mgrid[:32, :32].astype(float)
    for index in range(3):
        forward = np.linalg.lstsq(np.c_[first, np.ones(3)], second[index], rcond=None)[0].T  # [2, 3]
        inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
        sources = inverse @ np.stack([across.ravel(), down.ravel(), np.ones(32 * 32)])
        moves = [factor * gaussian_filter(step[index], std, mode="reflect", truncate=3) for step in steps]
        for channel in range(3):
            image = pixels[index, :, :, channel]
            mapped = map_coordinates(image, [sources[1], sources[0]], order=1, mode="mirror").reshape(32, 32)
            expected = map_coordinates(mapped, [down + moves[0], across + moves[1]], order=1, mode="reflect")
            assert_allclose(ours[index, :, :, channel], expected, atol=1e-4)


def test_pixelate_is_pillows(images: Tensor, pixels: distort.Pixels) -> None:
    pixelated = distort.pixelate(pixels[:1], 0.65, random())[0]
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    small = picture.resize((20, 20), Image.Resampling.BOX)
    expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX)) / 255
    assert_allclose(pixelated, expected, atol=1.1 / 255)  # Pillow rounds in between


def test_clouds_are_plasma() -> None:
    smooth, rough = (weather.clouds(30, side=32, decay=decay, random=random()) for decay in (3.0, 1.1))
    for cloud in (smooth, rough):
        assert cloud.shape == (30, 32, 32, 1)
        assert cloud.min(axis=(1, 2, 3)) == pytest.approx(0)
        assert cloud.max(axis=(1, 2, 3)) == pytest.approx(1)
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.5 * np.abs(np.diff(rough, axis=1)).mean()


def test_weather_brightens_or_veils(pixels: distort.Pixels) -> None:
    for setting in CORRUPTIONS["snow"].settings:
        assert (np.clip(weather.snow(pixels, setting, random()), 0, 1) >= pixels - 1e-5).mean() > 0.999
    foggy = weather.fog(pixels, (1.5, 1.75), random())
    assert (foggy.max(axis=(1, 2, 3)) <= pixels.max(axis=(1, 2, 3)) + 1e-5).all()
    assert foggy.std() < pixels.std()
    assert_allclose(weather.fog(pixels, (0.0, 2), random()), pixels, atol=1e-6)
    assert_allclose(weather.frost(pixels, (1, 0.0), random()), pixels, atol=1e-6)


def test_the_cache_is_used_and_a_damaged_file_is_made_anew(images: Tensor) -> None:
    for number in range(2):
        cached, made = corrupted_images(images, "glass blur", 2, seed=0, data_sha256="a")
        assert made == (number == 0)
        assert torch.equal(cached, corrupt(images, "glass blur", 2, seed=0))
    (path,) = (cache_folder() / "corruptions").glob("*/*")
    assert path.name == "glass-blur-2.npz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    for damaged in (bytes(content), bytes(content[:3000]), b""):
        path.write_bytes(damaged)
        again, made = corrupted_images(images, "glass blur", 2, seed=0, data_sha256="a")
        assert made
        assert torch.equal(again, cached)
    for other in ({"seed": 1, "data_sha256": "a"}, {"seed": 0, "data_sha256": "b"}):
        assert corrupted_images(images, "glass blur", 2, **other)[1]  # type: ignore[arg-type]


def test_no_flipped_bit_gives_other_images(images: Tensor) -> None:
    cached, _ = corrupted_images(images[:2], "fog", 1, seed=0, data_sha256="a")
    (path,) = (cache_folder() / "corruptions").glob("*/*")
    content = path.read_bytes()
    for at in (*range(0, 300), *range(300, len(content) - 200, 211), *range(len(content) - 200, len(content))):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        read = corruptions.read_images(path, images[:2])
        assert read is None or torch.equal(read, cached)
    path.write_bytes(content)
    assert corruptions.read_images(path, images) is None  # of another number


@pytest.mark.parametrize("severity", [1, 2])  # the first is in the cache already
def test_what_a_killed_process_left_is_removed(severity: int, images: Tensor) -> None:
    corrupted_images(images, "fog", 1, seed=0, data_sha256="a")
    (path,) = (cache_folder() / "corruptions").glob("*/*")
    path.with_name(".fog-2.npz.0123.part").write_text("half")
    path.with_name(".lock").write_text("")
    corrupted_images(images, "fog", severity, seed=0, data_sha256="a")
    assert sorted(file.name for file in path.parent.iterdir()) == ["fog-1.npz", "fog-2.npz"][:severity]


def test_a_disk_that_fills_up_is_one_sentence(images: Tensor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 5_000, 120_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(WorldError, match=r"fog-1\.npz: File too large: free .* CIFAR_HOME"):
                corrupted_images(images, "fog", 1, seed=0, data_sha256="a")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((cache_folder() / "corruptions").glob("*/*")) == []


def test_a_new_version_is_another_cache(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert corrupted_images(images, "fog", 1, seed=0, data_sha256="a")[1]
    monkeypatch.setattr(corruptions, "VERSION", corruptions.VERSION + 1)
    assert corrupted_images(images, "fog", 1, seed=0, data_sha256="a")[1]


def test_too_little_space_is_told_before(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"seed": 0, "data_sha256": "a"}
    needed = 75 * len(images) * 3072
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free})())
        if fits:
            corruptions.check_room(len(images), **where)  # type: ignore[arg-type]
        else:
            with pytest.raises(WorldError, match=r"9 MB .*CIFAR_HOME"):
                corruptions.check_room(len(images), **where)  # type: ignore[arg-type]
    corrupted_images(images, "fog", 1, **where)  # type: ignore[arg-type]
    corruptions.check_room(len(images), **where)  # type: ignore[arg-type]


def test_a_forbidden_disk_is_one_sentence(images: Tensor) -> None:
    cache_folder().mkdir()
    Path(cache_folder() / "corruptions").write_text("a file where the folder belongs")
    with pytest.raises(WorldError, match=r"MB .*CIFAR_HOME"):
        corrupted_images(images, "fog", 1, seed=0, data_sha256="a")
