"""The package as `pip install` leaves it: its files, its commands, and the launcher from any directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

OURS = {".py", ".html", ".cc", ".h"}
TOOLS = ["align", "check", "convert", "demo", "merge", "pack_bin"]
COMMANDS = {f"arcface-{verb}" for verb in ("train", "valid", "export", "embed", "compare", "doctor", "weights")}
COMMANDS |= {f"arcface-{tool.replace('_', '-')}" for tool in TOOLS}


def pip(verb: str, *arguments) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [sys.executable, "-m", "pip", verb, *quiet, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this tree, built in a copy of it, without the network."""
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        found = "0"
    if int(found.split(".")[0]) < 77:
        pytest.skip(f"setuptools 77 or newer builds the wheel, and {found} is installed: pip install -r tests/requirements.txt")
    repository = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(repository / "arcface", tree / "arcface", ignore=shutil.ignore_patterns("__pycache__"))
    for other in ("datasets", "tests", "benchmarks"):  # what must not get in
        (tree / other).mkdir()
        (tree / other / "module.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "valid.py"):
        shutil.copy(repository / name, tree)
    pip("wheel", tree, "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Where the wheel is installed, apart from this tree."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--target", target)
    return target


def run(installed: Path, cwd: Path, *command, **more) -> subprocess.CompletedProcess:
    """Run a command in another directory, with the installed package and nothing of this tree on the path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)  # this process set it for itself
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, **more)


def test_the_wheel_holds_arcface_with_its_template_and_sources_and_nothing_else(wheel, repository):
    expected = {path.relative_to(repository).as_posix() for path in (repository / "arcface").rglob("*") if path.suffix in OURS}
    assert {Path(name).suffix for name in expected} == OURS
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_names_no_paddle_without_an_extra(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    lines = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: paddle")]
    assert len(lines) == 3 and all("extra ==" in line for line in lines)
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_on_the_path_and_explains_itself_without_paddle(installed, tmp_path, command):
    assert COMMANDS <= {path.name for path in (installed / "bin").iterdir()}
    script = str(installed / "bin" / command)
    without = "import sys, runpy; sys.modules['paddle'] = None; sys.argv[:] = sys.argv[1:]; "
    code = f"{without}runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run(installed, tmp_path, sys.executable, "-c", code, script, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout.lower(), done.stdout + done.stderr


def test_help_imports_neither_paddle_nor_scikit_learn(installed, tmp_path):
    code = """import sys
sys.argv[:] = ["arcface-train", "--help"]
from arcface.train import command
try:
    command()
except SystemExit:
    sys.exit(f"imported {found}" if (found := {"paddle", "sklearn"} & set(sys.modules)) else 0)"""
    done = run(installed, tmp_path, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_launcher_trains_with_the_installed_package_from_any_directory(installed, tmp_path, make_data_set):
    options = ["--data_dir", make_data_set(8, 4), "--output", "out", "--logdir", "log", "--val_targets=", "--device=cpu"]
    options += ["--batch_size=4", "--num_workers=0", "--cpu_kernels=off", "--max_steps=2", "--log_interval=1"]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "launch"]
    done = run(installed, tmp_path, *launch, sys.executable, "-m", "arcface.train", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "out" / "step_00000002").is_dir() and len(list((tmp_path / "out").glob("rank:*_weight.pkl"))) == 2


@pytest.mark.parametrize("tool", TOOLS)
def test_a_script_of_datasets_runs_from_anywhere_with_the_package_and_says_in_one_line_that_it_is_missing(
    installed, tmp_path, repository, tool
):
    script = repository / "datasets" / f"{tool}.py"
    done = run(installed, tmp_path, sys.executable, script, "--help")
    assert done.returncode == 0 and f"python datasets/{tool}.py --" in done.stdout and done.stderr == ""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    without_packages = [sys.executable, "-S", script]  # nor the one that `make setup` installs
    done = subprocess.run(without_packages, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: the package arcface is not installed; run: pip install -e .\n"


@pytest.mark.parametrize("script", ["train.py", "valid.py"])
def test_train_and_valid_run_from_a_checkout_that_is_not_installed(tmp_path, repository, script):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, repository / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--network" in done.stdout, done.stderr
