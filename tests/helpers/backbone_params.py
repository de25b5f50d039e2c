"""Backbones as parameters of tests; "Tiny", which other tests may have registered, is left out."""

import pytest

from arcface.backbones import BACKBONES


def backbones() -> list:
    """All backbones; those that are not the first of their module, the smallest, are marked `exhaustive`."""
    smallest = smallest_backbones()
    return [pytest.param(name, marks=_marks(name not in smallest)) for name in BACKBONES if name != "Tiny"]


def families() -> list:
    """The smallest backbone of each module; all but the first are marked `exhaustive`."""
    return [pytest.param(name, marks=_marks(place > 0)) for place, name in enumerate(smallest_backbones())]


def smallest_backbones() -> list[str]:
    first: dict[str, str] = {}
    for name, create in BACKBONES.items():
        if name != "Tiny":
            first.setdefault(getattr(create, "func", create).__module__, name)
    return list(first.values())


def _marks(exhaustive: bool) -> list:
    return [pytest.mark.exhaustive] if exhaustive else []
