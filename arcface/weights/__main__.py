"""`python -m arcface.weights`: see convert.py."""

from arcface.weights.convert import command

if __name__ == "__main__":
    command()
