"""Ranks whose launcher has ended end too."""

import os

import pytest

from arcface.errors import UserError
from arcface.runtime import processes


@pytest.fixture
def adopted(monkeypatch):
    """Returns a function: what a rank does whose parent is the first process, called by one of the given names if any."""

    def start(*launchers: bytes) -> None:
        monkeypatch.setattr(processes, "die_with_parent", lambda: None)
        monkeypatch.setattr(processes, "LAUNCHERS", launchers)
        monkeypatch.setattr(os, "getppid", lambda: 1)
        processes.die_with_launcher()

    return start


def test_a_rank_whose_launcher_ended_before_it_asked_ends(adopted):
    with pytest.raises(UserError, match="the launcher that set it has ended; start the run again"):
        adopted(b"no process is called so")


def test_a_launcher_may_be_the_first_process(adopted):
    adopted(b"no process is called so", b"")
