"""Small good files with a few bytes changed, by seed: read, or refused in one sentence."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from untrained_runs import make_untrained

from cifar.errors import InputError, WorldError
from cifar.serving.classifier import load_model
from cifar.serving.images import read_image

MUTATIONS = 40


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """A few bytes changed, a piece doubled or removed, or the end cut off."""
    changed = bytearray(data)
    for place in generator.integers(0, len(changed), generator.integers(1, 9)):
        changed[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.integers(256)])
    start, end = sorted(generator.integers(0, len(changed), 2))
    kind = generator.integers(6)
    if kind == 0:
        del changed[start:end]
    elif kind == 1:
        changed[start:start] = changed[start:end]
    elif kind == 2:
        del changed[end:]
    return bytes(changed)


def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    "kind, mode",
    [("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA"), ("TIFF", "RGBA"),
     ("TIFF", "F"), ("BMP", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"), ("TGA", "RGB"), ("PPM", "RGB"),
     ("QOI", "RGB")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it repairs
def test_a_mutated_image_is_read_or_refused(kind: str, mode: str) -> None:
    file = io.BytesIO()
    source = Image.fromarray(pixels())
    (source if mode == "RGBA" else source.convert("RGB").convert(mode)).save(file, kind)
    generator = np.random.default_rng(7)
    for _ in range(MUTATIONS):
        with suppress(WorldError):
            image = read_image(io.BytesIO(mutate(file.getvalue(), generator)))
            assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)


def test_mutated_weights_are_read_or_refused(tmp_path: Path) -> None:
    folder = make_untrained(tmp_path / "run", "cnn")
    path, generator = folder / "model.safetensors", np.random.default_rng(7)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(whole[:header], generator) + whole[header:])
        with suppress(InputError, WorldError):
            load_model(folder, device="cpu")
