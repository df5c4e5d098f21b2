"""`python3 train.py` bare, in a real terminal: the answers are the flags that they stand for."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cifar.cli import app, run_app, train
from cifar.cli.prompts import positive
from cifar.machine import choose_device
from cifar.pipeline.job import Job
from cifar.recipes import RECIPES, Recipe, recipe_for, with_fields
from cifar.recipes.recorded import RECOMMENDED

pexpect = pytest.importorskip("pexpect")
ROOT = Path(__file__).parent.parent.parent
DOWN, ENTER, ERASE = "\x1b[B", "\r", "\x08" * 60
QUESTIONS = ("Epochs", "Batch size", "Learning rate", "Device", "Cross-validate", "wandb", "Save folder")


def start(folder: Path) -> Any:
    """The program in a terminal of its own; the folder "mine" holds something, so that no training begins."""
    (folder / "mine").mkdir()
    (folder / "mine" / "something").write_text("")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40", "OMP_NUM_THREADS": "1"}
    environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # pexpect never says where its cursor is: a second lost a question
    command = ["-W", "error", str(ROOT / "train.py")]
    return pexpect.spawn(sys.executable, command, cwd=folder, env=environment, timeout=60, encoding="utf-8")


def down_to(model: str) -> str:
    """The keys from the recommended recipe to this one: the menu begins again at its end."""
    names = list(RECIPES)
    return DOWN * ((names.index(model) - names.index(RECOMMENDED)) % len(names))


def answer(child: Any, model: str, **answers: str) -> list[str]:
    """Answer all questions, most with Enter; gives the arguments that the program says they stand for."""
    child.expect("Model")
    child.send(down_to(model) + ENTER)
    for question in QUESTIONS:
        child.expect(question)
        child.send(answers.get(question, "") + ENTER * (answers.get(question) != "y"))  # y needs no Enter
    child.expect(r"python3 train\.py (-m [^\r\n]*)\r?\n")
    return shlex.split(child.match[1])


def recipe_of(arguments: list[str]) -> Recipe:
    """What `train.py` would train by."""
    with pytest.MonkeyPatch.context() as patch:
        jobs: list[Job] = []
        patch.setattr(train, "train_job", lambda job: jobs.append(job))
        assert run_app(app, ["train", *arguments], program="train.py") == 0
    return jobs[0].recipe


def test_nothing_but_enter_is_the_models_own_recipe(tmp_path: Path) -> None:
    child = start(tmp_path)
    arguments = answer(child, "resnet-better", **{"Save folder": ERASE + "mine"})
    child.expect("not empty")  # it went on with these
    child.expect(pexpect.EOF)
    assert arguments[:2] == ["-m", "resnet-better"]
    assert arguments[-2:] == ["-s", "mine"]
    assert recipe_of(arguments) == recipe_for("resnet-better")


@pytest.mark.parametrize("model", RECIPES)
def test_nothing_but_enter_is_the_own_recipe_of_every_model(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same questions, typed into a pipe instead of a terminal."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(down_to(model) + ENTER * (1 + len(QUESTIONS)))
        verb, *arguments = train.ask_for_arguments()
    assert verb == "train"
    assert arguments[:2] == ["-m", model]
    assert shlex.join(arguments) in capsys.readouterr().err
    assert recipe_of(arguments) == recipe_for(model)


def test_every_answer_is_its_flag(tmp_path: Path) -> None:
    child = start(tmp_path)
    answers = {
        "Epochs": ERASE + "3", "Batch size": ERASE + "64", "Learning rate": ERASE + "2e-3",
        "Cross-validate": "y", "wandb": "y", "Save folder": ERASE + "mine",
    }  # fmt: skip
    arguments = answer(child, "vit", **answers)
    child.expect("not empty")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2
    typed = shlex.split(f"-m vit -e 3 -b 64 -l 0.002 -d {choose_device()} -s mine -c -w")
    assert arguments == typed
    expected = with_fields(recipe_for("vit"), epochs=3, batch_size=64, lr=2e-3, num_folds=5)
    assert recipe_of(arguments) == expected == recipe_of(typed)


def test_ctrl_c_at_a_question_leaves_nothing(tmp_path: Path) -> None:
    child = start(tmp_path)
    child.expect("Model")
    child.send(ENTER)
    child.expect("Epochs")
    child.send("\x03")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "kind, good, bad", [(int, "3", "2.5"), (int, "1", "0"), (float, "1e-4", "-1"), (float, "2", "inf")]
)
def test_numbers_are_checked_as_they_are_typed(kind: type[int] | type[float], good: str, bad: str) -> None:
    assert positive(kind)(good) is True
    for text in (bad, "", "three"):
        assert "above 0" in str(positive(kind)(text))
