"""`cifar predict` on the command line: every flag both ways, every output parsed again."""

import csv
import importlib
import io
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_runs import summary_of
from PIL import Image
from safetensors.torch import load_file
from untrained_runs import make_untrained

from cifar import load_model
from cifar.cli import app, run_app
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.files import write_json
from cifar.runs import weights_bytes, write_files
from cifar.serving.classifier import Predictions

Captured = pytest.CaptureFixture[str]


def predict(*arguments: object) -> int:
    return run_app(app, ["predict", *map(str, arguments), "--device", "cpu"], program="cifar")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "cnn", "cnn", "views=mirror")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Path:
    """Five images, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "sub").mkdir()
    for number, image in enumerate(load(sample, "train").images[:5].permute(0, 2, 3, 1)):
        Image.fromarray(image.numpy()).save(folder / ("sub" if number == 4 else "") / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def names(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("0.png", "1.png", "2.png", "3.png", "sub/4.png")]


@pytest.fixture(scope="module")
def expected(run: Path, names: list[str]) -> Predictions:
    return load_model(run, device="cpu").predict(names)


@pytest.mark.parametrize("top", [1, 2, 5, 10])
def test_the_table_shows_the_top_classes(
    run: Path, folder: Path, names: list[str], expected: Predictions, top: int, capsys: Captured
) -> None:
    flag = [] if top == 2 else ["--top", top]
    assert predict(run, folder, *flag) == 0
    output = capsys.readouterr()
    assert output.err == ""
    head, *lines = output.out.splitlines()
    assert len({len(line) for line in (head, *lines)}) == 1  # the last column is flush right
    assert head.split()[:3] == ["file", "class", "probability"]
    assert ("runner-up" in head) == (top > 1)
    for line, name, row in zip(lines, names, expected.top(top), strict=True):
        assert line.split() == [name, *(cell for label, prob in row for cell in (label, f"{prob:.2%}"))]


@pytest.mark.parametrize("top", [1, 3])
def test_json_and_csv_hold_the_predictions(
    run: Path, folder: Path, names: list[str], expected: Predictions, top: int, capsys: Captured
) -> None:
    assert predict(run, folder, "--json", "--top", top) == 0
    text = capsys.readouterr().out
    records = json.loads(text)
    assert len(text.splitlines()) == len(names) + 2
    for record, name, row in zip(records, names, expected.top(top), strict=True):
        assert record["file"] == name
        assert (record["class"], record["probability"]) == row[0]
        assert [(ranked["class"], ranked["probability"]) for ranked in record["top"]] == row
    assert predict(run, folder, "--csv", "--top", top) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == names
    assert [row["class"] for row in rows] == expected.names
    for row, pairs in zip(rows, expected.top(top), strict=True):
        assert len(row) == 1 + 2 * top
        label, prob = pairs[-1]
        suffix = "" if top == 1 else f"_{top}"
        assert (row[f"class{suffix}"], float(row[f"probability{suffix}"])) == (label, pytest.approx(prob, abs=1e-6))


@pytest.mark.parametrize("views", ["", "none", "mirror", "shift"])
def test_tta_selects_the_views(run: Path, names: list[str], views: str, capsys: Captured) -> None:
    flags = ["--tta", views] if views else []
    assert predict(run, *names, "--json", "--top", 10, *flags, "--batch-size", 2) == 0
    given = [
        {ranked["class"]: ranked["probability"] for ranked in record["top"]}
        for record in json.loads(capsys.readouterr().out)
    ]
    probs = torch.tensor([[record[name] for name in CLASSES] for record in given])
    expected = load_model(run, device="cpu").predict(names, views=views or "mirror").probs
    torch.testing.assert_close(probs, expected)


def test_unreadable_files_are_reported_and_the_others_predicted(
    run: Path, names: list[str], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    whole = Path(names[0]).read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    assert predict(run, names[0], tmp_path, names[1], "--json") == 1
    output = capsys.readouterr()
    assert [record["file"] for record in json.loads(output.out)] == names[:2]
    first, second = output.err.splitlines()
    assert "short.png is damaged" in first
    assert "text.png is not an image" in second
    for flag, printed in (("--json", "[\n]\n"), ("--csv", "file,class,probability,class_2,probability_2\n")):
        assert predict(run, tmp_path, flag) == 1
        assert capsys.readouterr().out == printed
    assert predict(run, tmp_path) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_names_are_read_from_standard_input(
    run: Path, names: list[str], separator: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    listed = separator.join([names[0], "nowhere.png", str(Path(names[4]).parent), ""])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    assert predict(run, names[1], "-", "--json") == 1
    output = capsys.readouterr()
    assert [record["file"] for record in json.loads(output.out)] == [names[1], names[0], names[4]]
    assert output.err == "There is no file or folder nowhere.png.\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert predict(run, "-") == 2
    assert "list on standard input is empty" in capsys.readouterr().err


def test_control_characters_in_names_are_escaped(run: Path, names: list[str], tmp_path: Path, capsys: Captured) -> None:
    odd = [":cat:.png", "a\nb.png", "a\x1b[31mb.png", "日本語.png", os.fsdecode(b"\xff.png"), "[red]x.png"]
    for name in odd:
        (tmp_path / name).write_bytes(Path(names[0]).read_bytes())
    (tmp_path / "\x1b[2Jbroken:dog:.png").write_text("")
    assert predict(run, tmp_path) == 1
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert "broken:dog:.png" in output.err
    assert len(output.out.splitlines()) == 1 + len(odd)
    for escaped in (":cat:.png", r"a\nb.png", r"a\x1b[31mb.png", "日本語.png", r"\udcff.png", "[red]x.png"):
        assert escaped in output.out
    assert predict(run, tmp_path, "--json") == 1
    files = [record["file"] for record in json.loads(capsys.readouterr().out)]
    assert sorted(files) == sorted(str(tmp_path / name) for name in odd)
    assert predict(run, tmp_path, "--csv") == 1
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 1 + len(odd)


def test_warnings_of_pillow_are_not_shown(run: Path, tmp_path: Path, capsys: Captured) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0"
    Image.new("RGB", (40, 40)).save(tmp_path / "odd.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert predict(run, tmp_path) == 0
    assert (caught, capsys.readouterr().err) == ([], "")


def test_a_network_trained_on_the_sample_is_noted(names: list[str], tmp_path: Path, capsys: Captured) -> None:
    run = make_untrained(tmp_path, "cnn")
    write_json(run / "summary.json", summary_of(data_sha256="0"))
    assert predict(run, names[0]) == 0
    assert "SAMPLE OF CIFAR-10" in capsys.readouterr().err


BAD = [
    (["{run}"], "files"),
    (["{run}", "nowhere.png"], "There is no file or folder nowhere.png"),
    (["{run}", "*.nothing"], "Nothing matches"),
    (["{files}", "{files}"], "not a run folder"),
    (["nowhere", "{files}"], "There is no run nowhere"),
    (["{run}", "{files}", "--json", "--csv"], "exclude each other"),
    (["{run}", "{files}", "--top", "0"], "--top"),
    (["{run}", "{files}", "--top", "11"], "--top"),
    (["{run}", "{files}", "--tta", "crop"], "none, mirror, shift"),
    (["{run}", "{files}", "--batch-size", "0"], "--batch-size"),
    (["{run}", "{files}", "--device", "tpu"], "cpu, mps or cuda"),
]


@pytest.mark.parametrize("arguments, words", BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_one_sentence_with_exit_code_2(
    run: Path, folder: Path, arguments: list[str], words: str, capsys: Captured
) -> None:
    filled = [argument.format(run=run, files=folder) for argument in arguments]
    assert run_app(app, ["predict", *filled], program="cifar") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert len(output.err.strip().splitlines()) == 1


def changed_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A run whose first weights are others."""
    state = load_file(make_untrained(folder, "cnn") / "model.safetensors")
    name = next(name for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim == 4)
    write_files(folder, {"model.safetensors": weights_bytes(state | {name: change(state[name])})})
    return folder


