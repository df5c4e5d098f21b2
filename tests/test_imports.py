"""Wall 4 (imports point down) and wall 7 (heavy imports are late)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cifar"
# A room may import rooms of its own level or below; serving must not import training.
LEVELS = {
    "errors": 0, "files": 0, "timing": 0, "recipes": 1, "machine": 1, "runs": 1, "data": 1, "models": 1,
    "evaluation": 2, "training": 3, "reporting": 4, "serving": 4, "readings": 5, "jobs": 5, "prompts": 5, "show": 5,
    "bench": 5,
    "cli": 6, "__main__": 7,
}  # fmt: skip
FORBIDDEN = {("serving", "training"), ("reporting", "training"), ("evaluation", "training")}


def rooms_imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("cifar.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for imported in rooms_imported(path) & set(LEVELS):
        assert LEVELS[imported] <= LEVELS[room], f"{path} imports {imported}, which stands above {room}"
        assert (room, imported) not in FORBIDDEN, f"{path} imports {imported}"


def test_every_room_has_a_level() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} <= set(LEVELS)


def test_help_imports_nothing_heavy() -> None:
    heavy = "'torch', 'timm', 'matplotlib', 'scipy', 'numpy', 'lightning_fabric'"
    code = f"import sys, cifar.cli; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
