"""The README holds what `results/` holds: its tables are written by a script and never by hand."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("results_table", ROOT / "scripts" / "results_table.py")
assert spec is not None
assert spec.loader is not None
results_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results_table)


def test_the_readme_has_the_tables_that_the_script_writes() -> None:
    text = (ROOT / "README.md").read_text()
    assert results_table.with_tables(text, ROOT / "results") == text
    assert text.count("results/resnet-better") == 1
    changed = text.replace("| 0 | 50 |", "| 0 | 51 |")
    assert changed != text
    assert results_table.with_tables(changed, ROOT / "results") == text
