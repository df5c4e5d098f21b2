"""`python -m cifar` is the `cifar` command."""

from cifar.cli import main

if __name__ == "__main__":
    main()
