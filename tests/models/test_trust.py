"""Only `train -m` imports a user's module by itself; whatever else reads a recipe wants --trust-code."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_runs import summary_of
from PIL import Image
from untrained_runs import make_untrained

from cifar import load_model
from cifar.cli import app, run_app
from cifar.errors import InputError
from cifar.models import build_model
from cifar.recipes import recipe_for, to_json, with_fields
from cifar.runs import load_network, write_files
from cifar.serving.export import export_folder, export_onnx
from cifar.serving.images import SIDE

EVIL = """
from pathlib import Path
from torch import nn
Path("ran").touch()
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run whose recipe names a module, in the folder of that module, where nothing has been imported from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_package").mkdir()
    (tmp_path / "evil_package" / "__init__.py").write_text(EVIL)
    (tmp_path / "evil_package" / "nets.py").write_text(EVIL)
    forget()
    make_untrained(tmp_path / "run", "evil_package.nets:net")
    forget()
    (tmp_path / "ran").unlink()
    (tmp_path / "image.png").write_bytes(picture())
    yield tmp_path / "run"
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("evil_package")]:
        del sys.modules[name]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, "png")
    return buffer.getvalue()


VERBS = {
    "predict": ("predict", "run", "image.png"),
    "explain": ("explain", "run", "image.png"),
    "evaluate": ("evaluate", "run", "--data", "sample"),
    "export": ("export", "run"),
    "plain export": ("export", "run", "--format", "safetensors"),
    "demo": ("demo", "run"),
    "recipe": ("train", "--recipe", "run/recipe.json", "--data", "sample", "-s", "new"),
    "plan": ("train", "--recipe", "run/recipe.json", "--dry-run"),
    "resume": ("train", "--resume", "run", "--data", "sample"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_recipe_from_a_stranger_runs_nothing(verb: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(recipe_for("evil_package.nets:net"), state="unfinished", finished=False)
    write_files(run, {"summary.json": json.dumps(summary)})
    assert run_app(app, VERBS[verb], program="cifar") in (1, 2)
    said = capsys.readouterr().err
    assert not (run.parent / "ran").exists()
    assert "evil_package.nets" not in sys.modules
    assert "Traceback" not in said
    assert "The network is evil_package.nets:net" in said
    assert "give --trust-code" in said
    assert not (run.parent / "new").exists()


def test_an_augmentation_from_a_stranger_runs_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where the network is typed."""
    recipe = with_fields(recipe_for("cnn"), own_augmentation="evil_package.nets:net")
    (run / "recipe.json").write_text(to_json(recipe))
    typed = ["-m", "cnn", "--set", "label_smoothing=0.1"]
    for more in ([], ["--set", "weights=not_evil_package.nets:net_either"]):  # a part of a value is not the name
        assert run_app(app, [*VERBS["recipe"], *typed, *more], program="cifar") == 2
        assert "The augmentation is evil_package.nets:net" in capsys.readouterr().err
    assert not (run.parent / "ran").exists()
    assert not (run.parent / "new").exists()


def test_python_wants_the_same(run: Path) -> None:
    for load in (load_model, load_network):
        with pytest.raises(InputError, match="trust_code=True"):
            load(run)
    with pytest.raises(InputError, match="--trust-code"):
        export_folder(run, run.parent / "exported")
    with pytest.raises(InputError, match="--trust-code"):
        export_onnx(run, name="model.onnx")
    with pytest.raises(InputError, match="--trust-code"):
        build_model(recipe_for("evil_package.nets:net"))
    assert not (run.parent / "ran").exists()


def test_a_trusted_network_is_loaded(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["predict", "run", "image.png", "--trust-code"], program="cifar") == 0
    assert "image.png" in capsys.readouterr().out
    assert (run.parent / "ran").exists()
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    assert len(load_model(run, trust_code=True).predict(black)) == 1


def test_names_of_timm_import_nothing_from_this_folder(run: Path) -> None:
    for name in ("evil_package", "evil_package.nets", "local-dir:evil_package", "hf-hub:evil_package/nets"):
        with pytest.raises(InputError, match="timm has no model"):
            build_model(recipe_for(f"timm:{name}"), trust_code=True)
    assert not (run.parent / "ran").exists()


def test_no_module_in_the_current_folder_takes_the_place_of_a_package(tmp_path: Path) -> None:
    for name in ("typer", "torch", "timm", "numpy"):
        (tmp_path / f"{name}.py").write_text(EVIL)
    done = subprocess.run([sys.executable, "-m", "cifar", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
