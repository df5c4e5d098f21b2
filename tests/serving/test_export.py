"""Exported files against the network itself, and what must never be written."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
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
    """A folder with cnn.onnx, which takes bytes, resnet20.onnx and vit-tiny.onnx, and what was said of each."""
    folder = tmp_path_factory.mktemp("exported")
    write_json(runs["cnn"] / "summary.json", {"data": "CIFAR-10", "data_sha256": "0123"})
    for model in MODELS:
        record = export_onnx(runs[model], folder / f"{model}.onnx", kind="uint8" if model == "cnn" else "float")
        write_json(folder / f"{model}.json", record)
    return folder


@pytest.fixture(scope="module")
def cnn(runs: dict[str, Path]) -> bytes:
    """The CNN's file that takes pixels."""
    return to_onnx(load_model(runs["cnn"], device="cpu").network, kind="float", metadata={})


@pytest.mark.parametrize("model", MODELS)
def test_the_file_gives_the_network_s_answers(
    model: str, exported: Path, runs: dict[str, Path], images: Tensor
) -> None:
    """By onnxruntime alone, as somebody would use it who has only the file."""
    file, record = exported / f"{model}.onnx", json.loads((exported / f"{model}.json").read_text())
    assert record["parity"]["images"] == 1_200
    assert record["parity"]["largest_difference"] <= 1e-4
    assert record["bytes"] == file.stat().st_size
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file)
    array = images.numpy() if model == "cnn" else (images.numpy() / np.float32(255)).astype(np.float32)
    ours = load_model(runs[model], device="cpu").predict(images).probs.numpy()
    for count in (1, 2, 17):  # any number of images
        (probs,) = session.run(None, {"images": array[:count]})
        np.testing.assert_allclose(probs, ours[:count], atol=1e-5)
    assert len(list(exported.iterdir())) == 2 * len(MODELS)


