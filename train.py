"""Train a face-recognition model from a checkout: `python train.py --help`; arcface/train.py shows how to launch it."""

from arcface.train import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
