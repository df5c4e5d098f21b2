"""The report of recorded runs, as text and as a browser shows it."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import needs_browser, open_page
from made_runs import make_predictions, make_probs
from numpy.typing import NDArray

from cifar.cli import app, run_app
from cifar.evaluation.evaluate import evaluate
from cifar.pipeline.report import write_report
from cifar.recipes import recipe_for, to_mapping, with_fields
from cifar.reporting.records import read_records
from cifar.reporting.report import changed_fields, render, shaded_confusion
from cifar.reporting.vectors import short_number, style

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results"


def cifar(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments], program="cifar")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.html of a run, many.html of several."""
    folder = tmp_path_factory.mktemp("pages")
    assert cifar("report", RESULTS / "resnet", "-o", folder / "one.html") == 0
    many = (RESULTS / name for name in ("cnn", "resnet", "cnn-crossval", "quick"))
    assert cifar("report", *many, "-o", folder / "many.html") == 0
    return folder


def test_the_page_of_a_run_holds_what_its_folder_says(pages: Path) -> None:
    html = (pages / "one.html").read_text()
    summary = json.loads((RESULTS / "resnet" / "summary.json").read_text())
    for text in (
        f"{summary['test_accuracy']:.2%}",
        f"{summary['test_interval'][0]:.2%} to {summary['test_interval'][1]:.2%}",
        f"{summary['parameters']:,}",
        f"Test evaluations: {len(summary['test_readings'])}",
        summary["commit"],
        summary["data_sha256"],
        summary["command"],
        summary["versions"]["torch"],
        summary["machine"]["processor"],
    ):
        assert text in html, text
    assert html.count("<svg") == 4
    assert "Leaderboard" not in html


def test_all_that_was_computed_is_shown(pages: Path) -> None:
    """Calibration, people, label errors, near-duplicates, corruptions and mistakes, each from its file."""
    html = (pages / "one.html").read_text()
    evaluation, references, corruptions = (
        json.loads((RESULTS / "resnet" / name).read_text())
        for name in ("evaluation.json", "references.json", "corruptions.json")
    )
    scaling = evaluation["temperature_scaling"]
    for text in (
        f"{evaluation['calibration_error']:.2%}",
        f"at temperature {scaling['temperature']:.3f}",
        f"{scaling['after']['calibration_error']:.2%}",
        f"{evaluation['brier']:.4f}",
        f"{references['near_duplicates']['without']['share']:.2%}",
        f"{references['label_errors']['without_unconfirmed']['share']:.2%}",
        f"{references['people']['soft_cross_entropy']:.4f}",
        f"mean accuracy {corruptions['mean_accuracy']:.2%}",
        "these are not its images",
        f"Test-time augmentation: {corruptions['views']}; without corruption: {corruptions['clean_accuracy']:.2%}",
        "data:image/webp",
    ):
        assert text in html, text
    for name, accuracies in corruptions["accuracy"].items():
        cells = "".join(
            f'<td class="value" style="--shade: {value:.3f}">{100 * value:.1f}</td>' for value in accuracies
        )
        assert f"<td>{name}</td>{cells}" in html


def test_nothing_is_fetched_and_nothing_runs(pages: Path) -> None:
    for name in ("one.html", "many.html"):
        html = (pages / name).read_text()
        assert (pages / name).stat().st_size < 5_000_000
        assert "<script" not in html
        assert "<link" not in html
        assert set(re.findall(r"(?:src|href)=\"([^\"#]{1,9})", html)) <= {"data:imag"}
        assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_several_runs_are_ranked_and_told_apart(pages: Path) -> None:
    html = (pages / "many.html").read_text()
    board = html[html.index("Leaderboard") : html.index("</table>")]
    names = re.findall(r'<a href="#run-[^"]*">([^<]*)</a>', board)
    assert names[:2] == ["resnet", "quick"]
    assert sorted(names[2:]) == ["cnn", *(f"cnn-crossval/fold-{fold}" for fold in range(5))]
    accuracies = [float(text) for text in re.findall(r"<tr><td><a.*?<td>([\d.]+)%</td>", board)]
    assert len(accuracies) == 8
    assert accuracies == sorted(accuracies, reverse=True)
    for anchor in re.findall(r'href="#([^"]*)"', board):
        assert f'id="{anchor}"' in html


