"""Runs the notebook on the sample and writes it back with its outputs, which is how it is committed.

    python scripts/run_notebook.py

Needs the test extras. It runs in a temporary folder, so that no run and no path of this machine stays. Pictures keep
256 colours, at a third of the bytes.
"""

import base64
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "cifar10.ipynb"


def main() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = small(output["data"]["image/png"])
    nbformat.write(notebook, NOTEBOOK)


def small(picture: str) -> str:
    """A PNG in base64 with 256 colours."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(256).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
