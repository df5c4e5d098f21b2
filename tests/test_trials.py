"""benchmarks/trials.py: one line of figures, and the test set is not opened."""

import json
import math
import subprocess
import sys

from scripts_by_path import ROOT


def test_trial_prints_one_line_of_validation_figures() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "trials.py", "cnn", "--data", "sample", "epochs=1", "views=mirror"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    trial = json.loads(done.stdout)
    assert set(trial["validation"]) == {"none", "mirror"}
    assert all(0 <= figures["accuracy"] <= 1 and figures["loss"] > 0 for figures in trial["validation"].values())
    assert trial["calibrated_loss"] <= math.log(10)  # at any temperature, one of them infinite
    assert (trial["settings"], len(trial["images_per_second"])) == (["epochs=1", "views=mirror"], 1)
    assert "test" not in done.stdout.replace("settings", "")
