"""What many tests need: a tiny data set, processes that train together, and the real data where it is at hand."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from arcface.command_line import run
from arcface.runtime.processes import without_gpus
from arcface.runtime.tuning import start_paddle

start_paddle()

REPOSITORY = Path(__file__).parent.parent
REAL_DATA = Path(os.environ.get("ARCFACE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def real_data() -> Path:
    """The directory of real faces; the test is skipped where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real faces at {REAL_DATA}; ARCFACE_REAL_DATA names another directory")
    return REAL_DATA


def jpeg(seed: int, size: int = 112) -> bytes:
    """A JPEG of coloured blobs, the same for the same seed."""
    blobs = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="session")
def make_data_set(tmp_path_factory):
    """Returns a function that writes a data set of `images` images of `people` people, and returns its directory."""

    def make(images: int, people: int) -> Path:
        directory = tmp_path_factory.mktemp("data")
        (directory / "images").mkdir()
        lines = []
        for index in range(images):
            (directory / "images" / f"{index:08d}.jpg").write_bytes(jpeg(index))
            lines.append(f"images/{index:08d}.jpg\t{index % people}\n")
        (directory / "label.txt").write_text("".join(lines))
        return directory

    return make


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """Returns a function that runs a script with arguments in `ranks` processes and returns what it printed."""

    def run_script(ranks: int, script: Path, *arguments, check: bool = True) -> subprocess.CompletedProcess:
        logs = tmp_path_factory.mktemp("launch")
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(logs)]
        command = [sys.executable, *(launch if ranks > 1 else []), str(script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{script.parent}", **without_gpus(ranks)}
        environment.pop("OMP_NUM_THREADS", None)  # this process set it for itself
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run_script


@pytest.fixture
def refused(capsys):
    """Returns a function that calls a command's main, and returns the one line on stderr with which it ends."""

    def call(main) -> str:
        with pytest.raises(SystemExit) as ended:
            run(main)
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return call
