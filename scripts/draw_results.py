"""Draw the pages of curves of the recorded runs, results/cnn.png and the like: `python scripts/draw_results.py`.

A page holds the runs of a family that are on record; a family without any has no page.
"""

from pathlib import Path

from cifar.reporting.figures import draw_runs
from cifar.runs import METRICS, read_metrics

RESULTS = Path(__file__).parent.parent / "results"
PAGES = {
    "cnn": ("The small CNN", ["cnn"]),
    "resnet": ("ResNet-20", ["resnet", "resnet-better"]),
    "vit": ("Vision transformers, pretrained and from scratch", ["previt", "vit", "vit-plain"]),
}


def main() -> None:
    for page, (title, names) in PAGES.items():
        runs = {name: read_metrics(RESULTS / name) for name in names if (RESULTS / name / METRICS).exists()}
        if runs:
            draw_runs(runs, RESULTS / f"{page}.png", title=title)


if __name__ == "__main__":
    main()
