"""The notebook runs from top to bottom on the sample, offline, and is committed with its outputs."""

from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, hub_environment

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "cifar10.ipynb"


@pytest.mark.filterwarnings("default")  # of the kernel's machinery, on whatever Python runs it
def test_the_tour(hub: Hub, tmp_path: Path) -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(NOTEBOOK.parent.parent)}
    client.execute(env=hub_environment(hub.url, tmp_path / "hf") | offline)  # raises what a cell raises
    assert hub.requests == []
    check(notebook)


def test_it_is_committed_with_the_switch_off_and_its_outputs_of_the_sample() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == "FULL = False"
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # in one go
    check(notebook)
    assert str(Path.home()) not in NOTEBOOK.read_text()
    assert str(NOTEBOOK.parent.parent) not in NOTEBOOK.read_text()


def check(notebook: Any) -> None:
    """What the outputs hold: a warning with every training, pictures, the folds; no bars that move, no errors."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum("SAMPLE OF CIFAR-10" in text for text in texts) >= 8
    assert not any("\x1b" in text for text in texts)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 9
    assert texts[-1].startswith("Run('runs/tour-sample/previt': timm:test_vit, 2 folds, test accuracy")
