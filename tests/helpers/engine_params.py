"""Engines as parameters of tests, where a Python may lack the packages of some: those are skipped with the reason."""

import pytest

from arcface.errors import UserError
from arcface.inference.engines import candidates


def engines_here(*names: str) -> list:
    """The engines' names as parameters, each marked to be skipped if it lacks a package."""
    return [pytest.param(name, marks=_marks(name)) for name in names]


def _marks(name: str):
    try:
        candidates(name)
    except UserError as error:
        return pytest.mark.skip(reason=str(error))
    return ()
