"""Images in every mode of Pillow, against what a person sees in them."""

import io
import math
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cifar.data.cifar10 import Dataset, load
from cifar.errors import InputError, WorldError
from cifar.serving.images import black_and_white, eight_bits, image_suffixes, read_image
from cifar.serving.limits import MAX_SIDE, decoding_bytes, is_rowwise

ORANGE = (230, 120, 40)
GREY = 144  # of ORANGE where a mode has no colours: its luma, 0.299 red + 0.587 green + 0.114 blue


def stored(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def colour(result: torch.Tensor) -> list[int]:
    """The colour of a uniform image."""
    assert result.dtype == torch.uint8
    assert result.shape == (3, 32, 32)
    assert (result == result[:, :1, :1]).all()
    return result[:, 0, 0].tolist()


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI", "WEBP"])
def test_a_32_by_32_image_is_returned_bit_for_bit(kind: str, sample: Dataset) -> None:
    images = load(sample, "train").images[:3]
    for image in [*images, torch.from_numpy(noise(32, 32)).permute(2, 0, 1)]:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        options = {"lossless": True} if kind == "WEBP" else {}
        assert torch.equal(read_image(stored(picture, kind, **options)), image)
        assert torch.equal(read_image(picture), image)
        opaque = picture.convert("RGBA")
        assert torch.equal(read_image(opaque), image)


MODES = [
    ("RGB", "PNG", ORANGE, 0), ("RGB", "JPEG", ORANGE, 3), ("RGB", "WEBP", ORANGE, 0), ("RGB", "AVIF", ORANGE, 3),
    ("RGB", "JPEG2000", ORANGE, 3), ("RGBA", "PNG", ORANGE, 0), ("RGBX", "TIFF", ORANGE, 0),
    ("P", "PNG", ORANGE, 0), ("P", "GIF", ORANGE, 0), ("P", "BMP", ORANGE, 0), ("PA", "TIFF", ORANGE, 0),
    ("CMYK", "TIFF", ORANGE, 2), ("CMYK", "JPEG", ORANGE, 3), ("LAB", "TIFF", ORANGE, 4),
    ("L", "PNG", (GREY,) * 3, 1), ("LA", "PNG", (GREY,) * 3, 1), ("1", "PNG", (255,) * 3, 0),
    pytest.param("YCbCr", "TIFF", ORANGE, 3, marks=pytest.mark.skipif(
        int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow 12 cannot read its own YCbCr TIFF")),
]  # fmt: skip


@pytest.mark.parametrize("mode, kind, expected, tolerance", MODES)
def test_a_colour_is_kept_in_every_mode(mode: str, kind: str, expected: tuple[int, ...], tolerance: int) -> None:
    plain = Image.new("RGB", (64, 48), ORANGE if mode != "1" else "white")
    if mode in ("P", "PA"):
        picture = plain.quantize(4)
        picture = picture if mode == "P" else picture.convert("PA")
    elif mode == "LAB":
        from PIL import ImageCms

        picture = ImageCms.profileToProfile(
            plain, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        picture = plain.convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = colour(read_image(stored(picture, kind, **options)))
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance


@pytest.mark.parametrize("mode", ["HSV", "RGBa", "La", "RGBX", "YCbCr"])
def test_a_colour_is_kept_in_modes_without_a_file_format(mode: str) -> None:
    plain = Image.new("RGB", (40, 40), ORANGE)
    picture = plain.convert("LA").convert("La") if mode == "La" else plain
    picture = picture.convert("RGBA").convert("RGBa") if mode == "RGBa" else picture
    picture = picture.convert(mode) if mode in ("HSV", "RGBX", "YCbCr") else picture
    assert picture.mode == mode
    found = colour(read_image(picture))
    expected = (GREY,) * 3 if mode == "La" else ORANGE
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 4


def test_transparency_is_composited_on_white() -> None:
    assert colour(read_image(Image.new("RGBA", (50, 50), (200, 0, 0, 0)))) == [255, 255, 255]
    half = colour(read_image(Image.new("RGBA", (50, 50), (200, 0, 0, 51))))  # alpha 0.2
    assert half == [round(0.2 * 200 + 0.8 * 255), 204, 204]
    assert colour(read_image(Image.new("LA", (50, 50), (0, 51)))) == [204] * 3
    # Invisible colours have no influence: fully transparent red beside opaque black.
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (255, 0, 0, 0)
    pixels[:, 32:] = (0, 0, 0, 255)
    result = read_image(Image.fromarray(pixels))
    assert (result[0] == result[1]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(kind: str) -> None:
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, *ORANGE])
    picture.paste(0, (0, 0, 32, 16))
    result = read_image(stored(picture, kind, transparency=0))
    assert (result[:, :16] == 255).all()
    assert result[:, 31, 31].tolist() == list(ORANGE)


@pytest.mark.parametrize("mode, kind", [("L", "PNG"), ("RGB", "PNG"), ("1", "PNG")])
def test_a_transparent_colour_without_palette_is_white(mode: str, kind: str) -> None:
    key = {"L": 100, "RGB": ORANGE, "1": 0}[mode]
    picture = Image.new(mode, (32, 32), key)
    assert colour(read_image(stored(picture, kind, transparency=key))) == [255, 255, 255]


def test_16_bit_greys_are_scaled_to_8_bits() -> None:
    levels = np.arange(256, dtype=np.uint16).repeat(4).reshape(32, 32) * 257
    for kind in ("PNG", "TIFF", "PPM"):
        result = read_image(stored(Image.fromarray(levels), kind))
        assert result[0].flatten().tolist() == (levels.flatten() // 257).tolist(), kind
    dark = Image.fromarray(np.full((32, 32), 257 * 3, np.uint16))
    assert colour(read_image(dark)) == [3, 3, 3]  # not stretched
    big_endian = Image.frombytes("I;16B", (32, 32), levels.astype(">u2").tobytes())
    assert read_image(big_endian)[1].flatten().tolist() == (levels.flatten() // 257).tolist()


def test_16_bit_colours_are_scaled_to_8_bits() -> None:
    """A 16-bit RGB PNG, which Pillow cannot write, assembled by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixel = struct.pack(">HHH", *(257 * level for level in ORANGE))
    rows = (b"\0" + pixel * 32) * 32
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert colour(read_image(io.BytesIO(data))) == list(ORANGE)


@pytest.mark.parametrize(
    "values, mode, expected",
    [
        ([0.0, 0.5, 1.0], "F", [0, 128, 255]),
        ([0.0, 127.0, 254.0], "F", [0, 127, 254]),
        ([0.0, 257.0, 65_535.0], "F", [0, 1, 255]),
        ([-1.0, 0.0, 1.0], "F", [0, 128, 255]),
        ([0.0, 1e6, 4e6], "F", [0, 64, 255]),
        ([0, 1, 255], "I", [0, 1, 255]),
        ([0, 257, 256], "I", [0, 1, 1]),
        ([-100, 0, 100], "I", [0, 128, 255]),
        ([0, 2**30, 2**31 - 1], "I", [0, 128, 255]),
        ([5, 5, 5], "I;16", [0, 0, 0]),
        ([-7, -7, -7], "I", [0, 0, 0]),
    ],
)
def test_white_is_inferred_from_mode_and_values(values: list[float], mode: str, expected: list[int]) -> None:
    kind = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
    limits = black_and_white(min(values), max(values), mode=mode)
    assert eight_bits(np.array([values], kind), *limits)[0].tolist() == expected


@pytest.mark.parametrize("mode, kind", [("I", np.int32), ("F", np.float32)])
def test_32_bit_files_are_scaled_to_8_bits(mode: str, kind: type, tmp_path: Path) -> None:
    values = np.arange(1024, dtype=kind).reshape(32, 32) / kind(1)
    Image.fromarray(values.astype(kind)).save(tmp_path / "wide.tiff")
    with Image.open(tmp_path / "wide.tiff") as image:
        assert image.mode == mode
    result = read_image(tmp_path / "wide.tiff")
    assert result[2].flatten().tolist() == [round(value * 255 / 65_535) for value in range(1024)]


def test_values_that_are_not_finite_are_refused() -> None:
    values = np.full((40, 40), np.nan, np.float32)
    with pytest.raises(WorldError, match="not finite"):
        read_image(stored(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = Image.new("RGB", (64, 64), "white")
    upright.paste("red", (0, 0, 32, 32))
    upright.paste("blue", (32, 0, 64, 32))
    # As a rotated camera stores it: the inverse of what the orientation asks a viewer to do.
    turn = Image.Transpose
    undo = {
        1: None, 2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE, 6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }[orientation]  # fmt: skip
    picture = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    result = read_image(stored(picture, kind, exif=exif, **options)).int()
    for place, expected in (((4, 4), (255, 0, 0)), ((4, 28), (0, 0, 255)), ((28, 4), (255, 255, 255))):
        assert (result[:, *place] - torch.tensor(expected)).abs().max() < 20, (place, orientation)


@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0", b""])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_are_ignored(exif: bytes, kind: str) -> None:
    picture = Image.new("RGB", (40, 40), ORANGE)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = colour(read_image(stored(picture, kind, exif=b"Exif\0\0" + exif, **options)))
    assert max(abs(a - b) for a, b in zip(found, ORANGE, strict=True)) <= 3
    data = stored(Image.fromarray(noise(64, 64)), kind, exif=b"Exif\0\0" + exif).getvalue()
    with pytest.raises(WorldError):  # but truncation is not
        read_image(io.BytesIO(data[: len(data) // 2]))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), name) for name in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(file) as image:
        assert getattr(image, "n_frames", 1) == 3
    file.seek(0)
    assert colour(read_image(file)) == [255, 0, 0]


@pytest.mark.parametrize("height, width", [(32, 80), (81, 32), (33, 32), (32, 33), (32, 35)])
def test_the_central_square_is_read(height: int, width: int) -> None:
    pixels = noise(height, width)
    top, left = (height - 32) // 2, (width - 32) // 2
    expected = torch.from_numpy(pixels[top : top + 32, left : left + 32]).permute(2, 0, 1)
    assert torch.equal(read_image(Image.fromarray(pixels)), expected)


def slow_lanczos(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Lanczos with three lobes, stretched by the ratio where the image shrinks, channel by channel."""

    def kernel(x: float) -> float:
        return math.sin(math.pi * x) / (math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x / 3) if x else 1.0

    side = len(pixels)
    ratio = side / 32
    width = max(1.0, ratio)
    weights = np.zeros((32, side))
    for row in range(32):
        centre = (row + 0.5) * ratio
        for column in range(side):
            distance = (column + 0.5 - centre) / width
            if abs(distance) < 3:
                weights[row, column] = kernel(distance)
    weights /= weights.sum(1, keepdims=True)
    across = np.rint(np.einsum("ij,hjc->hic", weights, pixels.astype(float)).clip(0, 255))
    return np.einsum("ij,jwc->iwc", weights, across).clip(0, 255)


@pytest.mark.parametrize("side", [1, 7, 31, 33, 48, 64, 200])
def test_the_resize_equals_slow_lanczos(side: int) -> None:
    pixels = noise(side, side)
    result = read_image(Image.fromarray(pixels)).permute(1, 2, 0).numpy()
    assert np.abs(result - slow_lanczos(pixels)).max() <= 1.0


def test_fine_stripes_become_grey_without_aliasing() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::3] = 255  # a third of white: aliasing would show bands
    result = read_image(Image.fromarray(stripes))[:, :, 2:-2]
    assert (result.int() - 85).abs().max() <= 2


def test_a_pillow_image_is_not_changed() -> None:
    picture = Image.fromarray(noise(40, 50, 4))
    before = picture.tobytes()
    read_image(picture)
    assert (picture.mode, picture.size, picture.tobytes()) == ("RGBA", (50, 40), before)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = stored(Image.fromarray(noise(64, 64)), kind).getvalue()
    for fraction in (0.02, 0.5, 0.9):
        with pytest.raises(WorldError):
            read_image(io.BytesIO(data[: int(fraction * len(data))]))


def test_damaged_files_are_read_or_refused() -> None:
    generator = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "TGA", "PSD", "DDS"):
        source = Image.fromarray(noise(24, 24))
        whole = stored(source, kind if kind != "PSD" else "PNG").getvalue()
        for _ in range(20):
            data = bytearray(whole)
            for place in generator.integers(0, len(data), 6):
                data[place] = generator.integers(256)
            with suppress(WorldError):
                assert read_image(io.BytesIO(bytes(data))).shape == (3, 32, 32)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has this many pixels of one bit."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * 10_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(11_000, 11_000), (100_000, 100_000), (MAX_SIDE + 1, 1), (1, 89_000_000)])
def test_decompression_bombs_are_refused(width: int, height: int) -> None:
    """Pillow would only warn of the first, and say nothing of the last two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a program that uses this may have set it
        with pytest.raises(WorldError, match="the image is too large"):
            read_image(io.BytesIO(bomb(width, height)))


LARGE = [
    ("PNG", "RGBA", {}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}), ("GIF", "P", {}),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}), ("WEBP", "RGBA", {"method": 0}), ("AVIF", "RGBA", {"speed": 10}),
    ("JPEG2000", "RGBA", {}), ("TGA", "RGBA", {}), ("TIFF", "F", {}),
]  # fmt: skip
PEAK = """
import sys
from cifar.serving.images import read_image
def of(key):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])
for path in sys.argv[1::2]:
    read_image(path)  # warm: libraries and their buffers
for path in sys.argv[2::2]:
    before = of("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    read_image(path)
    print(of("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of memory")
def test_memory_is_what_the_limit_counts(tmp_path: Path) -> None:
    names, counted = [], []
    for number, (kind, mode, options) in enumerate(LARGE):
        for side in (64, 800):
            picture = Image.fromarray(noise(side // 8, side // 8, 4)).resize((side, side))
            picture = picture.convert("RGB" if mode in ("P", "CMYK") else mode)
            names.append(tmp_path / f"{number}-{side}.{kind}")
            picture.convert(mode).save(names[-1], kind, **options)
        with Image.open(names[-1]) as image:
            counted.append(decoding_bytes(image))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, names)], capture_output=True, text=True, check=True, timeout=100
    )
    for line, bound, (kind, mode, _) in zip(done.stdout.splitlines(), counted, LARGE, strict=True):
        assert int(line) <= bound + 20 * side**2, (kind, mode)  # the latter to convert a strip


@pytest.mark.parametrize(
    "options, expected", [({}, True), ({"subsampling": 0, "exif": b"Exif\0\0"}, True), ({"progressive": True}, False)]
)
def test_a_jpeg_that_keeps_coefficients_is_recognised(options: dict[str, object], expected: bool) -> None:
    file = stored(Image.fromarray(noise(40, 40)), "JPEG", **options)
    assert is_rowwise(file) is expected
    scan = file.getvalue().index(b"\xff\xda")
    one_channel = bytearray(file.getvalue())
    one_channel[scan + 4] = 1
    assert is_rowwise(io.BytesIO(one_channel)) is False
    assert all(is_rowwise(io.BytesIO(file.getvalue()[:length])) is False for length in range(scan + 4))


def test_a_tile_counts_where_it_is_larger_than_its_image() -> None:
    data = stored(Image.new("L", (8, 8)), "TIFF", tiffinfo={65_000: 60_000, 65_001: 60_000}).getvalue()
    for private, of_tile in ((65_000, 322), (65_001, 323)):  # which Pillow would not write
        data = data.replace(struct.pack("<H", private), struct.pack("<H", of_tile))
    with pytest.raises(WorldError, match="too large"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("height, width", [(41, 64), (64, 41), (38, 33)])
def test_turned_strips_equal_the_turned_image(
    orientation: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar.serving.images.STRIP", 500)
    picture = Image.fromarray(noise(height, width))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(picture)
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    box = (left, top, left + side, top + side)
    expected = np.array(upright.resize((32, 32), Image.Resampling.LANCZOS, box=box))
    assert read_image(picture).permute(1, 2, 0).tolist() == expected.tolist()


def test_a_large_image_below_the_limit_is_read(tmp_path: Path) -> None:
    Image.new("1", (5_000, 5_000), 1).save(tmp_path / "large.png")
    assert colour(read_image(tmp_path / "large.png")) == [255, 255, 255]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    for name in ("text.png", "empty.png", "script.eps"):
        with pytest.raises(WorldError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(WorldError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match=r"There is no file .*none\.png"):
        read_image(str(tmp_path / "none.png"))


def test_suffixes_are_those_of_the_accepted_formats() -> None:
    assert {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"} <= image_suffixes()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".txt"} & image_suffixes()