def test_a_sample_says_so_and_markup_in_names_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "<b>run & $x$"
    shutil.copytree(RESULTS / "cnn", folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"data": "SAMPLE OF CIFAR-10: NOT A RESULT"}))
    html = render(read_records([folder]), command="cifar report", comparison=None)
    assert '<p class="warn">SAMPLE OF CIFAR-10: NOT A RESULT</p>' in html
    assert "<b>run" not in html
    assert "&lt;b&gt;run &amp; $x$" in html


def test_a_run_without_evaluation_names_the_command(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "cnn", tmp_path / "bare")
    (tmp_path / "bare" / "evaluation.json").unlink()
    html = render(read_records([tmp_path / "bare"]), command="cifar report", comparison=None)
    assert "cifar evaluate bare" in html
    assert "Confusion" not in html


LABELS = np.arange(10_000) % 10


def predicted_run(folder: Path, probs: NDArray[np.float32]) -> Path:
    """A copy of a recorded run with other predictions, and the evaluation that belongs to them."""
    shutil.copytree(RESULTS / "cnn", folder)
    other = evaluate(torch.from_numpy(probs), torch.from_numpy(LABELS), split="test")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    unscaled = {"temperature_scaling": None, "views": "none", "passes_an_image": 1}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | unscaled | other))
    make_predictions(folder, LABELS, probs, split="test")
    return folder


def report_of(folders: list[Path], output: Path) -> str:
    """The page that `cifar report` writes of these runs."""
    assert cifar("report", *folders, "-o", output) == 0
    return output.read_text()


def test_runs_with_predictions_are_compared_on_their_images(tmp_path: Path) -> None:
    probs = [make_probs(LABELS, fraction, seed=seed) for seed, fraction in enumerate((0.8, 0.9))]
    folders = [predicted_run(tmp_path / name, own) for name, own in zip("ab", probs, strict=True)]
    summary = json.loads((folders[1] / "summary.json").read_text())
    (folders[1] / "summary.json").write_text(
        json.dumps(summary | {"test_accuracy": 0.9, "test_interval": [0.89, 0.91]})
    )
    html = report_of(folders, tmp_path / "report.html")
    worse, better = ((own.argmax(axis=1) == LABELS).mean() for own in probs)
    assert f"<td>b minus a</td><td>{100 * (better - worse):+.2f}</td>" in html
    assert "McNemar p &lt; 0.001" in html
    (folders[1] / "predictions.npz").unlink()
    html = report_of(folders, tmp_path / "report.html")
    assert "Not compared:" in html
    assert "b has no predictions.npz" in html
    assert "b minus a" not in html


def test_a_comparison_names_runs_as_the_page_does(tmp_path: Path) -> None:
    """Two folders of one name are told apart by as little as it takes, never by where they lie on this machine."""
    probs = make_probs(LABELS, 0.9, seed=0)
    folders = [predicted_run(tmp_path / name / "run", probs) for name in "xy"]
    html = report_of(folders, tmp_path / "report.html")
    assert "<td>x/run minus y/run</td><td>0.00</td>" in html
    assert str(tmp_path) not in html.partition("<footer")[0]  # which holds the command


def test_what_is_no_tested_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("report", tmp_path) == 2
    assert "is not a run folder" in capsys.readouterr().err
    shutil.copytree(RESULTS / "cnn", tmp_path / "cnn")
    summary = json.loads((tmp_path / "cnn" / "summary.json").read_text())
    (tmp_path / "cnn" / "summary.json").write_text(json.dumps(summary | {"state": "unfinished"}))
    assert cifar("report", tmp_path / "cnn") == 2
    assert "cifar train --resume" in capsys.readouterr().err
    assert not (tmp_path / "cnn" / "report.html").exists()
    assert cifar("report", RESULTS / "cnn", "-o", tmp_path) == 2
    assert "name the HTML file" in capsys.readouterr().err


