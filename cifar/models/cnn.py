"""A small convolutional network: the original project's first system and everybody's first network.

In the manner of LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").
"""

from collections import OrderedDict

from torch import Tensor, nn

from cifar.kernels.ops import conv5x5_pool_relu
from cifar.models.layers import Normalise


class CNN(nn.Module):
    """Three 5×5 convolutions of 8, 16 and 32 channels, each with 2×2 max pooling and ReLU, then three linear layers.

    Pooling and ReLU give the same in either order; ReLU last has a quarter of the work. 51,898 parameters;
    [N, 3, 32, 32] pixels in [0, 1] → [N, 10] logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=1, padding=2), nn.MaxPool2d(2), nn.ReLU(),  # [N, 8, 16, 16]
            nn.Conv2d(8, 16, 5, stride=1, padding=2), nn.MaxPool2d(2), nn.ReLU(),  # [N, 16, 8, 8]
            nn.Conv2d(16, 32, 5, stride=1, padding=2), nn.MaxPool2d(2), nn.ReLU(),  # [N, 32, 4, 4]
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        features = self.normalise(images)
        for conv in convolutions(self):  # each with its pooling and ReLU
            features = conv5x5_pool_relu(features, conv.weight, conv.bias)  # type: ignore[arg-type]
        logits: Tensor = self.head(features.flatten(1))
        return logits


def convolutions(network: CNN) -> list[nn.Conv2d]:
    """Its three convolutions."""
    return [layer for layer in network.features if isinstance(layer, nn.Conv2d)]


def cnn() -> CNN:
    """The CNN of the original project: 51,898 parameters, 4.6 MFLOP forward an image."""
    return CNN()


def layer_by_layer(network: CNN) -> nn.Sequential:
    """The same network as plain layers that share its weights, for who wants to look between them.

    ReLU comes before the pooling, so that `relu3` gives the last convolution's activation at 8×8 cells, [N, 32, 8, 8].

    Returns:
        normalise, conv1, relu1, pool1, …, pool3, flatten, head: the same logits but for rounding.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=network.normalise)
    for number, conv in enumerate(convolutions(network), start=1):
        layers |= {f"conv{number}": conv, f"relu{number}": nn.ReLU(), f"pool{number}": nn.MaxPool2d(2)}
    layers |= {"flatten": nn.Flatten(), "head": network.head}
    return nn.Sequential(layers).train(network.training)
