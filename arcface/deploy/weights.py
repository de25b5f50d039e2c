"""The former name of `python -m arcface.weights`."""

import sys

from arcface.weights.convert import command

if __name__ == "__main__":
    print("warning: python -m arcface.deploy.weights is now python -m arcface.weights", file=sys.stderr)
    command()