def test_the_default_place_is_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(RESULTS / "cnn", tmp_path / name)
    assert cifar("report", "a") == 0
    assert cifar("report", "a", "b") == 0
    assert sorted(path.name for path in tmp_path.rglob("*.html")) == ["report.html", "report.html"]
    assert (tmp_path / "a" / "report.html").exists()


def test_numbers_styles_and_shades() -> None:
    assert [short_number(number) for number in (50, 1500, 2e6, 3e9)] == ["50", "1.5k", "2M", "3B"]
    assert len({style(index) for index in range(28)}) == 28
    assert shaded_confusion([[9, 0], [1, 3]]) == [[(9, 1.0), (0, 0.0)], [(1, 0.5), (3, 0.866)]]


def test_changed_fields_are_those_not_at_their_default_and_those_without_one() -> None:
    recipe = with_fields(recipe_for("cnn"), flip=0.5, seed=7, momentum=0.9)
    changed = changed_fields(to_mapping(recipe))
    assert {"flip": "0.5", "seed": "7", "model": "cnn", "lr": f"{recipe.optimiser.lr}"}.items() <= changed.items()
    assert {"model", "epochs", "batch_size", "lr"} <= changed.keys()
    assert "momentum" not in changed
    assert "views" not in changed


def test_retired_fields_of_older_summaries_are_left_out_where_they_did_nothing() -> None:
    older = {"window": 0, "window_epochs": 0, "winograd": True, "compile": "auto"}
    recipe = to_mapping(recipe_for("resnet"))
    assert changed_fields(recipe | older) == changed_fields(recipe)
    assert changed_fields(recipe | older | {"window": 24})["window"] == "24"
    for path in RESULTS.glob("*/summary.json"):
        recorded = json.loads(path.read_text())["recipe"]
        changed = changed_fields(recorded)
        assert changed["model"] == recorded["model"]
        assert not changed.keys() & older.keys()


@needs_browser
@pytest.mark.filterwarnings("default")  # of the driver's machinery
def test_a_browser_shows_it_on_a_phone_and_in_the_dark(pages: Path) -> None:
    with open_page() as page:
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for width, dark, name in itertools.product((390, 1280), (False, True), ("one.html", "many.html")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if dark else "light")
            page.goto((pages / name).as_uri())
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, "the page itself scrolls sideways"
            background, ink = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert (brightness(background) < 60 < 200 < brightness(ink)) == dark
            assert page.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == ink
            sizes = page.evaluate(
                "[...document.querySelectorAll('svg')].map(svg => 10 * svg.getBoundingClientRect().width"
                " / svg.viewBox.baseVal.width)"
            )
            assert min(sizes) > 8, "letters of 10 points in a figure, in pixels"
        assert len(asked) == 8
        assert all(url.startswith("file:") for url in asked)
        assert complaints == []


def brightness(colour: str) -> float:
    """Mean of red, green and blue, 0 to 255, of "rgb(r, g, b)"."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.parametrize("same", [False, True])
def test_runs_are_ranked_on_corrupted_images_only_where_they_saw_the_same(same: bool, tmp_path: Path) -> None:
    for name, mean, checksum in (("low", 0.5, "a"), ("high", 0.7, "a" if same else "b")):
        folder = shutil.copytree(RESULTS / "resnet", tmp_path / name)
        corruptions = json.loads((folder / "corruptions.json").read_text())
        changed = corruptions | {"mean_accuracy": mean, "images_sha256": 64 * checksum}
        (folder / "corruptions.json").write_text(json.dumps(changed))
    html = write_report([tmp_path / "low", tmp_path / "high"], tmp_path / "page.html", command="").read_text()
    board = html.partition("<h3>Corrupted test images</h3>")[2].partition("<h3>Paired")[0]
    if same:
        assert re.findall(r"<td>(low|high)</td><td>([\d.]+)%", board) == [("high", "70.00"), ("low", "50.00")]
    else:
        assert "Not ranked: the runs saw different images" in board
        assert "70.00" not in board
