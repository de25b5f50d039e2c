"""Process settings are made unless the user has made them."""

import os
import sys

import pytest

from arcface.system import startup


@pytest.fixture
def environment(monkeypatch):
    """Returns a function that sets exactly these of the variables that are looked at."""

    def use(**variables: str) -> None:
        for name in ("OMP_NUM_THREADS", "PADDLE_LOCAL_SIZE", "MKL_DEBUG_CPU_TYPE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize(
    "variables, threads",
    [
        ({}, "8"),
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "1"}, "1"),
        ({"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "2"}, "4"),  # 1 is the launcher's
        ({"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "16"}, "1"),
        ({"OMP_NUM_THREADS": "6", "PADDLE_LOCAL_SIZE": "2"}, "6"),
    ],
)
def test_ranks_share_the_cores_unless_the_user_sets_the_threads(environment, monkeypatch, variables, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    environment(**variables)
    startup._share_cores_between_ranks()
    assert os.environ["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("setting, threads", [("4", 4), ("4,2", 4), ("", 1), ("0", 1), ("many", 1)])
def test_any_setting_of_openmp_gives_a_number_of_threads(environment, setting, threads):
    environment(OMP_NUM_THREADS=setting)
    assert startup.threads() == threads


def test_the_blas_setting_of_the_user_is_kept(environment):
    environment(MKL_DEBUG_CPU_TYPE="4")
    startup._use_fast_blas_on_amd()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "4"


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "LD_PRELOAD"])
def test_the_allocator_of_the_user_is_kept(monkeypatch, name):
    for variable in [variable for variable in os.environ if variable.startswith("MALLOC_") or variable == "LD_PRELOAD"]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(startup.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert startup.why_memory_is_not_kept() is None
    monkeypatch.setenv(name, "1")
    assert startup.why_memory_is_not_kept() == f"{name} is set"


def test_another_c_library_than_glibc_is_left_alone(monkeypatch):
    monkeypatch.setattr(startup.platform, "libc_ver", lambda: ("", ""))
    assert startup.why_memory_is_not_kept() == "the C library is not glibc"
    monkeypatch.setattr(startup.ctypes, "CDLL", None)
    startup._keep_freed_memory()


def test_messages_of_the_import_are_shown_except_the_one_on_threads(tmp_path, monkeypatch, capsys):
    (tmp_path / "talkative.py").write_text(
        "import sys\nsys.stderr.write('WARNING: OMP_NUM_THREADS set to 2\\nsomething is broken\\n')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "talkative", raising=False)
    startup._import_quietly("talkative")
    assert capsys.readouterr().err == "something is broken\n"