def test_metadata_tell_what_the_file_is(exported: Path, runs: dict[str, Path]) -> None:
    found = read_metadata((exported / "cnn.onnx").read_bytes())
    assert found["classes"] == list(CLASSES)
    assert from_mapping(found["recipe"], origin="the file") == run_recipe(runs["cnn"])
    assert (found["data"], found["data_sha256"], found["cifar"]) == ("CIFAR-10", "0123", __version__)
    assert "uint8" in found["input"]
    weights = (runs["cnn"] / "model.safetensors").read_bytes()
    assert found["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_this_machine_is_in_the_file(model: str, exported: Path) -> None:
    data = (exported / f"{model}.onnx").read_bytes()
    for trace in (str(Path.cwd()), str(exported), str(Path(torch.__file__).parent), "forward", "stack_trace"):
        assert trace.encode() not in data


def change_bias(network: nn.Module, amount: float) -> None:
    with torch.no_grad():
        network.head[-1].bias[0] += amount  # type: ignore[index, union-attr, operator]


@pytest.mark.parametrize("amount, good", [(0.0, True), (1e-5, True), (0.01, False), (float("nan"), False)])
def test_another_network_is_refused(amount: float, good: bool, cnn: bytes, runs: dict[str, Path]) -> None:
    network = load_model(runs["cnn"], device="cpu").network
    change_bias(network, amount)
    if good:
        assert check_parity(cnn, network)["images"] == 1_200
    else:
        with pytest.raises(WorldError, match=r"would differ .* Nothing was written"):
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
    """Two classes whose probabilities lie within 1e-4 of each other, the other way round in the file."""
    network = load_model(runs["cnn"], device="cpu").network
    head: nn.Linear = network.head[-1]  # type: ignore[index, assignment, union-attr]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 1.0 + 1e-4] + [0.0] * 8))
    check_parity(with_head(cnn, weight=0, bias=[1.0, 1.0 + 1e-4] + [0.0] * 8), network)
    with pytest.raises(WorldError, match="1,200 of 1,200 classes"):
        check_parity(with_head(cnn, weight=0, bias=[1.0 + 1e-4, 1.0] + [0.0] * 8), network)


@pytest.mark.parametrize("former", [b"", b"former"])
def test_what_is_refused_leaves_nothing(
    former: bytes, cnn: bytes, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = with_head(cnn, weight=1, bias=[float(number) for number in range(10)])
    monkeypatch.setattr("cifar.serving.export.to_onnx", lambda _network, *, kind, metadata: spoiled)  # noqa: ARG005
    if former:
        (tmp_path / "net.onnx").write_bytes(former)
    with pytest.raises(WorldError, match="would differ"):
        export_onnx(runs["cnn"], tmp_path / "net.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [former] * bool(former)


class Untraceable(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.eigvals(images[:, 0]).real[:, :10]


def test_what_onnx_cannot_hold_is_one_sentence() -> None:
    with pytest.raises(WorldError, match="cannot export") as caught:
        to_onnx(Untraceable(), kind="float", metadata={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("absent, work", [("onnxscript", "export"), ("onnxruntime", "run")])
def test_an_absent_package_names_the_command(
    absent: str, work: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, absent, None)
    actions: dict[str, Callable[[], object]] = {
        "export": lambda: to_onnx(load_model(runs["cnn"], device="cpu").network, kind="float", metadata={}),
        "run": lambda: open_session(b""),
    }
    with pytest.raises(WorldError, match=r"cifar\[export\]"):
        actions[work]()


def test_run_session_of_no_images(cnn: bytes, images: Tensor) -> None:
    session = open_session(cnn)
    assert run_session(session, images[:0]).shape == (0, 10)
    torch.testing.assert_close(run_session(session, images, batch_size=3), run_session(session, images))


@pytest.mark.parametrize("model", MODELS)
def test_a_plain_folder_is_read_back(model: str, runs: dict[str, Path], images: Tensor, tmp_path: Path) -> None:
    run, target = runs[model], tmp_path / "deep" / "copy"
    record = export_folder(run, target)
    assert {path.name for path in target.iterdir()} == {"recipe.json", "model.safetensors", "export.json"}
    assert json.loads((target / "export.json").read_text()) == record
    ours, theirs = (load_model(folder, device="cpu") for folder in (run, target))
    assert ours.recipe == theirs.recipe
    assert torch.equal(ours.predict(images).probs, theirs.predict(images).probs)
    export_folder(run, target)  # again
    export_folder(target, tmp_path / "copy of the copy")
    assert load_model(tmp_path / "copy of the copy").recipe == ours.recipe


def test_the_copy_remembers_its_data(tmp_path: Path) -> None:
    run = make_untrained(tmp_path / "run", "cnn")
    write_json(run / "summary.json", {"data": "SAMPLE OF CIFAR-10", "data_sha256": "0123"})
    export_folder(run, tmp_path / "copy")
    assert load_model(tmp_path / "copy").trained_on == "SAMPLE OF CIFAR-10"
    assert data_of_run(tmp_path / "copy")["data_sha256"] == "0123"


def test_a_folder_of_other_things_is_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for target in (tmp_path, tmp_path / "mine.txt", runs["cnn"]):
        with pytest.raises(InputError, match="--output"):
            export_folder(runs["cnn"], target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_new_run_clears_a_former_one_s_exports(tmp_path: Path) -> None:
    run = make_untrained(tmp_path, "cnn")
    export_folder(run, run / "exported")
    (run / "exported" / "mine.txt").write_text("keep")
    for name in ("model.onnx", "model-int8.onnx", "export.json"):
        (run / name).write_text("{}")
    clear(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == {"exported", "exported/mine.txt"}
    (run / "exported" / "mine.txt").unlink()
    run = make_untrained(tmp_path, "cnn")
    export_folder(run, run / "exported")
    clear(run)
    assert list(run.iterdir()) == []
