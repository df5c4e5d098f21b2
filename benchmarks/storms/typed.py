"""Text that people type and strangers' JSON and CSV, drawn by Hypothesis, with what reads it."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from storms.readers import Reader, a_run

NUMBERS = ("0", "-1", "1e400", "nan", "inf", "1e-320", "1e308", str(2**31), str(2**64), "-0", "0x10", "1_0", "٣", "")
NAMES = (
    "evil:net",
    "os:abort",
    "sys:exit",
    "builtins:breakpoint",
    "timm:nothing",
    "<script>",
    "../..",
    "\x00",
    "[red]",
)
FLOATS = st.floats(allow_subnormal=False)  # PyTorch may flush denormals in this process
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, st.text(max_size=20), st.sampled_from(NUMBERS + NAMES)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


@st.composite
def changed(draw: Any, good: dict[str, Any]) -> str:
    """The text of a JSON object with a few values replaced, added or left out, or of something else."""
    if draw(st.integers(0, 30)) == 0:
        return str(draw(st.one_of(VALUES.map(json.dumps), st.text(max_size=60), st.just(DEEP))))
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 4))):
        inner: Any = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and draw(st.booleans()):
                inner = inner[key]
                continue
            if isinstance(inner, dict) and draw(st.integers(0, 3)) == 0:
                del inner[key]
            else:
                inner[key] = draw(VALUES)
            break
    return json.dumps(value)


def records(folder: Path) -> tuple[Reader, Any]:
    """Every JSON file of a run, read by all that reads it."""
    from cifar.cli import app, run_app
    from cifar.errors import InputError, WorldError
    from cifar.reporting.card import model_card
    from cifar.reporting.records import read_evaluated_runs, read_records
    from cifar.runs import data_of_run, how_computed, run_recipe
    from cifar.serving.push import files_to_push

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    train = ["train", "-m", "cnn", "-e", "1", "--data", "sample", "-d", "cpu", "-s", str(run)]
    assert run_app(app, train, program="cifar") == 0
    (run / "checksums.json").unlink(missing_ok=True)  # a stranger's would fit
    files = {path.name: json.loads(path.read_text()) for path in run.glob("*.json")}
    facts = {key: files["summary.json"][key] for key in ("data", "data_sha256")}
    files |= {"crossval.json": facts | {"finished": True}, "export.json": facts | {"model": "cnn"}}
    other = shutil.copytree(run, folder / "other", dirs_exist_ok=True)
    readers: list[Callable[[], object]] = [
        lambda: run_recipe(run), lambda: how_computed(run), lambda: data_of_run(run), lambda: read_records([run]),
        lambda: read_evaluated_runs([run, other]), lambda: model_card(run), lambda: files_to_push(run, "a/b"),
    ]  # fmt: skip

    for reader in readers:
        reader()  # the good run is read by all

    def read(case: tuple[str, str]) -> None:
        path = run / case[0]
        before = path.read_bytes() if path.exists() else None
        path.write_text(case[1], encoding="utf-8", errors="surrogatepass")
        try:
            for reader in readers:
                with contextlib.suppress(InputError, WorldError):
                    reader()
        finally:
            path.write_bytes(before) if before is not None else path.unlink()

    return read, st.sampled_from(sorted(files)).flatmap(lambda file: st.tuples(st.just(file), changed(files[file])))


def metrics(folder: Path) -> tuple[Reader, Any]:
    """metrics.csv, read and drawn."""
    from cifar.runs import METRICS, read_metrics

    run = a_run(folder)
    good = (run / METRICS).read_text()
    cells = st.one_of(st.text(max_size=6), st.sampled_from([*NUMBERS, ",", "\n", '"', "\0", "1,2"]))

    @st.composite
    def texts(draw: Any) -> str:
        text = good
        for _ in range(draw(st.integers(1, 5))):
            at = draw(st.integers(0, len(text)))
            text = text[:at] + draw(cells) + text[at + draw(st.integers(0, 8)) :]
        return text

    def read(text: str) -> None:
        (run / METRICS).write_text(text, encoding="utf-8", errors="surrogatepass")
        read_metrics(run)

    return read, texts()


def settings(_folder: Path) -> tuple[Reader, Any]:
    """`--set` on every named recipe."""
    from cifar.recipes import RECIPES, recipe_for, to_json, with_settings
    from cifar.recipes.text import FIELDS

    values = st.one_of(
        st.sampled_from([*NUMBERS, *NAMES]),
        st.integers().map(str),
        FLOATS.map(str),
        st.text(max_size=12),
    )
    pairs = st.tuples(st.one_of(st.sampled_from(sorted(FIELDS)), st.text(max_size=8)), values).map("=".join)

    def read(case: tuple[str, list[str]]) -> None:
        to_json(with_settings(recipe_for(case[0]), case[1]))

    return read, st.tuples(
        st.sampled_from(sorted(RECIPES)), st.lists(st.one_of(pairs, st.text(max_size=9)), max_size=4)
    )


def recipes(folder: Path) -> tuple[Reader, Any]:
    """recipe.json of a stranger."""
    from cifar.recipes import read_recipe, recipe_for, to_json

    path = folder / "recipe.json"

    def read(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        read_recipe(path)

    return read, changed(json.loads(to_json(recipe_for("resnet"))))


def commands(folder: Path) -> tuple[Reader, Any]:
    """Command lines: every verb that neither trains nor serves, with flags and words at random."""
    from cifar.cli import app, run_app

    run = a_run(folder)
    verbs = {
        "train": ["--dry-run", "-m", "-e", "-b", "-l", "-d", "-c", "-s", "--seed", "--folds", "--set", "--recipe",
                  "--freeze", "--train-blocks", "--weights", "--resume", "--overwrite", "--kernels", "--compile"],
        "evaluate": ["--split", "--tta", "--json", "--data"], "compare": ["--json", "--seed"], "card": [],
        "predict": ["--json", "--csv", "--top", "--tta", "--batch-size", "-d"], "push": ["--dry-run", "--private"],
    }  # fmt: skip
    words = st.one_of(
        st.sampled_from([*NUMBERS, *NAMES, "cnn", "vit", "sample", "test", "none", "cpu", "run", str(run), "."]),
        st.sampled_from(["/dev/null", "-", "--"]),
        st.text(max_size=8), st.integers().map(str),
    )  # fmt: skip
    lines = st.sampled_from(sorted(verbs)).flatmap(
        lambda verb: st.tuples(
            st.just(verb), st.lists(st.one_of(st.sampled_from([*verbs[verb], "-h"]), words), max_size=6)
        )
    )

    def read(case: tuple[str, list[str]]) -> None:
        verb, rest = case
        argv = [verb, *rest, *(["--dry-run"] if verb in ("train", "push") else [])]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_app(app, argv, program="cifar")
        assert code in (0, 1, 2), code
        sentences = [line for line in err.getvalue().splitlines() if line.startswith("cifar: ")]
        if code == 2:
            assert len(sentences) <= 1, sentences

    return read, lines
