"""What pyproject.toml says agrees with the requirements files, the code and the licence."""

import re
import sys

import pytest
from packaging.requirements import Requirement

import arcface
import train
import valid
from arcface import extras
from arcface.command import run
from arcface.doctor import __main__ as doctor
from arcface.system import startup
from arcface.weights import convert


@pytest.fixture
def project(repository):
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def requirements(lines):
    """{name: [Requirement, ...]} of lines of a requirements file or of pyproject.toml."""
    found = {}
    for line in lines:
        if text := line.partition("#")[0].strip():
            if text.startswith("-r "):
                continue
            one = Requirement(text)
            found.setdefault(one.name, []).append(one)
    return found


def accepts(some: list[Requirement], version: str) -> bool:
    return all(one.specifier.contains(version) for one in some)


def assert_agree(ours: list[str], file_lines: list[str]):
    ours, theirs = requirements(ours), requirements(file_lines)
    assert ours.keys() == theirs.keys()
    for name, ones in ours.items():
        # Two intersections of ranges are the same if they agree at all their ends, and just beside them.
        ends = {end.version for one in [*ones, *theirs[name]] for end in one.specifier}
        for version in ends | {f"{end}.post1" for end in ends} | {f"{end}.99" for end in ends}:
            assert accepts(ones, version) == accepts(theirs[name], version), (name, version)
        for part in ("marker", "extras"):
            assert {str(getattr(one, part)) for one in ones} == {str(getattr(one, part)) for one in theirs[name]}, name


@pytest.mark.parametrize("extra, file", [("cpu", "requirements.txt"), ("gpu", "requirements-gpu.txt")])
def test_a_requirements_file_is_the_base_and_an_extra(project, repository, extra, file):
    lines = (repository / file).read_text().splitlines()
    assert_agree(project["dependencies"] + project["optional-dependencies"][extra], lines)


def test_the_other_requirements_files_are_the_other_extras(project, repository):
    extra = project["optional-dependencies"]
    assert_agree(extra["engines"], (repository / "requirements-engines.txt").read_text().splitlines())
    assert_agree(extra["tables"] + extra["dev"], (repository / "tests" / "requirements.txt").read_text().splitlines())
    assert "-r ../requirements-engines.txt" in (repository / "tests" / "requirements.txt").read_text()


def test_the_base_names_no_paddle(project):
    assert not [line for line in project["dependencies"] if "paddle" in line]


def test_the_comparison_sees_a_range_that_differs():
    assert_agree(["numpy>=1.26,<2.5", "numpy<2"], ["numpy>=1.26,<2"])
    for other in ("numpy>=1.26,<2.4", "numpy>1.26,<2.5", "numpy>=1.26,<=2.5", "numpy", "numpy>=1.26,<2.5; python_version < '3.13'"):
        with pytest.raises(AssertionError):
            assert_agree(["numpy>=1.26,<2.5"], [other])


def test_the_licence_is_apache_s_in_full(project, repository):
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    text = (repository / "LICENSE").read_text()
    assert "Apache License\n" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) > 200


def test_the_version_stands_in_one_place(project, repository):
    assert re.fullmatch(r"\d+\.\d+\.\d+", arcface.__version__)
    assert project["dynamic"] == ["version"] and arcface.__version__ not in (repository / "pyproject.toml").read_text()


WEIGHTS = ["a.params", "b/MobileFaceNet_128.pdparams"]


@pytest.mark.parametrize("main, options", [(train.main, []), (valid.main, []), (doctor.main, []), (convert.main, WEIGHTS)])
def test_without_paddle_a_command_says_which_extra_to_install(monkeypatch, refused, main, options):
    monkeypatch.setattr(sys, "argv", ["command", *options])
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: None)
    error = refused(main)
    assert "PaddlePaddle is not installed" in error and "for CPU only run: pip" in error and "NVIDIA GPU run: pip" in error


def test_an_import_of_paddle_without_it_is_the_same_line_and_of_something_else_a_traceback(refused):
    def imports(name):
        def main():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return main

    assert all("for CPU only run: pip" in refused(imports(name)) for name in ("paddle", "paddle.nn"))
    for other in ("paddle2onnx", "nothing"):
        with pytest.raises(ModuleNotFoundError):
            run(imports(other))


def test_what_to_type_is_what_works_installed_or_not(monkeypatch):
    def missing(name):
        raise extras.PackageNotFoundError(name)

    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    monkeypatch.setattr(extras, "distribution", missing)
    assert extras.how_to_install("gpu") == "run: pip install -r requirements-gpu.txt"
    monkeypatch.setattr(extras, "distribution", lambda name: None)
    assert extras.how_to_install("engines") == "run: pip install 'arcface-paddle[engines]'"
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert "Python 3.12" in extras.how_to_install("engines")
