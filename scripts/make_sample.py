"""Make the bundled sample and the table of fingerprints from CIFAR-10: `python scripts/make_sample.py`.

The sample is the first 100 training and the first 20 test images of each class, in the original order.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image

from cifar.data.cifar10 import SAMPLE_FOLDER, checksum, load, open_dataset
from cifar.data.class_folders import FINGERPRINTS, fingerprint
from cifar.data.split import Split


def first_of_each_class(split: Split, count: int) -> torch.Tensor:
    """Indices of the first `count` images of each class, ascending."""
    return torch.cat([(split.labels == label).nonzero().flatten()[:count] for label in range(10)]).sort().values


def main() -> None:
    dataset = open_dataset()
    SAMPLE_FOLDER.mkdir(exist_ok=True)
    prints, sample = [], []
    for part, count in (("train", 100), ("test", 20)):
        split = load(dataset, part)
        prints += [fingerprint(image, label) for image, label in zip(split.images, split.labels.tolist(), strict=True)]
        indices = first_of_each_class(split, count)
        chosen = split.select(indices)
        tiles = chosen.images.view(-1, 20, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(-1, 640, 3)
        Image.fromarray(np.ascontiguousarray(tiles.numpy())).save(SAMPLE_FOLDER / f"{part}.png", optimize=True)
        labels = {"labels": chosen.labels.tolist(), "original_indices": indices.tolist()}
        (SAMPLE_FOLDER / f"{part}.json").write_text(json.dumps(labels) + "\n")
        sample.append(chosen)
        print(part, checksum(split), checksum(chosen))
    FINGERPRINTS.write_bytes(b"".join(prints))
    print("sample", checksum(*sample), "twins", len(prints) - len(set(prints)), file=sys.stderr)


if __name__ == "__main__":
    main()
