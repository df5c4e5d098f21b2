"""Exported files against the network itself, and which are refused."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from made_runs import summary_of
from onnx import numpy_helper
from torch import Tensor, nn
from untrained_runs import make_untrained

from cifar import __version__, load_model
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.files import write_json
from cifar.recipes import from_mapping
from cifar.runs import clear, data_of_run, run_recipe
from cifar.serving.export import check_parity, export_folder, export_onnx
from cifar.serving.onnx_file import open_session, read_metadata, run_session, to_onnx

MODELS = ("cnn", "resnet20", "vit-tiny")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {model: make_untrained(folder / model, model) for model in MODELS}


@pytest.fixture(scope="module")
def images(sample: Dataset) -> Tensor:
    return load(sample, "train").images[:17]


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cnn.onnx, which takes bytes, resnet20.onnx and vit-tiny.onnx, and the record of each."""
    folder = tmp_path_factory.mktemp("exported")
    write_json(runs["cnn"] / "summary.json", summary_of(data="CIFAR-10", data_sha256="0123"))
    for model in MODELS:
        kind = "uint8" if model == "cnn" else "float"
        content, record = export_onnx(runs[model], name=f"{model}.onnx", kind=kind)
        (folder / f"{model}.onnx").write_bytes(content)
        write_json(folder / f"{model}.json", record)
    return folder


@pytest.fixture(scope="module")
def cnn(runs: dict[str, Path]) -> bytes:
    """The CNN's file that takes pixels."""
    return to_onnx(load_model(runs["cnn"], device="cpu").network, kind="float", metadata={})


@pytest.mark.parametrize("model", MODELS)
def test_an_onnx_file_gives_the_answers_of_the_network(
    model: str, exported: Path, runs: dict[str, Path], images: Tensor
) -> None:
    """By onnxruntime alone, as somebody who has only the file would use it."""
    file, record = exported / f"{model}.onnx", json.loads((exported / f"{model}.json").read_text())
    assert record["parity"]["images"] == 1_200
    assert record["parity"]["largest_difference"] <= 1e-4
    assert (record["file"], record["bytes"]) == (file.name, file.stat().st_size)
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file)
    array = images.numpy() if model == "cnn" else (images.numpy() / np.float32(255)).astype(np.float32)
    expected = load_model(runs[model], device="cpu").predict(images).probs.numpy()
    for count in (1, 2, 17):  # any number of images
        (probs,) = session.run(None, {"images": array[:count]})
        np.testing.assert_allclose(probs, expected[:count], atol=1e-5)


