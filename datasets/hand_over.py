"""The scripts here hand over to the installed package, or say in one line how to install it."""

import sys
from collections.abc import Callable
from importlib import import_module


def command_of(verb: str) -> Callable[..., None]:
    """Return the command arcface.<verb>; ends this process with exit code 2 if the package is not installed."""
    try:
        return import_module(f"arcface.{verb}").command
    except ModuleNotFoundError as error:
        if error.name != "arcface":
            raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)
