"""What the documentation says is so: its changes work, its commands parse, its figures are the recorded ones."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from scripts_by_path import load_script

import cifar
from cifar.cli import app, run_app
from cifar.recipes import FIELDS, RECIPES, recipe_for
from cifar.recipes.recorded import recorded
from cifar.runs import names

ROOT = Path(__file__).parent.parent
results_table = load_script("scripts/results_table.py")
DOCS = ROOT / "docs"
HISTORY = DOCS / "log.md"  # its commands are those of their day
PAGES = [*sorted(set(DOCS.glob("*.md")) - {HISTORY}), ROOT / "README.md"]
CHANGE = "## The complete change\n"
TYPE = """
import json, sys
from cifar.cli import app, run_app
from cifar.reporting import pictures
pictures.training_pictures = lambda *_, **__: {"curves.png": b"blank"}
blank = dict.fromkeys(("confusion.png", "reliability.png", "mistakes.png"), b"blank")
pictures.evaluation_pictures = lambda *_, **__: blank
code = max(run_app(app, words, program="cifar") for words in json.loads(sys.argv[1]))
from cifar.models import FACTORIES
from cifar.serving.explain import GRAD_CAM, feature_layer, method_of
network = FACTORIES["convmixer"]()
assert method_of(network) is GRAD_CAM and feature_layer(network) is network.blocks
sys.exit(code)
"""
pytestmark = pytest.mark.usefixtures("blank_pictures")
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    title: str
    text: str


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    fences = re.finditer(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [Block(language, title or "", body) for language, title, body in (fence.groups() for fence in fences)]


def commands(block: Block) -> list[list[str]]:
    """The words after `cifar` or `python3 train.py` (then after "train") of each command in a block."""
    if block.language not in ("", "bash", "sh", "console"):
        return []
    found = []
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        if not re.match(r"(\$ )?(cifar|python3? train\.py)\b", line):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        end = next((place for place, word in enumerate(words) if word in ("|", ">", ">>", "<", "&&", ";")), len(words))
        found.append(words[1:end] if words[0] == "cifar" else ["train", *words[2:end]])
    return found


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """The verb of a command, and the words from it on: of `sweep work RUN` it is `work`."""
    verb = VERBS[words[0]]
    inner = getattr(verb, "commands", {}).get(words[1] if len(words) > 1 else "")
    return (inner, words[1:]) if inner else (verb, words)


def fault_of(words: list[str]) -> str:
    """What is wrong with a command: no such verb or flag, a value that is not valid, an argument that is missing."""
    if words[0] in ("--help", "--version"):
        return ""
    if words[0] not in VERBS:
        return f"there is no verb {words[0]}"
    verb, words = verb_of(words)
    try:
        verb.make_context(words[0], words[1:])
    except typer.TyperException as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page: Path) -> None:
    for block in blocks(page.read_text()):
        for words in commands(block):
            assert fault_of(words) == "", f"cifar {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_have_verbs_and_flags_that_exist(page: Path) -> None:
    """Such as `cifar train --resume RUN`; values may be left out there."""
    for span in re.findall(r"`cifar ([^`]+)`", page.read_text()):
        words = span.split()
        if words[0] in ("--help", "--version", "…"):
            continue
        assert words[0] in VERBS, span
        verb, words = verb_of(words)
        flags = {flag for option in verb.params for flag in (*option.opts, *option.secondary_opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= flags | {"-h", "--help"}, span


def test_a_wrong_command_is_found() -> None:
    (block,) = blocks('text\n```bash title="a"\ncifar train -m cnn --no-such  # a remark\ncifar lern | x\n```\n')
    first, second = (fault_of(words) for words in commands(block))
    assert first.startswith("No such option: --no-such")
    assert second == "there is no verb lern"
    (block,) = blocks("```\npython3 train.py -e many > x\ncifar predict resnet\n```\n")
    assert [fault_of(words).split()[0] for words in commands(block)] == ["Invalid", "Missing"]
    (block,) = blocks("```\ncifar sweep new runs/x --seed many\ncifar sweep work\n```\n")
    assert [fault_of(words).split()[0] for words in commands(block)] == ["Invalid", "Missing"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_calls_what_exists(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("cifar.")):
                continue
            name = ast.unparse(node.func).removeprefix("cifar.")
            assert name in cifar.__all__, name
            inspect.signature(getattr(cifar, name)).bind(
                *node.args, **{keyword.arg or "": keyword.value for keyword in node.keywords}
            )


@pytest.mark.parametrize("page", [*PAGES, HISTORY], ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


def test_the_site_has_every_page() -> None:
    named = re.findall(r"^ +- [^:]+: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_every_recipe_and_every_field_is_described() -> None:
    text = (DOCS / "recipes.md").read_text()
    assert set(RECIPES) <= set(re.findall(r"^### `([\w-]+)`", text, re.MULTILINE))
    fields = text.partition("## Fields\n")[2]
    assert set(re.findall(r"`([a-z]\w+)`", fields)) >= set(FIELDS)


def test_values_and_figures_of_recipes_are_as_they_are() -> None:
    text = (DOCS / "recipes.md").read_text()
    for name in RECIPES:
        recipe = recipe_for(name)
        cells = (
            f"`{name}`", recipe.model, recipe.epochs, f"{recipe.batch_size:,}", recipe.optimiser.kind,
            f"{recipe.optimiser.lr:g}", recipe.schedule.kind, recipe.precision,
        )  # fmt: skip
        assert f"| {' | '.join(map(str, cells))} |" in text.splitlines()
    table = results_table.models_table(ROOT / "results")
    assert f"\n\n{table}\n<!-- end of models -->" in text, f"docs/recipes.md needs\n{table}"
    assert all(row.machine in text for row in recorded().values())


def test_every_recorded_command_is_in_the_page_of_reproduction() -> None:
    text = (DOCS / "reproduce.md").read_text()
    table = json.loads((ROOT / "results" / "speednet" / "table.json").read_text())
    summaries = [*ROOT.glob("results/*/summary.json"), *ROOT.glob("results/*/fold-0/summary.json")]
    recorded_commands = {json.loads(path.read_text())["command"] for path in summaries}
    assert len(recorded_commands) >= 8
    for command in recorded_commands | {table["commands"][name] for name in table["recipes"]}:
        assert f"\n{command} " in text or f"\n{command}\n" in text, command


def test_every_file_of_a_run_folder_is_described() -> None:
    text = (DOCS / "run-folder.md").read_text()
    constants = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    assert len(constants) >= 15
    for name in (*constants, *names.PICTURES, *names.LOGS):
        assert f"`{name}" in text, name


def test_the_page_of_models_up_to_its_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = follow("add-a-model.md", tmp_path, monkeypatch)
    assert [run.recipe.model for run in runs] == ["nets:two_layers"] * 2
    assert runs[0].accuracy == runs[1].accuracy


def test_the_page_of_recipes_up_to_its_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again, called, changed = follow("add-a-recipe.md", tmp_path, monkeypatch)
    assert (changed.recipe.optimiser.lr, changed.recipe.label_smoothing) == (3e-4, 0.1)
    assert called.recipe == changed.recipe
    assert (again.recipe.seed, again.recipe.optimiser) == (1, changed.recipe.optimiser)


def test_the_changes_that_add_a_model_and_a_recipe(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cifar", tmp_path / "cifar")
    typed = make_change("add-a-model.md", tmp_path) + make_change("add-a-recipe.md", tmp_path)
    subprocess.run(
        [sys.executable, "-c", TYPE, json.dumps(typed)], cwd=tmp_path, check=True,
        env=os.environ | {"CIFAR_KERNELS": "pytorch", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    model, recipe = (cifar.Run(path) for path in sorted((tmp_path / "runs").iterdir()))
    assert model.recipe.model == "convmixer"
    assert (DOCS / "add-a-model.md").read_text().count(f"{model.summary['parameters']:,} parameters") == 2
    optimiser, schedule = recipe.recipe.optimiser, recipe.recipe.schedule
    assert (recipe.recipe.model, optimiser.kind, optimiser.lr, schedule.kind) == ("resnet20", "muon", 0.01, "linear")


def test_a_change_that_does_not_fit_is_found(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a\nb\n")
    edit(Block("diff", "file.py", " a\n+c\n"), tmp_path)
    assert (tmp_path / "file.py").read_text() == "a\nc\nb\n"
    with pytest.raises(AssertionError, match=r"file\.py"):
        edit(Block("diff", "file.py", "-d\n+e\n"), tmp_path)


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[cifar.Run]:
    """Type in all that a page asks for before its complete change; gives the runs on the sample, by their names."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for block in blocks((DOCS / page).read_text().partition(CHANGE)[0]):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), {})
        for words in commands(block):
            if "sample" in words:
                assert run_app(app, words, program="cifar") == 0
    return [cifar.Run(path) for path in sorted((folder / "runs").iterdir())]


def make_change(page: str, folder: Path) -> list[list[str]]:
    """Make a page's complete change to a copy of the package; gives the commands that are then to be typed."""
    last = (DOCS / page).read_text().partition(CHANGE)[2]
    assert last, f"{page} has no complete change"
    assert "\n## " not in last, "the change is the end of the page"
    changes = blocks(last)
    for block in changes:
        if block.title:
            edit(block, folder)
    return [words for block in changes for words in commands(block)]


def edit(block: Block, folder: Path) -> None:
    """Write a block's file, append to it ("FILE, at the end"), or replace in a copy of it what a diff replaces."""
    name, at_end, _ = block.title.partition(", at the end")
    path = folder / name
    if not path.exists() and (ROOT / name).exists():
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, path)
    if block.language == "diff":
        lines = block.text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text()
        assert text.count(before) == 1, f"{name} does not have exactly one\n{before}"
        path.write_text(text.replace(before, after))
    elif at_end:
        path.write_text(path.read_text() + block.text)
    else:
        assert not path.exists(), f"{name} is there already"
        path.write_text(block.text)
