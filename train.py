"""The familiar door: `python3 train.py -m resnet -e 50 -b 128 -l 0.1 -d cuda` is `cifar train` with the same flags."""

from cifar.__main__ import train_main

if __name__ == "__main__":
    train_main()
