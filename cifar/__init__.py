"""Train, test, understand and use an image classifier on CIFAR-10."""

__version__ = "0.1.0"
