"""`cifar export` on the command line."""

import json
from pathlib import Path

import pytest
from made_runs import summary_of
from untrained_runs import make_untrained

from cifar import load_model
from cifar.cli import app, run_app
from cifar.errors import WorldError
from cifar.files import write_json
from cifar.serving.onnx_file import read_metadata

Captured = pytest.CaptureFixture[str]


def export(*arguments: object) -> int:
    return run_app(app, ["export", *map(str, arguments)], program="cifar")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_untrained(tmp_path_factory.mktemp("runs") / "cnn", "cnn", "views=mirror")
    write_json(run / "summary.json", summary_of())
    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that converts and checks nothing."""
    monkeypatch.setattr("cifar.serving.export.to_onnx", lambda *_, **__: b"file")
    monkeypatch.setattr(
        "cifar.serving.export.check_parity", lambda *_, **__: {"images": 1_200, "largest_difference": 0.0}
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_int8_is_written_and_shown_beside_onnx(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert export(run, "--int8", "--output", tmp_path / "net.onnx") == 0
    output = capsys.readouterr()
    assert names(tmp_path) == {"net.onnx", "net-int8.onnx", "export.json"}
    record = json.loads((tmp_path / "export.json").read_text())
    assert (record["format"], record["model"], record["parity"]["images"]) == ("onnx", "cnn", 1_200)
    first, *table, last = output.out.splitlines()
    assert first.startswith(f"SAMPLE OF CIFAR-10: {tmp_path / 'net.onnx'}: cnn,")
    assert last.startswith("SAMPLE OF CIFAR-10: net-int8.onnx loses")
    assert table[0].split() == ["fp32", "int8"]
    assert len({len(line) for line in table}) == 1
    for line, key in zip(table[1:], ("accuracy", "images_per_second", "lowest", "highest", "bytes"), strict=True):
        shown = [float(cell.rstrip("%").replace(",", "")) for cell in line.split()[-2:]]
        scale = 100 if key == "accuracy" else 1
        assert shown == [
            pytest.approx(scale * record["int8"][name][key], rel=1e-3, abs=0.5) for name in ("fp32", "int8")
        ]
    assert "test-time augmentation (mirror) is not in the file" in output.err
    assert "NOT A RESULT" in output.err
    # Again without: the earlier 8-bit file would not belong to this one.
    assert export(run, "--output", tmp_path / "net.onnx", "--input", "uint8") == 0
    assert names(tmp_path) == {"net.onnx", "export.json"}
    assert "int8" not in json.loads((tmp_path / "export.json").read_text())
    assert "uint8" in read_metadata((tmp_path / "net.onnx").read_bytes())["input"]


@pytest.mark.usefixtures("quick")
def test_exports_go_into_the_run_folder_by_default(run: Path, tmp_path: Path, capsys: Captured) -> None:
    copy = make_untrained(tmp_path / "cnn", "cnn")
    assert export(copy) == 0
    assert (copy / "model.onnx").read_bytes() == b"file"
    assert str(copy / "model.onnx") in capsys.readouterr().out
    assert export(copy, "--format", "safetensors") == 0
    assert names(copy) == {
        "recipe.json",
        "model.safetensors",
        "checksums.json",
        "model.onnx",
        "export.json",
        "exported",
    }
    assert load_model(copy / "exported").recipe == load_model(copy).recipe
    assert export(run, "--format", "safetensors", "--output", tmp_path / "plain") == 0
    assert names(tmp_path / "plain") == {"recipe.json", "model.safetensors", "export.json", "checksums.json"}


EARLIER = {"net.onnx": b"earlier", "net-int8.onnx": b"earlier too", "export.json": b"{}"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("earlier", [{}, EARLIER])
def test_a_refused_export_changes_no_file(
    run: Path, earlier: dict[str, bytes], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise WorldError("The ONNX file would differ.")

    monkeypatch.setattr("cifar.serving.export.check_parity", refuse)
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    assert export(run, "--output", tmp_path / "net.onnx") == 1
    assert capsys.readouterr().err == "cifar: The ONNX file would differ.\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fails", ["quantising", "writing"])
def test_a_failed_int8_export_leaves_the_onnx_file_and_its_record(
    run: Path, fails: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_int8(*_: object, **__: object) -> tuple[bytes, dict[str, object]]:
        if fails == "quantising":
            raise WorldError("onnxruntime cannot quantise this network.")
        return b"small", {"file": "net-int8.onnx"}

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == "net-int8.onnx":
            raise OSError(28, "No space left on device")
        return original(self, target)

    original = Path.replace
    monkeypatch.setattr("cifar.pipeline.export.export_int8", export_int8)
    monkeypatch.setattr(Path, "replace", rename)
    for name, content in EARLIER.items():
        (tmp_path / name).write_bytes(content)
    assert export(run, "--int8", "--output", tmp_path / "net.onnx") == 1
    assert ("cannot quantise" if fails == "quantising" else "No space left") in capsys.readouterr().err
    assert names(tmp_path) == {"net.onnx", "export.json"}
    assert (tmp_path / "net.onnx").read_bytes() == b"file"
    record = json.loads((tmp_path / "export.json").read_text())
    assert (record["file"], "int8" in record) == ("net.onnx", False)


BAD = [
    (["{run}", "--format", "pt"], "onnx or safetensors"),
    (["{run}", "--input", "int8"], "float or uint8"),
    (["{run}", "--format", "safetensors", "--int8"], "--format onnx"),
    (["{run}", "--format", "safetensors", "--input", "uint8"], "--format onnx"),
    (["{run}", "--format", "safetensors", "--output", "{run}"], "choose another"),
    (["{run}", "--output", "{here}/net.pt"], "must end in .onnx"),
    (["{run}", "--output", "{here}/none/net.onnx"], "no folder"),
    (["{here}"], "not a run folder"),
    (["{here}", "--format", "safetensors"], "not a run folder"),
    (["{run}", "--int8", "--data", "nowhere"], "nowhere"),
    ([], "run"),
]


@pytest.mark.parametrize("arguments, words", BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_one_sentence_with_exit_code_2(
    run: Path, arguments: list[str], words: str, tmp_path: Path, capsys: Captured
) -> None:
    before = names(run)
    assert export(*(argument.format(run=run, here=tmp_path) for argument in arguments)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert names(run) == before
    assert names(tmp_path) <= {"cifar-home"}
