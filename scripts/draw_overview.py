"""Draw the picture at the top of the README, from the recorded ResNet-20 and the bundled sample.

python scripts/draw_overview.py
"""

import io
import json
from pathlib import Path

from PIL import Image

import cifar
from cifar.data.cifar10 import load, open_dataset
from cifar.data.split import CLASSES
from cifar.reporting.batches import batch_picture
from cifar.reporting.figures import curves_figure, png
from cifar.reporting.reliability import reliability_figure
from cifar.runs import read_metrics

ROOT = Path(__file__).parent.parent
RUN = ROOT / "results" / "resnet"
WIDTH, GAP = 1_600, 16  # dots


def predictions() -> Image.Image:
    """Test images of the sample with what the network says of them."""
    part = load(open_dataset("sample"), "test")
    images, labels = part.images[:24], part.labels[:24].tolist()
    found = cifar.load_model(RUN, device="cpu").predict(images)
    captions, wrong = [], []
    for ((name, prob),), label in zip(found.top(1), labels, strict=True):
        wrong.append(name != CLASSES[label])
        captions.append(f"{name} {prob:.0%}" + f"\nis {CLASSES[label]}" * wrong[-1])
    data = batch_picture(images, captions, marked=wrong, title="cifar predict: calibrated probabilities")
    return Image.open(io.BytesIO(data)).convert("RGB")


def figures() -> tuple[Image.Image, Image.Image]:
    """Learning curves and calibration of the recorded run."""
    evaluation = json.loads((RUN / "evaluation.json").read_text())
    curves = curves_figure(read_metrics(RUN), title="cifar report: learning curves")
    calibration = reliability_figure(evaluation, title="cifar evaluate: calibration")
    left, right = (Image.open(io.BytesIO(png(figure))).convert("RGB") for figure in (curves, calibration))
    return left, right


def scaled(image: Image.Image, *, width: int) -> Image.Image:
    """The image at another width, its sides in proportion."""
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def main() -> None:
    left, right = 1_010, WIDTH - 1_010 - 3 * GAP
    batch, explained = scaled(predictions(), width=left), Image.open(ROOT / "docs" / "explain.png").convert("RGB")
    curves, calibration = figures()
    columns = [
        [batch, scaled(curves, width=left)],
        [scaled(explained, width=right), scaled(calibration, width=right)],
    ]
    height = max(sum(image.height for image in column) for column in columns) + 3 * GAP
    sheet = Image.new("RGB", (WIDTH, height), "white")
    for column, x in zip(columns, (GAP, left + 2 * GAP), strict=True):
        space = (height - sum(image.height for image in column)) // 3
        y = space
        for image in column:
            sheet.paste(image, (x, y))
            y += image.height + space
    sheet.save(ROOT / "docs" / "overview.png", optimize=True)


if __name__ == "__main__":
    main()
