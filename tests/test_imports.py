"""Walls 5 and 10: imports point down, no room imports one of its own level, and heavy imports are late."""

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cifar"
# From the bottom up. A room imports rooms of lower levels only.
LEVELS = (
    {"errors", "timing"},
    {"files"},
    {"machine", "randomness", "recipes"},
    {"kernels", "data"},
    {"models"},
    {"runs", "evaluation"},
    {"reporting", "training"},
    {"audit", "robustness", "serving"},
    {"pipeline", "bench"},
    {"sweep"},
    {"cli"},
    {"api", "__main__"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a module of the package."""
    parts = ("cifar", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def modules_imported(path: Path) -> Iterator[str]:
    """The modules of this package that a module imports, within its functions too; those for types alone left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("cifar"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cifar"):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in NAMES else str(node.module)


def room_of(module: str) -> str:
    """The room of a module; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_never_to_a_sibling(path: Path) -> None:
    room = room_of(name_of(path))
    if not room:
        return
    for imported in map(room_of, modules_imported(path)):
        if imported not in ("", room):
            assert LEVEL_OF[imported] < LEVEL_OF[room], f"{path} imports {imported}, which is not below {room}"


def test_modules_of_a_room_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: set(modules_imported(path)) - {name} for name, path in NAMES.items()}
    for name, path in NAMES.items():
        if path.name == "__init__.py":  # a package gathers what its modules define
            graph = {module: imported - {name} for module, imported in graph.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {module for module, imported in graph.items() if module not in done and imported <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready


def test_every_room_has_a_level() -> None:
    rooms = {room_of(name) for name in NAMES} - {""}
    assert rooms == set(LEVEL_OF)
    assert len(LEVEL_OF) == sum(map(len, LEVELS))


WRITERS = ("write_bytes", "write_text", "write_json", "write_whole", "savefig", "unlink", "rmtree")
# Who else writes, and what: the cache and downloads, compiled kernels, benchmark data, uploads of the demo, evaluations
# that are no run's.
OTHER_WRITERS = {
    "files",
    "runs",
    "data",
    "kernels",
    "robustness",
    "audit",
    "bench",
    "models",
    "pipeline/elsewhere",
    "serving/demo",
    "serving/intake",
    "training/features",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_runs_is_the_only_writer_of_a_run_folder(path: Path) -> None:
    place = str(path.relative_to(PACKAGE).with_suffix(""))
    if place in OTHER_WRITERS or place.partition("/")[0] in OTHER_WRITERS:
        return
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    allowed = {"savefig"} if place.startswith("reporting/") else set()  # into memory
    assert not called & set(WRITERS) - allowed, f"{path} writes files"


@pytest.mark.parametrize("room", ["evaluation", "reporting"])
def test_evaluation_and_reporting_read_no_model_and_write_no_file(room: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"load_network", "build_model", "write_file", "write_files", "load_file"}, path


def loaded(code: str, *modules: str) -> list[str]:
    """Which of these modules a program has imported at its end."""
    code += f"\nimport sys\nprint(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2].split()


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "timm", "matplotlib", "scipy", "numpy", "pydantic", "optuna", "sqlalchemy", "cifar.recipes")
    assert loaded("import cifar.cli", *heavy) == []


def test_recipes_import_no_torch() -> None:
    assert loaded("import cifar.recipes", "torch", "numpy") == []


@pytest.mark.parametrize("recipe", ["cnn", "vit", "speednet-quick"])
def test_an_eager_training_imports_no_compiler_and_no_statistics(recipe: str, tmp_path: Path) -> None:
    """Each of them would take as long as a third of PyTorch, or longer."""
    flags = ["-m", recipe, "-e", "1", "--data", "sample", "-d", "cpu", "-s", str(tmp_path / "run")]
    settings = ["early_epochs=0", "early_image_size=0", "whitening_epochs=0", "precision=fp32", "warmup_epochs=0"]
    settings += ["validation_fraction=0.3"]  # of 100 images, with 4 or more of every class
    flags += itertools.chain.from_iterable(("--set", setting) for setting in settings)
    few = "from cifar.pipeline import evaluation, run\nload = run.load\n"
    few += "run.load = evaluation.load = lambda *which: load(*which).select(slice(100))\n"
    code = few + f"from cifar.cli import app, run_app\nassert run_app(app, ['train', *{flags!r}], program='cifar') == 0"
    heavy = ("torch._dynamo", "torch._inductor", "torchmetrics", "torchvision", "timm", "scipy.signal", "scipy.stats")
    assert loaded(code, *heavy, "pandas", "sympy", "lightning_fabric", "pooch", "requests", "huggingface_hub") == []
