"""The 8-bit file: its numbers really have 8 bits, what decides it, and figures that are counted again here."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from untrained_runs import make_untrained

from cifar import load_model
from cifar.data.cifar10 import Dataset, cut, load
from cifar.errors import InputError, WorldError
from cifar.files import write_json
from cifar.recipes import recipe_for
from cifar.serving.export import Held, export_int8, held_images
from cifar.serving.onnx_file import open_session, run_session, to_onnx
from cifar.serving.quantise import head_nodes, quantise


def make_run(folder: Path, model: str, sample: Dataset, *settings: str) -> Path:
    run = make_untrained(folder, model, *settings)
    write_json(run / "summary.json", {"data": sample.name, "data_sha256": sample.sha256})
    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> dict[str, bytes]:
    """fp32 files of a convolutional net, which takes bytes, and of a transformer, which takes pixels."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"cnn": "uint8", "vit-tiny": "float"}
    return {
        model: to_onnx(
            load_model(make_run(folder / model, model, sample), device="cpu").network,
            kind=kind,
            metadata={"run": model},
        )
        for model, kind in kinds.items()
    }


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Held:
    return held_images(make_run(tmp_path_factory.mktemp("held") / "run", "cnn", sample), sample)


def test_which_images_decide(tmp_path: Path, sample: Dataset, held: Held) -> None:
    recipe = recipe_for("cnn")
    train, validation = cut(load(sample, "train"), validation_fraction=0.1, num_folds=0, fold=0, seed=recipe.split_seed)
    splits = {"calibration": held.calibration, "rest": held.rest, "validation": validation, "train": train}
    parts = {name: {image.tobytes() for image in split.images.numpy()} for name, split in splits.items()}
    assert (len(held.calibration), len(held.rest)) == (20, 80)
    assert parts["calibration"] | parts["rest"] == parts["validation"]
    assert not parts["calibration"] & parts["rest"]
    assert not parts["validation"] & parts["train"]
    again = held_images(make_run(tmp_path / "again", "cnn", sample), sample)
    assert torch.equal(again.calibration.images, held.calibration.images)
    folds = held_images(make_run(tmp_path / "fold", "cnn", sample, "num_folds=4", "fold=2"), sample)
    assert (len(folds.calibration), len(folds.rest)) == (50, 200)


def test_images_that_may_not_decide(tmp_path: Path, sample: Dataset) -> None:
    with pytest.raises(InputError, match="held no validation images"):
        held_images(make_run(tmp_path / "all", "cnn", sample, "validation_fraction=0"), sample)
    write_json(make_run(tmp_path / "other", "cnn", sample) / "summary.json", {"data": "CIFAR-10", "data_sha256": "0"})
    with pytest.raises(InputError, match="trained on CIFAR-10"):
        held_images(tmp_path / "other", sample)
    with pytest.raises(InputError, match="unknown data"):
        held_images(make_untrained(tmp_path / "bare", "cnn"), sample)


@pytest.mark.parametrize("model", ["cnn", "vit-tiny"])
def test_weights_have_eight_bits_and_answers_stay_near(model: str, files: dict[str, bytes], held: Held) -> None:
    small = quantise(files[model], held.calibration.images, batch_size=7)
    assert len(small) < 0.5 * len(files[model])
    graph = onnx.load(io.BytesIO(small)).graph
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [array for name, array in whole.items() if "weight" in name and array.dtype == np.int8]
    assert len(weights) >= 3
    assert all(array.min() >= -64 and array.max() <= 64 for array in weights)  # 7 bits
    assert [node.op_type for node in graph.node if "probs" in node.output] == ["Softmax"]
    assert graph.input[0].type.tensor_type.elem_type == (TensorProto.UINT8 if model == "cnn" else TensorProto.FLOAT)
    before, after = (run_session(open_session(data), held.rest.images) for data in (files[model], small))
    torch.testing.assert_close(after.sum(1), torch.ones(80))
    assert 0 < (before - after).abs().max() < 0.05
    assert {prop.key: prop.value for prop in onnx.load(io.BytesIO(small)).metadata_props}["run"] == model


def test_the_last_layer_is_left(files: dict[str, bytes]) -> None:
    for data, kinds in zip(files.values(), (["Softmax", "Gemm"], ["Softmax", "Gemm"]), strict=True):
        graph = onnx.load(io.BytesIO(data)).graph
        by_name = {node.name: node.op_type for node in graph.node}
        assert [by_name[name] for name in head_nodes(graph)] == kinds


def test_figures_are_those_of_the_files(files: dict[str, bytes], held: Held, tmp_path: Path) -> None:
    path, target = tmp_path / "net.onnx", tmp_path / "net-int8.onnx"
    path.write_bytes(files["cnn"])
    record = export_int8(path, target, held, repeats=2)
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "net-int8.onnx"}
    predicted = {}
    for name, file in (("fp32", path), ("int8", target)):
        figures = record[name]
        predicted[name] = run_session(open_session(file.read_bytes()), held.rest.images).argmax(1)
        assert figures["accuracy"] == pytest.approx(sum(predicted[name] == held.rest.labels).item() / 80)
        assert figures["bytes"] == file.stat().st_size
        assert 0 < figures["lowest"] <= figures["images_per_second"] <= figures["highest"]
    assert record["accuracy_lost"] == record["fp32"]["accuracy"] - record["int8"]["accuracy"]
    assert record["other_classes"] == sum(predicted["fp32"] != predicted["int8"]).item()
    assert (record["validation_images"], record["calibration_images"], record["rounds"]) == (80, 20, 2)


def test_an_absent_package_names_the_command(
    files: dict[str, bytes], held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(WorldError, match=r"cifar\[export\]"):
        quantise(files["cnn"], held.calibration.images)
