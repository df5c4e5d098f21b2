"""The 8-bit file: its weights have 8 bits, which images decide it, and its figures against ones computed here."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from made_runs import summary_of
from onnx import TensorProto, numpy_helper
from untrained_runs import make_untrained

from cifar import load_model
from cifar.data.cifar10 import Dataset, Split, cut, load
from cifar.errors import InputError, WorldError
from cifar.files import write_json
from cifar.recipes import recipe_for
from cifar.serving.export import export_int8, int8_splits
from cifar.serving.onnx_file import open_session, run_session, to_onnx
from cifar.serving.quantise import head_nodes, quantise


def make_run(folder: Path, model: str, sample: Dataset, *settings: str) -> Path:
    run = make_untrained(folder, model, *settings)
    write_json(run / "summary.json", summary_of(data=sample.name, data_sha256=sample.sha256))
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
def splits(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> tuple[Split, Split]:
    """Images to calibrate on, and images to measure on."""
    return int8_splits(make_run(tmp_path_factory.mktemp("splits") / "run", "cnn", sample), sample)


def test_calibration_and_measurement_share_the_validation_images(
    tmp_path: Path, sample: Dataset, splits: tuple[Split, Split]
) -> None:
    training, validation = cut(load(sample, "train"), recipe_for("cnn").holdout)
    calibration, measurement, held_out, trained_on = (
        {image.tobytes() for image in split.images.numpy()} for split in (*splits, validation, training)
    )
    assert (len(splits[0]), len(splits[1])) == (20, 80)
    assert calibration | measurement == held_out
    assert not calibration & measurement
    assert not held_out & trained_on
    again = int8_splits(make_run(tmp_path / "again", "cnn", sample), sample)
    assert torch.equal(again[0].images, splits[0].images)
    fold = int8_splits(make_run(tmp_path / "fold", "cnn", sample, "num_folds=4", "fold=2"), sample)
    assert list(map(len, fold)) == [50, 200]


def test_runs_without_validation_images_and_other_data_are_refused(tmp_path: Path, sample: Dataset) -> None:
    with pytest.raises(InputError, match="held no validation images"):
        int8_splits(make_run(tmp_path / "all", "cnn", sample, "validation_fraction=0"), sample)
    write_json(
        make_run(tmp_path / "other", "cnn", sample) / "summary.json", summary_of(data="CIFAR-10", data_sha256="0")
    )
    with pytest.raises(InputError, match="trained on CIFAR-10"):
        int8_splits(tmp_path / "other", sample)
    with pytest.raises(InputError, match="unknown data"):
        int8_splits(make_untrained(tmp_path / "bare", "cnn"), sample)


@pytest.mark.parametrize("model", ["cnn", "vit-tiny"])
def test_weights_have_eight_bits_and_probabilities_stay_close(
    model: str, files: dict[str, bytes], splits: tuple[Split, Split]
) -> None:
    calibration, validation = splits
    small = quantise(files[model], calibration.images, batch_size=7)
    assert len(small) < 0.5 * len(files[model])
    graph = onnx.load(io.BytesIO(small)).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [array for name, array in tensors.items() if "weight" in name and array.dtype == np.int8]
    assert len(weights) >= 3
    assert all(array.min() >= -64 and array.max() <= 64 for array in weights)  # 7 bits
    assert [node.op_type for node in graph.node if "probs" in node.output] == ["Softmax"]
    assert graph.input[0].type.tensor_type.elem_type == (TensorProto.UINT8 if model == "cnn" else TensorProto.FLOAT)
    before, after = (run_session(open_session(data), validation.images) for data in (files[model], small))
    torch.testing.assert_close(after.sum(1), torch.ones(80))
    assert 0 < (before - after).abs().max() < 0.05
    assert {prop.key: prop.value for prop in onnx.load(io.BytesIO(small)).metadata_props}["run"] == model


def test_the_last_layer_is_not_quantised(files: dict[str, bytes]) -> None:
    for data, kinds in zip(files.values(), (["Softmax", "Gemm"], ["Softmax", "Gemm"]), strict=True):
        graph = onnx.load(io.BytesIO(data)).graph
        by_name = {node.name: node.op_type for node in graph.node}
        assert [by_name[name] for name in head_nodes(graph)] == kinds


def test_the_record_holds_the_figures_of_both_files(files: dict[str, bytes], splits: tuple[Split, Split]) -> None:
    calibration, validation = splits
    int8, record = export_int8(
        files["cnn"], name="net-int8.onnx", calibration=calibration, validation=validation, repeats=2
    )
    assert record["file"] == "net-int8.onnx"
    predicted = {}
    for name, content in (("fp32", files["cnn"]), ("int8", int8)):
        figures = record[name]
        predicted[name] = run_session(open_session(content), validation.images).argmax(1)
        assert figures["accuracy"] == pytest.approx(sum(predicted[name] == validation.labels).item() / 80)
        assert figures["bytes"] == len(content)
        assert 0 < figures["lowest"] <= figures["images_per_second"] <= figures["highest"]
    assert record["accuracy_lost"] == record["fp32"]["accuracy"] - record["int8"]["accuracy"]
    assert record["other_classes"] == sum(predicted["fp32"] != predicted["int8"]).item()
    assert (record["validation_images"], record["calibration_images"], record["rounds"]) == (80, 20, 2)


def test_an_absent_package_is_reported_with_the_install_command(
    files: dict[str, bytes], splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(WorldError, match=r"cifar\[export\]"):
        quantise(files["cnn"], splits[0].images)
