"""`python -m cifar` is the `cifar` command."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the current folder first: a timm.py in it would be imported in place of the package.
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]
    from cifar.cli import main

    main()