@pytest.mark.parametrize(
    ("verb", "value"),
    [("predict", math.nan), ("predict", math.inf), ("predict", 1e38), ("explain", math.nan), ("explain", 1e38),
     ("export", math.nan), ("demo", 1e38)],
)  # fmt: skip
def test_a_network_that_gives_no_numbers_is_refused(
    value: float, verb: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for package in {"export": ("onnx", "onnxruntime", "onnxscript"), "demo": ("gradio",)}.get(verb, ()):
        pytest.importorskip(package)
    monkeypatch.setattr("cifar.serving.demo.open_demo", lambda *_, **__: pytest.fail("it is served"))
    monkeypatch.chdir(tmp_path)
    run = changed_weights(tmp_path / "run", lambda tensor: torch.full_like(tensor, value))
    before = sorted(tmp_path.rglob("*"))
    more = [names[0]] if verb in ("predict", "explain") else []
    assert run_app(app, [verb, str(run), *more], program="cifar") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "values that are not finite" in output.err
    assert output.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_endless_and_closed_standard_input_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    module = importlib.import_module("cifar.cli.predict")
    monkeypatch.setattr(module, "MAX_LIST", 10)
    for stdin, words in ((io.TextIOWrapper(io.BytesIO(b"a\n" * 6)), "more than 10 bytes"), (None, "is closed")):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert predict(run, "-") == 2
        assert words in capsys.readouterr().err


def test_pipes_devices_and_folders_are_not_opened(run: Path, tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        assert predict(run, path) == 1
        assert "is a folder, device or pipe, not a file" in capsys.readouterr().err
    assert predict(run, tmp_path / "folder.png") == 2  # a folder without images
    assert run_app(app, ["explain", str(run), str(tmp_path / "folder.png")], program="cifar") == 1
    assert run_app(app, ["explain", str(run), "/dev/zero"], program="cifar") == 1


def test_a_separate_process_reads_names_from_a_pipe(run: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "cifar", "predict", str(run), "-", "--csv"]
    done = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr == ""
