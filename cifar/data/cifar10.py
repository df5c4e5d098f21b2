"""Split, the classes, and how the 50,000 training images are cut. (Loading: see below.)"""

from dataclasses import dataclass

from torch import Tensor

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Split:
    """Images and their labels, in the original order.

    Attributes:
        images: uint8, [N, 3, 32, 32], RGB.
        labels: int64, [N], indices into CLASSES.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Split":
        """The images at these positions, in this order; indices: int64 [M] or bool [N]."""
        return Split(self.images[indices], self.labels[indices])
