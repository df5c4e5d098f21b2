"""What a change to a recipe gains on validation: trains on the 45,000 images, never opens the test set.

    python benchmarks/trials.py speednet epochs=9 label_smoothing=0.1 >> trials.jsonl    # one trial, one line of JSON

The settings are those of `cifar train --set`. The line holds accuracy and loss on the 5,000 validation images, without
TTA and with the recipe's, and the seconds of training. One standard error of an accuracy of 93% is 0.36 points, and two
seeds of one recipe differ by about 0.3. `calibrated_loss` tells recipes apart better: the cross-entropy of the mean
logits of an image and its mirror image, divided by the temperature that is best on these same images, so that label
smoothing and length of training do not count. Two seeds differ by up to 0.01 in it: compare means of several.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch.nn.functional as F

from cifar.data.cifar10 import cut, load, open_dataset
from cifar.evaluation.calibration import fit_temperature
from cifar.evaluation.predict import predict, predict_logits
from cifar.machine import describe_commit
from cifar.recipes import recipe_for, with_settings
from cifar.training.loop import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--data", default="", help="as of cifar train")
    arguments = parser.parse_intermixed_args()
    recipe = with_settings(recipe_for(arguments.recipe), ["validation_fraction=0.1", *arguments.settings])
    images = load(open_dataset(arguments.data), "train")
    training, validation = cut(images, recipe.holdout)
    with tempfile.TemporaryDirectory() as folder:
        state = train(recipe, training, validation, folder=Path(folder))
    figures = {}
    for views, below in {"none": 1.0, recipe.tta.views: recipe.tta.views_below}.items():
        probs = predict(state.model, validation.images, views=views, below=below)
        correct = probs.argmax(dim=1) == validation.labels
        figures[views] = {
            "accuracy": round(correct.double().mean().item(), 5),
            "loss": round(F.nll_loss(probs.log(), validation.labels).item(), 5),
        }
    mirrored = predict_logits(state.model, validation.images.flip(-1))
    logits = (predict_logits(state.model, validation.images) + mirrored) / 2
    temperature = fit_temperature(logits.softmax(1), validation.labels)
    print(
        json.dumps(
            {
                "recipe": arguments.recipe,
                "settings": arguments.settings,
                "validation": figures,
                "calibrated_loss": round(F.cross_entropy(logits / temperature, validation.labels).item(), 5),
                "train_accuracy": round(state.rows[-1]["train_accuracy"], 5),
                "seconds": round(state.seconds, 1),
                "images_per_second": [row["images_per_second"] for row in state.rows],
                "commit": describe_commit(),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
