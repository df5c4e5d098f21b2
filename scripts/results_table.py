"""Write the tables of README, docs/recipes.md, docs/results.md and `cifar models` from what results/* hold.

python scripts/results_table.py
"""

import json
import statistics
from pathlib import Path
from typing import Any

from cifar.evaluation.comparison import compare_recipes
from cifar.models import build_model, num_parameters
from cifar.recipes import recipe_for
from cifar.reporting.records import read_evaluated_runs
from cifar.robustness.corruptions import CORRUPTIONS

ROOT = Path(__file__).parent.parent
RECORDED = "cifar/recipes/recorded.json"
HEAD = (
    "| run | test accuracy | 95% interval | seed | epochs | training time | machine | command |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
EXPORT_HEAD = (
    "| run | network | largest difference | accuracy fp32 → int8 | accuracy lost | images/s fp32 → int8 | speedup "
    "| size fp32 → int8 |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
MODELS_HEAD = (
    "| recipe | test accuracy | 95% interval | seeds | parameters | time | weights come along |\n"
    "|---|---|---|---|---|---|---|\n"
)
SPEED_HEAD = (
    "| recipe | mean test accuracy (TTA: shift) | one view | standard deviation | 95% interval of the mean | seeds "
    "| time of the whole process | relative to PyTorch's fastest reference | to the reference with our kernels "
    "| recorded command |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)
GPU_HEAD = (
    "| what | measured | goal | seeds | seconds to the result | seconds of training |\n|---|---|---|---|---|---|\n"
)
# Of a network on the first version of the images and on the published ones, by a reviewer who had both.
APART = {
    "zoom blur": "8.9 points, corrected in version 2",
    "elastic transform": "4.5 points, corrected in version 2",
    "frost": "11.5 points: not comparable",
}
NO_GPU = (
    "Not measured yet: no GPU was at hand. `bash benchmarks/gpu.sh` measures what this table will show. Until then,\n"
    "tests on a CPU hold replayed steps against the same taken one by one, and count what would wait for a GPU.\n"
)


def table(results: Path) -> str:
    """A row for each recorded run, then for each recorded cross-validation, by name."""
    rows = [row_of_run(path.parent) for path in sorted(results.glob("*/summary.json"))]
    rows += [row_of_crossval(path.parent) for path in sorted(results.glob("*/crossval.json"))]
    return HEAD + "".join(rows)


def row_of_run(folder: Path) -> str:
    """One recorded run, with Wilson's interval over the test images."""
    summary = json.loads((folder / "summary.json").read_text())
    views = summary["recipe"].get("views", "none")
    accuracy = f"{summary['test_accuracy']:.2%}" + (f" (TTA: {views})" if views != "none" else "")
    return row(folder, accuracy, summary["test_interval"], summary["seed"], summary)


def row_of_crossval(folder: Path) -> str:
    """One recorded cross-validation: mean and standard deviation over the folds, with Student's interval."""
    result = json.loads((folder / "crossval.json").read_text())
    first = json.loads((folder / "fold-0" / "summary.json").read_text())
    test, num_folds = result["test"], result["num_folds"]
    accuracy = f"{test['mean']:.2%} ± {100 * test['std']:.2f} (mean ± standard deviation over {num_folds} folds)"
    seeds = f"{first['seed']} … {first['seed'] + num_folds - 1}"
    return row(folder, accuracy, test["interval"], seeds, first | {"seconds": result["seconds"]})


def row(folder: Path, accuracy: str, interval: list[float], seed: object, summary: dict[str, Any]) -> str:
    """A row of the table of results."""
    cells = (
        folder.name,
        accuracy,
        f"{interval[0]:.2%} to {interval[1]:.2%}",
        str(seed),
        str(summary["epochs"]),
        f"{summary['seconds'] / 60:.1f} min" + in_parts(summary.get("sittings", 1)),
        hardware(summary["machine"]),
        f"`{summary['command']}`",
    )
    return f"| {' | '.join(cells)} |\n"


def in_parts(number: int) -> str:
    """What follows the training time of a run that was stopped and resumed."""
    return f" in {number} parts" if number > 1 else ""


def export_table(results: Path) -> str:
    """A row for each recorded ONNX export, which has an 8-bit file beside it."""
    return EXPORT_HEAD + "".join(row_of_export(path) for path in sorted(results.glob("*/export.json")))


def row_of_export(path: Path) -> str:
    """One export: the fp32 file compared with the network, and the 8-bit file with the fp32 file."""
    export = json.loads(path.read_text())
    fp32, int8 = export["int8"]["fp32"], export["int8"]["int8"]
    cells = (
        path.parent.name,
        export["model"],
        f"{export['parity']['largest_difference']:.1e}",
        f"{fp32['accuracy']:.2%} → {int8['accuracy']:.2%}",
        f"{100 * export['int8']['accuracy_lost']:.2f} points",
        f"{fp32['images_per_second']:,.0f} → {int8['images_per_second']:,.0f}",
        f"{int8['images_per_second'] / fp32['images_per_second']:.2f}×",
        f"{fp32['bytes'] / 1e6:.2f} → {int8['bytes'] / 1e6:.2f} MB",
    )
    return f"| {' | '.join(cells)} |\n"


def corruptions_table(results: Path) -> str:
    """A row for each corruption: accuracy of each run, a mean over severities, and what is known of the images."""
    paths = sorted(results.glob("*/corruptions*.json"))
    runs = {path.parent.name: json.loads(path.read_text()) for path in paths}
    assert len({run["images_sha256"] for run in runs.values()}) == 1, f"{', '.join(runs)} saw different images"
    names = [f"{name} (TTA: {run['views']})" for name, run in runs.items()]
    head = f"| corruption | {' | '.join(names)} | error apart from CIFAR-10-C's |\n|---|{'---|' * (len(runs) + 1)}\n"
    means = {name: [statistics.fmean(run["accuracy"][name]) for run in runs.values()] for name in CORRUPTIONS}
    rows = {name: (values, APART.get(name, "at most 0.9 points")) for name, values in means.items()}
    rows["mean"] = ([run["mean_accuracy"] for run in runs.values()], "")
    rows["none"] = ([run["clean_accuracy"] for run in runs.values()], "")
    lines = (
        f"| {name} | {' | '.join(f'{value:.2%}' for value in values)} | {apart} |"
        for name, (values, apart) in rows.items()
    )
    return head + "\n".join(lines) + "\n"


def speed_table(results: Path) -> str:
    """Of each kind of CPU, a row for each recipe of the recorded speed runs, the fastest first, and the machine."""
    path = results / "speednet" / "table.json"
    if not path.exists():
        return "No speed runs are recorded.\n"
    recorded = json.loads(path.read_text())
    return "\n".join(speeds_of_cpu(kind, recorded["commands"]) for kind in recorded["cpus"].values())


def speeds_of_cpu(kind: dict[str, Any], commands: dict[str, str]) -> str:
    """The rows of one kind of CPU."""
    ordered = sorted(kind["recipes"].items(), key=lambda item: item[1]["seconds"])
    rows = (row_of_speed(name, figures, commands[name]) for name, figures in ordered)
    machine, versions = kind["machine"], kind["versions"]
    bf16 = ", native bf16" if machine.get("native_bf16") else ""
    model = f", {machine['processor_model']}" if machine.get("processor_model") else ""
    note = (
        f"On {machine['processor']}{model}, {machine['cores']} cores ({machine['instructions']}{bf16}); "
        f"Python {versions['python']}, PyTorch {versions['torch']}."
    )
    several = [figures for figures in kind["recipes"].values() if figures["interval"]]
    if overs := sorted({figures.get("interval_over", "seeds") for figures in several}):
        note += f" Intervals are over {' or over '.join(overs)}."
    if "speednet" in kind["recipes"] and kind["recipes"]["speednet"]["std"]:
        note += f" {above_94(kind['recipes']['speednet'])}"
    return SPEED_HEAD + "".join(rows) + "\n" + note + "\n"


def above_94(figures: dict[str, Any]) -> str:
    """How sure it is, by Student's distribution, that the mean over seeds is above 94.0% on these test images."""
    from scipy.special import stdtr

    mean, std, seeds = figures["mean_accuracy"], figures["std"], figures["seeds"]
    confidence = float(stdtr(seeds - 1, (mean - 0.94) / (std / seeds**0.5)))
    return f"That the mean of `speednet` over seeds is above 94.0% has a one-sided confidence of {confidence:.0%}."


def row_of_speed(name: str, figures: dict[str, Any], command: str) -> str:
    """One recipe: mean and standard deviation over seeds, interval of the mean, mean time and its ratios."""
    interval, one_view = figures["interval"], figures.get("mean_accuracy_one_view")
    ratios = (figures["ratio_to_best_reference"], figures["ratio_to_native_reference"])
    cells = (
        name,
        f"{figures['mean_accuracy']:.2%}",
        "not recorded" if one_view is None else f"{one_view:.2%}",
        f"{100 * figures['std']:.2f} points" if interval else "",
        f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "one seed",
        str(figures["seeds"]),
        f"{figures['seconds'] / 60:.1f} min",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"`{command}`",
    )
    return f"| {' | '.join(cells)} |\n"


def gpu_table(results: Path) -> str:
    """A row for each figure that benchmarks/gpu.py has measured."""
    path = results / "gpu" / "table.json"
    if not path.exists():
        return NO_GPU
    record = json.loads(path.read_text())
    versions = record["versions"]
    where = f"\nOn {record['card']}; PyTorch {versions['torch']}; commit {record['commit']}.\n"
    return GPU_HEAD + "".join(map(row_of_gpu, record["rows"])) + where


def row_of_gpu(row: dict[str, Any]) -> str:
    """A figure, or that there is none."""
    figure = row["figure"]
    if figure is None:
        shown = "not measured"
    else:
        shown = ("yes" if figure else "no") if isinstance(figure, bool) else number(figure)
    unit = f" {row['unit']}" if row["unit"] else ""
    cells = (
        row["name"],
        shown + unit,
        "" if row["goal"] is None else number(row["goal"]) + unit,
        str(row.get("seeds", "")),
        number(row.get("seconds_to_result")),
        number(row.get("training_seconds")),
    )
    return f"| {' | '.join(cells)} |\n"


def recorded_models(results: Path) -> list[dict[str, Any]]:
    """What `cifar models` shows of each recorded recipe, JSON-ready, the most accurate first.

    Cross-validations are left out, and so is a single run of a recipe that the speed runs measure with several seeds.
    """
    runs: dict[str, list[Path]] = {}
    for path in sorted(results.glob("*/summary.json"), key=lambda path: json.loads(path.read_text())["seed"]):
        _, found, rest = json.loads(path.read_text())["command"].partition("-m ")
        assert found, path
        runs.setdefault(rest.split()[0], []).append(path.parent)
    rows = {name: figures_of_runs(folders) for name, folders in runs.items()}
    table = results / "speednet" / "table.json"
    recorded = json.loads(table.read_text())["cpus"] if table.exists() else {}
    for kind in recorded.values():
        for name in ("speednet", "speednet-quick", "speednet-95"):
            figures = kind["recipes"].get(name)
            former = rows.get(name, {"seeds": 0, "run": "speednet", "weights": False})
            if figures is None or figures["seeds"] < former["seeds"]:
                continue
            rows[name] = former | {
                "accuracy": figures["mean_accuracy"], "interval": figures["interval"], "seeds": figures["seeds"],
                "tta": "shift", "parameters": parameters_of(name), "minutes": round(figures["seconds"] / 60, 1),
                "machine": hardware(kind["machine"]),
            }  # fmt: skip
    return sorted(({"recipe": name} | row for name, row in rows.items()), key=lambda row: -row["accuracy"])


def figures_of_runs(folders: list[Path]) -> dict[str, Any]:
    """Mean accuracy of runs of one recipe, with the interval over seeds and images; of one run with Wilson's.

    Args:
        folders: of recorded runs that differ in their seed, the first of which may have its weights.
    """
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    first = summaries[0]
    assert len({json.dumps(summary["recipe"] | {"seed": 0}, sort_keys=True) for summary in summaries}) == 1, folders
    interval = first["test_interval"]
    if len(folders) > 1:
        interval = compare_recipes(read_evaluated_runs(folders), seed=0)["recipes"][0]["interval"]
    return {
        "accuracy": statistics.fmean(summary["test_accuracy"] for summary in summaries), "interval": interval,
        "seeds": len(folders), "tta": first["recipe"].get("views", "none"), "parameters": first["parameters"],
        "minutes": round(statistics.fmean(summary["seconds"] for summary in summaries) / 60, 1),
        "machine": hardware(first["machine"]), "run": folders[0].name,
        "weights": (folders[0] / "model.safetensors").exists(),
    }  # fmt: skip


def parameters_of(name: str) -> int:
    """The number of parameters of a recipe's network."""
    return num_parameters(build_model(recipe_for(name)))


def number(value: float | None) -> str:
    """A figure in as many digits as it deserves; "" where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def hardware(machine: dict[str, Any]) -> str:
    """GPUs or CPU, cores and instruction set of a summary's machine."""
    return f"{', '.join(machine['gpus']) or machine['processor']}, {machine['cores']} cores ({machine['instructions']})"


def models_table(results: Path) -> str:
    """A row for each recorded recipe, the most accurate first."""
    return MODELS_HEAD + "".join(map(row_of_model, recorded_models(results)))


def row_of_model(row: dict[str, Any]) -> str:
    """What `cifar models` shows of a recipe."""
    interval, tta = row["interval"], f" (TTA: {row['tta']})" if row["tta"] != "none" else ""
    cells = (
        f"`{row['recipe']}`",
        f"{row['accuracy']:.2%}{tta}",
        f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "",
        str(row["seeds"]),
        f"{row['parameters']:,}",
        f"{row['minutes']:.1f} min",
        "yes" if row["weights"] else "no",
    )
    return f"| {' | '.join(cells)} |\n"


TABLES = {
    "README.md": {"models": models_table},
    "docs/recipes.md": {"models": models_table},
    "docs/results.md": {
        "speed": speed_table,
        "gpu": gpu_table,
        "results": table,
        "exports": export_table,
        "corruptions": corruptions_table,
    },
}


def with_tables(name: str, text: str, results: Path) -> str:
    """The text of a file of TABLES with each of its tables written anew from these results."""
    for table_name, write in TABLES[name].items():
        begin = f"<!-- {table_name}: written by scripts/results_table.py -->\n"
        end = f"<!-- end of {table_name} -->\n"
        before, _, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        assert found_end, f"{name} lacks the markers of the table {table_name}"
        # Python-Markdown takes a table only after an empty line.
        text = before + begin + "\n" + write(results) + "\n" + end + after
    return text


if __name__ == "__main__":
    for name in TABLES:
        path = ROOT / name
        path.write_text(with_tables(name, path.read_text(), ROOT / "results"))
    (ROOT / RECORDED).write_text(json.dumps(recorded_models(ROOT / "results"), indent=2) + "\n")