def test_metadata_describe_the_file(exported: Path, runs: dict[str, Path]) -> None:
    metadata = read_metadata((exported / "cnn.onnx").read_bytes())
    assert metadata["classes"] == list(CLASSES)
    assert from_mapping(metadata["recipe"], origin="the file") == run_recipe(runs["cnn"])
    assert (metadata["data"], metadata["data_sha256"], metadata["cifar"]) == ("CIFAR-10", "0123", __version__)
    assert "uint8" in metadata["input"]
    weights = (runs["cnn"] / "model.safetensors").read_bytes()
    assert metadata["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("model", MODELS)
def test_an_onnx_file_holds_no_trace_of_this_machine(model: str, exported: Path) -> None:
    data = (exported / f"{model}.onnx").read_bytes()
    for trace in (str(Path.cwd()), str(exported), str(Path(torch.__file__).parent), "forward", "stack_trace"):
        assert trace.encode() not in data


def change_bias(network: nn.Module, amount: float) -> None:
    with torch.no_grad():
        network.head[-1].bias[0] += amount  # type: ignore[index, union-attr, operator]


@pytest.mark.parametrize("amount, good", [(0.0, True), (1e-5, True), (0.01, False), (float("nan"), False)])
def test_a_file_of_another_network_is_refused(amount: float, good: bool, cnn: bytes, runs: dict[str, Path]) -> None:
    network = load_model(runs["cnn"], device="cpu").network
    change_bias(network, amount)
    if good:
        assert check_parity(cnn, network)["images"] == 1_200
    else:
        words = "not finite" if math.isnan(amount) else r"would differ .* Nothing was written"
        with pytest.raises(WorldError, match=words):
            check_parity(cnn, network)


def with_head(model: bytes, *, weight: float, bias: list[float]) -> bytes:
    """The CNN's file with another last layer: its weights multiplied, its bias replaced."""
    changed = onnx.load_from_string(model)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith("head.4.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(weight), tensor.name))
        if tensor.name.endswith("head.4.bias"):
            tensor.CopyFrom(numpy_helper.from_array(np.array(bias, np.float32), tensor.name))
    return changed.SerializeToString()  # type: ignore[no-any-return]


def test_equal_probabilities_with_another_class_are_refused(cnn: bytes, runs: dict[str, Path]) -> None:
    """Two classes whose probabilities differ by less than 1e-4, the other way round in the file."""
    network = load_model(runs["cnn"], device="cpu").network
    head: nn.Linear = network.head[-1]  # type: ignore[index, assignment, union-attr]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 1.0 + 1e-4] + [0.0] * 8))
    check_parity(with_head(cnn, weight=0, bias=[1.0, 1.0 + 1e-4] + [0.0] * 8), network)
    with pytest.raises(WorldError, match="1,200 of 1,200 classes"):
        check_parity(with_head(cnn, weight=0, bias=[1.0 + 1e-4, 1.0] + [0.0] * 8), network)


def test_a_wrong_file_of_the_exporter_is_refused(
    cnn: bytes, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = with_head(cnn, weight=1, bias=[float(number) for number in range(10)])
    monkeypatch.setattr("cifar.serving.export.to_onnx", lambda *_, **__: spoiled)
    with pytest.raises(WorldError, match="would differ"):
        export_onnx(runs["cnn"], name="net.onnx")


class Untraceable(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.eigvals(images[:, 0]).real[:, :10]


def test_a_network_that_onnx_cannot_express_is_one_sentence() -> None:
    with pytest.raises(WorldError, match="cannot export") as caught:
        to_onnx(Untraceable(), kind="float", metadata={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("absent, work", [("onnxscript", "export"), ("onnxruntime", "run")])
def test_an_absent_package_is_reported_with_the_install_command(
    absent: str, work: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, absent, None)
    actions: dict[str, Callable[[], object]] = {
        "export": lambda: to_onnx(load_model(runs["cnn"], device="cpu").network, kind="float", metadata={}),
        "run": lambda: open_session(b""),
    }
    with pytest.raises(WorldError, match=r"cifar\[export\]"):
        actions[work]()


@pytest.mark.parametrize("model, opset", [*((model, 13) for model in MODELS), ("cnn", 17), ("cnn", 21)])
def test_another_operator_set_gives_the_same_answers(
    model: str, opset: int, runs: dict[str, Path], images: Tensor
) -> None:
    content, _ = export_onnx(runs[model], name="model.onnx", opset=opset)
    loaded = onnx.load_from_string(content)
    assert [entry.version for entry in loaded.opset_import if entry.domain == ""] == [opset]
    onnx.checker.check_model(loaded, full_check=True)
    expected = load_model(runs[model], device="cpu").predict(images).probs
    torch.testing.assert_close(run_session(open_session(content), images), expected, atol=1e-5, rtol=1e-4)


def test_an_operator_set_that_the_network_cannot_have_is_one_sentence(runs: dict[str, Path]) -> None:
    with pytest.raises(WorldError, match=r"cannot export this network to ONNX with opset 9 \("):
        export_onnx(runs["resnet20"], name="model.onnx", opset=9)


def test_run_session_takes_no_images_and_any_batch_size(cnn: bytes, images: Tensor) -> None:
    session = open_session(cnn)
    assert run_session(session, images[:0]).shape == (0, 10)
    torch.testing.assert_close(run_session(session, images, batch_size=3), run_session(session, images))


def write_export(run: Path, target: Path) -> dict[str, Any]:
    """Export a plain folder, as `cifar export --format safetensors` does."""
    files, record = export_folder(run, target)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (target / name).write_bytes(content)
    return record


@pytest.mark.parametrize("model", MODELS)
def test_load_model_reads_an_exported_folder(model: str, runs: dict[str, Path], images: Tensor, tmp_path: Path) -> None:
    run, target = runs[model], tmp_path / "deep" / "copy"
    record = write_export(run, target)
    assert {path.name for path in target.iterdir()} == {"recipe.json", "model.safetensors", "export.json"}
    assert json.loads((target / "export.json").read_text()) == record
    original, copy = (load_model(folder, device="cpu") for folder in (run, target))
    assert original.recipe == copy.recipe
    assert torch.equal(original.predict(images).probs, copy.predict(images).probs)
    write_export(run, target)  # again
    write_export(target, tmp_path / "copy of the copy")
    assert load_model(tmp_path / "copy of the copy").recipe == original.recipe


def test_an_exported_folder_records_the_data_of_its_run(tmp_path: Path) -> None:
    run = make_untrained(tmp_path / "run", "cnn")
    write_json(run / "summary.json", summary_of(data_sha256="0123"))
    write_export(run, tmp_path / "copy")
    assert load_model(tmp_path / "copy").trained_on == "SAMPLE OF CIFAR-10"
    assert data_of_run(tmp_path / "copy")["data_sha256"] == "0123"


def test_a_folder_that_holds_something_else_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for target in (tmp_path, tmp_path / "mine.txt", runs["cnn"]):
        with pytest.raises(InputError, match="--output"):
            export_folder(runs["cnn"], target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_new_run_clears_the_exports_of_an_earlier_one(tmp_path: Path) -> None:
    run = make_untrained(tmp_path, "cnn")
    write_export(run, run / "exported")
    (run / "exported" / "mine.txt").write_text("keep")
    for name in ("model.onnx", "model-int8.onnx", "export.json"):
        (run / name).write_text("{}")
    clear(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == {"exported", "exported/mine.txt"}
    (run / "exported" / "mine.txt").unlink()
    run = make_untrained(tmp_path, "cnn")
    write_export(run, run / "exported")
    clear(run)
    assert list(run.iterdir()) == []
