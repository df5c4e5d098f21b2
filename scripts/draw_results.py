"""Draw the learning curves of the recorded runs, results/cnn.png and the like: `python scripts/draw_results.py`.

A page shows the recorded runs of one family; a family without any gets no page.
"""

from pathlib import Path

from cifar.reporting.figures import png, runs_figure
from cifar.runs import METRICS, read_metrics, write_file

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
            write_file(RESULTS / f"{page}.png", png(runs_figure(runs, title=title)))


if __name__ == "__main__":
    main()
