"""The notebook runs from top to bottom on the sample, its last part with weights from a stand-in of the hub."""

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
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    environment = hub_environment(hub.url, tmp_path / "hf") | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    client.execute(env=environment)  # raises what a cell raises
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert text.count("SAMPLE OF CIFAR-10") >= 4  # a warning with every training
    assert "mean" in text.splitlines()[-1]
    assert "\x1b" not in text  # no bars that move, and no colours
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 7
    assert ("GET", "/store/" + hub.sha256) in {(method, path) for method, path, _ in hub.requests}


def test_it_is_committed_with_the_switch_off_and_without_outputs() -> None:
    """Outputs would age, and look like results."""
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == "FULL = False"
    assert not any(cell.outputs or cell.execution_count for cell in code)
