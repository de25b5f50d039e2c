"""Verify a trained backbone from a checkout: `python valid.py --help`; arcface/valid.py shows how to launch it."""

from arcface.valid import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
