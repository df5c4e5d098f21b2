"""benchmarks/trials.py: one line of figures, and the test set stays closed."""

import json
import math
import subprocess
import sys

from scripts_by_path import ROOT


def test_a_trial_prints_one_line_of_validation_figures() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "trials.py", "cnn", "--data", "sample", "epochs=1", "views=mirror"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert set(found["validation"]) == {"none", "mirror"}
    assert all(0 <= figures["accuracy"] <= 1 and figures["loss"] > 0 for figures in found["validation"].values())
    assert found["calibrated_loss"] <= math.log(10)  # at any temperature, one of them infinite
    assert (found["settings"], len(found["images_per_second"])) == (["epochs=1", "views=mirror"], 1)
    assert "test" not in done.stdout.replace("settings", "")
