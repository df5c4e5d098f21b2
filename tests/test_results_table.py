"""The README holds what `results/` holds: its tables are written by a script and never by hand."""

from scripts_by_path import ROOT, load_script

results_table = load_script("scripts/results_table.py")


def test_the_readme_has_the_tables_that_the_script_writes() -> None:
    text = (ROOT / "README.md").read_text()
    assert results_table.with_tables(text, ROOT / "results") == text
    assert text.count("results/resnet-better") == 1
    changed = text.replace("| 0 | 50 |", "| 0 | 51 |")
    assert changed != text
    assert results_table.with_tables(changed, ROOT / "results") == text
