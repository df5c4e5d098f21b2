"""`cifar models`: every recipe, what its recorded runs reached, in 80 columns."""

import json

import pytest
from scripts_by_path import ROOT, load_script

from cifar.cli import app, run_app
from cifar.cli.display import stdout
from cifar.recipes import RECIPES
from cifar.recipes.recorded import RECOMMENDED, recorded, summary_line

results_table = load_script("scripts/results_table.py")


def test_what_is_recorded_is_what_the_script_writes() -> None:
    rows = results_table.recorded_models(ROOT / "results")
    assert json.loads((ROOT / results_table.RECORDED).read_text()) == json.loads(json.dumps(rows))
    assert set(recorded()) <= set(RECIPES)
    for name, row in recorded().items():
        folder = ROOT / "results" / row.run
        assert row.weights == (folder / "model.safetensors").exists(), name
        if row.seeds == 1 and (folder / "summary.json").exists():
            assert row.accuracy == json.loads((folder / "summary.json").read_text())["test_accuracy"]


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdout, "_width", 80)
    assert run_app(app, ["models"], program="cifar") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    for name in RECIPES:
        assert any(line.startswith(name) for line in lines)
    resnet = next(line for line in lines if line.startswith("resnet "))
    assert resnet.split() == ["resnet", "91.27%", "90.70–91.81%", "none", "1", "270", "k", "64.7", "yes"]


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["models", "--json"], program="cifar") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)
    assert {row["recipe"] for row in rows} == set(recorded())


def test_the_menu_says_what_to_expect() -> None:
    assert "%" in summary_line(RECOMMENDED)
    assert " min on 2 cores" in summary_line(RECOMMENDED)
    assert summary_line("no-such-recipe") == ""


def test_every_command_stands_in_a_group() -> None:
    assert {command.rich_help_panel for command in app.registered_commands} == {
        "Train", "Understand", "Use", "Share", "Measure",
    }  # fmt: skip
