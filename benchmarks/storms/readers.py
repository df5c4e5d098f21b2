"""What reads strangers' files and people's typing, with inputs: good files to mutate, or a strategy of Hypothesis.

Each function of READERS prepares a folder and gives a reader with its inputs.
"""

import contextlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Reader = Callable[[Any], object]
PICTURES = (
    ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
    ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("WEBP", "RGB"), ("PPM", "RGB"), ("ICO", "RGBA"), ("TGA", "RGB"),
    ("PCX", "L"), ("DDS", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"), ("SGI", "RGB"), ("ICNS", "RGBA"),
    ("QOI", "RGB"), ("MSP", "1"), ("XBM", "1"),
)  # fmt: skip


def images(_folder: Path) -> tuple[Reader, list[bytes]]:
    """`read_image` on pictures of every kind that Pillow writes."""
    from PIL import Image

    from cifar.serving.images import read_image

    good = []
    base = Image.linear_gradient("L").resize((40, 33))
    for kind, mode in PICTURES:
        file = io.BytesIO()
        with contextlib.suppress(Exception):  # of formats that this Pillow does not write
            base.convert("L" if mode == "I;16" else mode).convert(mode).save(file, kind)
            good.append(file.getvalue())
    return lambda data: read_image(io.BytesIO(data)), good


def archives(folder: Path) -> tuple[Reader, list[bytes]]:
    """`decode_path` on the official archives and the mirror's, with two images a batch."""
    from PIL import Image

    from cifar.data.decode import decode_path

    rng = np.random.default_rng(0)
    stems = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pixels = {stem: rng.integers(0, 256, (2, 3072), dtype=np.uint8) for stem in stems}
    plain = {f"{stem}.bin": b"".join(b"\3" + row.tobytes() for row in rows) for stem, rows in pixels.items()}
    pickled = {stem: pickle.dumps({b"data": rows, b"labels": [3, 4]}, 2) for stem, rows in pixels.items()}
    sheets = {}
    for stem, rows in pixels.items():
        file = io.BytesIO()
        Image.fromarray(rows.reshape(2, 3, 1024).transpose(0, 2, 1).copy()).save(file, "PNG")
        sheets[f"{stem}.png"] = file.getvalue()
    sheets["train_lables.json"], sheets["test_lables.json"] = json.dumps([3, 4] * 5).encode(), b"[3, 4]"
    path = folder / "archive"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        decode_path(path)

    return read, [archive(plain, "w"), archive(pickled, "w"), archive(sheets, "w"), archive(pickled, "w:gz")]


def archive(files: dict[str, bytes], mode: Any) -> bytes:
    """A tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def a_run(folder: Path) -> Path:
    """A run folder as an evaluation leaves it, with random weights."""
    import torch
    from safetensors.torch import save

    from cifar.models import build_model
    from cifar.recipes import recipe_for, to_json

    run = folder / "run"
    run.mkdir(exist_ok=True)
    recipe = recipe_for("cnn")
    torch.manual_seed(0)
    (run / "recipe.json").write_text(to_json(recipe))
    (run / "model.safetensors").write_bytes(save(build_model(recipe).state_dict()))
    names = (
        "epoch,learning_rate,train_loss,train_accuracy,validation_loss,validation_accuracy,seconds,images_per_second"
    )
    (run / "metrics.csv").write_text(
        f"{names},seconds,images_per_second\n1,0.1,2.3,0.1,2.3,0.1,1.0,900\n2,0.1,2.2,0.1,2.3,0.1,1.0,900\n"
    )
    return run


def weights(folder: Path) -> tuple[Reader, list[bytes]]:
    """`load_network` and `read_weights` on safetensors and PyTorch's files."""
    import torch

    from cifar.models.weights import read_weights
    from cifar.runs import load_network

    run = a_run(folder)
    path, plain, other = run / "model.safetensors", folder / "w.pth", folder / "w.safetensors"
    file = io.BytesIO()
    torch.save({"a.weight": torch.ones(3, 2), "b": torch.zeros(1)}, file)
    good = [path.read_bytes(), file.getvalue()]
    from safetensors.torch import save

    good.append(save({"a.weight": torch.ones(3, 2), "b": torch.zeros(1)}))

    def read(data: bytes) -> None:
        from cifar.errors import InputError, WorldError

        plain.write_bytes(data)
        other.write_bytes(data)
        path.write_bytes(data)
        for reader in (lambda: read_weights(plain), lambda: read_weights(other), lambda: load_network(run)):
            with contextlib.suppress(InputError, WorldError):
                reader()

    return read, good


def onnx(folder: Path) -> tuple[Reader, list[bytes]]:
    """`read_onnx` on a small network."""
    from onnx import TensorProto, helper, numpy_helper

    from cifar.models.onnx_weights import read_onnx

    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.random((3, 4), dtype=np.float32), name) for name in ("onnx::MatMul_1", "bias")
    ]
    node = helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/blocks/blocks.0/fc/MatMul")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    good = helper.make_model(helper.make_graph([node], "net", ends[:1], ends[1:], tensors)).SerializeToString()
    path = folder / "w.onnx"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_onnx(path)

    return read, [good]


def arrays(folder: Path) -> tuple[Reader, list[bytes]]:
    """`read_predictions` on predictions.npz, packed and not."""
    from cifar.runs import PREDICTIONS, read_predictions

    run = a_run(folder)
    values = {"probs": np.full((3, 10), 0.1, np.float32), "labels": np.arange(3), "split": np.array("test")}
    good = []
    for save in (np.savez_compressed, np.savez):
        file = io.BytesIO()
        save(file, **values)
        good.append(file.getvalue())
    file = io.BytesIO()
    np.save(file, values["probs"])

    def read(data: bytes) -> None:
        (run / PREDICTIONS).write_bytes(data)
        read_predictions(run)

    return read, [*good, file.getvalue()]


def text_readers() -> dict[str, Any]:
    from storms import typed

    return {"records": typed.records, "metrics": typed.metrics, "settings": typed.settings,
            "recipes": typed.recipes, "commands": typed.commands}  # fmt: skip


def later(name: str) -> Callable[[Path], tuple[Reader, Any]]:
    """A reader of text, whose module wants Hypothesis."""
    return lambda folder: text_readers()[name](folder)


READERS: dict[str, Callable[[Path], tuple[Reader, Any]]] = {
    "images": images, "archives": archives, "weights": weights, "onnx": onnx, "arrays": arrays,
} | {name: later(name) for name in ("records", "metrics", "settings", "recipes", "commands")}  # fmt: skip
