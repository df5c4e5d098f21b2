"""Compute every figure of the recorded runs again, from their predictions, with NumPy and nothing of this package.

    python scripts/recompute.py        # prints what differs, and how much was compared; exit code 1 if anything differs

Of each folder in results/ with predictions.npz: accuracy, Wilson's interval, loss, Brier score, both calibration
errors, figures per class, the confusion matrix, and loss and calibration error at the recorded temperature. Of the
speed runs: means, standard deviations and Student's intervals over seeds, mean times and their ratios. The tables of
the README and of docs/results.md are written from the files that are compared here, by scripts/results_table.py.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
Z = 1.959963984540054  # of the normal distribution, 97.5 %
# Of Student's, 97.5 %, by degrees of freedom.
T = {
    1: 12.706205,
    2: 4.302653,
    3: 3.182446,
    4: 2.776445,
    5: 2.570582,
    6: 2.446912,
    7: 2.364624,
    8: 2.306004,
    9: 2.262157,
}
NUM_BINS = 15
Array = NDArray[np.float64]


class Differences:
    """What was compared, and what differs."""

    def __init__(self) -> None:
        self.compared = 0
        self.found: list[str] = []

    def check(self, where: object, name: str, recorded: Any, computed: Any, *, within: float = 1e-6) -> None:
        """Note a recorded figure, or list of them, that is not what was computed."""
        self.compared += np.size(computed)
        one, two = np.asarray(recorded, dtype=float), np.asarray(computed, dtype=float)
        if one.shape != two.shape or not np.allclose(one, two, rtol=within, atol=within):
            self.found.append(f"{where}: {name} is recorded as {recorded} and computed as {computed}")


def wilson(fraction: float, num_images: int) -> list[float]:
    """Both ends of Wilson's 95 % interval, as the roots of (p − fraction)² = z² p (1 − p) / N."""
    a, b, c = 1 + Z**2 / num_images, -(2 * fraction + Z**2 / num_images), fraction**2
    root = math.sqrt(b * b - 4 * a * c)
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def gap(confidence: Array, hits: Array, groups: list[NDArray[np.int64]]) -> float:
    """The mean over images of the distance of their group's accuracy from its confidence."""
    return sum(abs(float((hits[group] - confidence[group]).sum())) for group in groups if len(group)) / len(hits)


def equal_groups(confidence: Array) -> list[NDArray[np.int64]]:
    """The images in each of fifteen bins of equal width, closed above."""
    numbers = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence, side="left")
    return [np.flatnonzero(numbers == number) for number in range(NUM_BINS)]


def loss_of(probs: Array, labels: NDArray[np.int64]) -> float:
    """Mean of −log of the label's probability, in nats."""
    return float(-np.log(np.maximum(probs[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)).mean())


def check_run(folder: Path, differences: Differences) -> None:
    """Compare a run's evaluation and summary with its predictions."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        probs, labels = arrays["probs"].astype(np.float64), arrays["labels"]
    summary = json.loads((folder / "summary.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    where, number = folder.relative_to(RESULTS), len(labels)
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    hits = (predicted == labels).astype(float)
    accuracy = float(hits.mean())
    for record, key, interval in ((summary, "test_accuracy", "test_interval"), (evaluation, "accuracy", "interval")):
        differences.check(where, key, record[key], accuracy, within=1e-9)
        differences.check(where, interval, record[interval], wilson(accuracy, number))
    differences.check(where, "loss", evaluation["loss"], loss_of(probs, labels))
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    differences.check(where, "confusion", evaluation["confusion"], confusion.tolist())
    for index, row in enumerate(evaluation["per_class"]):
        right = confusion[index, index]
        figures = {
            "precision": right / max(confusion[:, index].sum(), 1), "recall": right / max(confusion[index].sum(), 1),
            "f1": 2 * right / max(confusion[:, index].sum() + confusion[index].sum(), 1),
        }  # fmt: skip
        for name, value in figures.items():
            differences.check(where, f"{name} of {row['class']}", row[name], value)
    if "brier" not in evaluation:
        return  # of a version that had no calibration
    target = np.eye(10)[labels]
    differences.check(where, "brier", evaluation["brier"], float(((probs - target) ** 2).sum(axis=1).mean()))
    error = gap(confidence, hits, equal_groups(confidence))
    # The oldest evaluations took means over bins in single precision.
    differences.check(where, "calibration_error", evaluation["calibration_error"], error, within=1e-5)
    sizes = np.array_split(np.argsort(confidence, kind="stable"), NUM_BINS)
    differences.check(
        where, "adaptive_calibration_error", evaluation["adaptive_calibration_error"], gap(confidence, hits, sizes)
    )
    if scaling := evaluation["temperature_scaling"]:
        powers = np.maximum(probs, np.finfo(np.float32).tiny) ** (1 / scaling["temperature"])
        scaled = powers / powers.sum(axis=1, keepdims=True)
        top = scaled.max(axis=1)
        differences.check(where, "loss at temperature", scaling["after"]["loss"], loss_of(scaled, labels), within=1e-5)
        error = gap(top, hits, equal_groups(top))
        differences.check(
            where, "calibration error at temperature", scaling["after"]["calibration_error"], error, within=1e-4
        )


def check_speed(differences: Differences) -> None:
    """Compare the table of the speed runs with their times, and accuracies with summaries or predictions."""
    table, rows = (json.loads((RESULTS / "speednet" / name).read_text()) for name in ("table.json", "runs.json"))
    for kind, recorded in table["cpus"].items():
        seconds = {}
        for name, figures in recorded["recipes"].items():
            own = [row for row in rows if (row["cpu"], row["recipe"]) == (kind, name)]
            accuracies = np.array([accuracy_of(RESULTS / "speednet" / kind / f"{name}-{row['seed']}") for row in own])
            seconds[name] = float(np.mean([row["seconds"] for row in own]))
            differences.check(name, "mean accuracy", figures["mean_accuracy"], float(accuracies.mean()), within=1e-9)
            differences.check(name, "seconds", figures["seconds"], seconds[name])
            if len(own) > 1:
                std = float(accuracies.std(ddof=1))
                half = T[len(own) - 1] * std / math.sqrt(len(own))
                ends = [accuracies.mean() - half, accuracies.mean() + half]
                differences.check(name, "standard deviation", figures["std"], std)
                differences.check(name, "interval", figures["interval"], ends)
        ways = [name for name in seconds if name.startswith("speednet-reference") and not name.endswith("-native")]
        for name, figures in recorded["recipes"].items():
            if ways:
                ratio = seconds[name] / min(seconds[way] for way in ways)
                differences.check(name, "ratio to the best reference", figures["ratio_to_best_reference"], ratio)


def accuracy_of(folder: Path) -> float:
    """The test accuracy of a speed run: from its predictions, or for one that kept none from its summary."""
    if (folder / "predictions.npz").exists():
        with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
            return float((arrays["probs"].argmax(axis=1) == arrays["labels"]).mean())
    return float(json.loads((folder / "summary.json").read_text())["test_accuracy"])


def main() -> int:
    """Compare everything; the exit code."""
    differences = Differences()
    folders = sorted(path.parent for path in RESULTS.rglob("predictions.npz"))
    for folder in folders:
        check_run(folder, differences)
    check_speed(differences)
    for sentence in differences.found:
        print(sentence)
    print(f"{differences.compared:,} figures of {len(folders)} runs compared, {len(differences.found)} differ")
    return 1 if differences.found else 0


if __name__ == "__main__":
    sys.exit(main())
