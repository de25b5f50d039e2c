"""A Python that is not supported is told in one line, by make and by the commands; nothing is made for it."""

import ast
import os
import shutil
import subprocess
import sys

import pytest

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def python_that_says(tmp_path):
    """Returns a function that makes an interpreter which, whatever it is asked, prints a version."""

    def make(version: str) -> str:
        script = tmp_path / f"python{version}"
        script.write_text(f"#!/bin/sh\necho {version}\n")
        script.chmod(0o755)
        return str(script)

    return make


def make(repository, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", *map(str, arguments)]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=60)


@needs_make
@pytest.mark.parametrize("goal", ["setup", "demo", "test", "lint"])
@pytest.mark.parametrize("version, said", [("2.7", "is Python 2.7"), ("3.9", "is Python 3.9"), ("3.14", "is Python 3.14")])
def test_make_names_a_python_outside_the_range_and_what_to_type(repository, tmp_path, python_that_says, goal, version, said):
    done = make(repository, goal, f"PYTHON={python_that_says(version)}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and "3.10 to 3.13" in done.stderr and f"make {goal} PYTHON=python3.12" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "venv").exists()


@needs_make
def test_make_names_a_python_that_cannot_be_run(repository, tmp_path):
    done = make(repository, "setup", f"PYTHON={tmp_path / 'none'}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2 and "none cannot be run" in done.stderr and done.stderr.count("\n") == 1


def test_each_python_has_a_line_that_says_why_it_failed(repository, tmp_path, python_that_says):
    pythons = [python_that_says("3.9"), str(tmp_path / "none"), python_that_says("3.12")]
    (tmp_path / "tests").mkdir()
    script = shutil.copy(repository / "tests" / "pythons.sh", tmp_path / "tests")
    (tmp_path / "make").write_text("#!/bin/sh\necho No matching distribution found\necho 'make: Error 1'\nexit 1\n")
    (tmp_path / "make").chmod(0o755)
    environment = {**os.environ, "MAKE": str(tmp_path / "make")}
    done = subprocess.run([script, *pythons], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    lines = done.stdout.splitlines()[-3:]
    assert lines[0] == f"{pythons[0]}: is Python 3.9; 3.10 to 3.13 are supported"
    assert lines[1] == f"{pythons[1]}: cannot be run"
    assert lines[2].startswith(f"{pythons[2]}: make setup failed: No matching distribution found; see ")


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 9)])
def test_an_older_python_ends_with_one_line_before_it_meets_anything_it_cannot_run(monkeypatch, capsys, repository, version):
    source = (repository / "arcface" / "__init__.py").read_text()
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as ended:
        exec(compile(source, "__init__.py", "exec"), {})
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "this is " + ".".join(map(str, version)) in said


@pytest.mark.parametrize("name", ["arcface/__init__.py", "train.py", "valid.py"])
def test_what_comes_before_that_line_has_no_new_syntax(repository, name):
    tree = ast.parse((repository / name).read_text(), feature_version=(3, 4))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)  # f-strings and later
    assert not [node for node in ast.walk(tree) if isinstance(node, new)]
    first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert ast.unparse(first).startswith(("import sys", "from arcface"))
