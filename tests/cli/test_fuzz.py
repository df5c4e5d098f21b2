"""Random command lines of every verb: an exit code and a sentence, never an exception; repeatable by their seed."""

import random
from pathlib import Path

import pytest
import typer

from cifar.cli import app, run_app
from cifar.recipes import FIELDS, RECIPES

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WORDS = [
    "", " ", "-", "--", "0", "1", "-1", "2", "3.5", "nan", "inf", "1e308", "1e-320", str(2**64), "9" * 5000, "true",
    "ä", "\udcff", "🙂", "\x1b[31m", "\n", "%s", "{}", "[red]", "a=b", "cpu", "cuda", "mps", "native", "pytorch", "all",
    "sample", "cnn", "resnet", "speednet", "timm:", ":", "timm:nothing", "absent:network", "/", "/dev/null", "../..",
    "~nobody/x", "x" * 300, "a" * 5000, "$HOME", "test", "validation", "mirror", "shift", "uint8", "json", "=",
]  # fmt: skip
CHEAP = ("cnn", "resnet20", "resnet", "speednet", "vit", *WORDS)


def word(draw: random.Random, folder: Path) -> str:
    """A value that may or may not fit."""
    kind = draw.random()
    if kind < 0.6:
        return draw.choice(WORDS)
    if kind < 0.8:
        return str(folder / draw.choice(["empty", "file", "run", "absent"]))
    return f"{draw.choice([*FIELDS, 'colour', 'optimiser.lr'])}={draw.choice([*WORDS, 'adam', 'plateau', 'cosine'])}"


def command_line(draw: random.Random, folder: Path) -> list[str]:
    """A verb with flags of its own and words, none of which starts a training or a download."""
    verb = draw.choice([*VERBS, "train", "train", "nothing"])
    parameters = getattr(VERBS.get(verb), "params", ())
    options = [name for one in parameters for name in one.opts if name.startswith("-")]
    places = [one for one in parameters if not one.opts[0].startswith("-")]
    arguments = [verb, *(str(folder / draw.choice(["run", "run", "empty", "file"])) for _ in places)]
    for _ in range(draw.choice([0, 0, 1, 1, 2, 5])):
        flag = draw.choice([*options, "--no-such-flag", "-h"]) if draw.random() < 0.9 and options else ""
        arguments += [flag] if draw.random() < 0.9 and flag else []
        if draw.random() < 0.8:
            models = draw.choice([*CHEAP, *RECIPES][: len(CHEAP)])
            arguments.append(models if flag in ("-m", "--model") else word(draw, folder))
    if verb == "train":
        return [*arguments, *(["-m", draw.choice(CHEAP)] if draw.random() < 0.7 else []), "--dry-run"]
    return [*arguments, "--data", str(folder / "absent")] if verb in ("data", "bench") else arguments


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", range(3))
def test_random_command_lines(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no run")
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "summary.json", "evaluation.json"):
        (tmp_path / "run" / name).write_text("{}")
    draw = random.Random(seed)
    for _ in range(60):
        arguments = command_line(draw, tmp_path)
        code = run_app(app, arguments, program="cifar")
        said = capsys.readouterr()
        assert code in (0, 1, 2), arguments
        assert "Traceback" not in said.err, arguments
        assert code == 0 or said.err or said.out, arguments
