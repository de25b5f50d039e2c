"""What many tests need: a tiny dataset, processes that train together, and the real data where it is at hand."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores

# What the tests start finds this checkout's package, and not one that is installed.
REPOSITORY = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))

from arcface.command import run
from arcface.system.processes import without_gpus
from arcface.system.startup import start_paddle

start_paddle()

import cv2
import forks
import numpy as np

REAL_DATA = Path(os.environ.get("ARCFACE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
SECONDS_TO_TRAIN = 240
SECONDS_TO_FOLLOW = 30  # that ranks have to end when one has failed


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory):
    """Places temporary files of this process and its children among pytest's own: processes that tests kill leave theirs behind."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)  # it is chosen again, from TMPDIR
        yield


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def real_data() -> Path:
    """The directory of real faces; the test is skipped where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real faces at {REAL_DATA}; ARCFACE_REAL_DATA names another directory")
    return REAL_DATA


def jpeg(seed: int, size: int = 112) -> bytes:
    """A JPEG of coloured blobs, the same for the same seed."""
    blobs = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="session")
def make_data_set(tmp_path_factory):
    """Returns a function that writes a dataset of `images` images of `identities` identities, and returns its directory."""

    def make(images: int, identities: int) -> Path:
        directory = tmp_path_factory.mktemp("data")
        (directory / "images").mkdir()
        lines = []
        for index in range(images):
            (directory / "images" / f"{index:08d}.jpg").write_bytes(jpeg(index))
            lines.append(f"images/{index:08d}.jpg\t{index % identities}\n")
        (directory / "label.txt").write_text("".join(lines))
        return directory

    return make


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
    server = forks.ForkServer(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture
def start_fork(fork_server):
    """Returns a function that forks `python script arguments` with Paddle imported; none outlives the test."""
    yield fork_server.start
    fork_server.kill_forks()


@pytest.fixture(scope="session")
def run_ranks(fork_server):
    """Returns a function that runs a script with arguments in `ranks` processes and returns what they printed."""

    def run_script(ranks: int, script: Path, *arguments, check: bool = True) -> subprocess.CompletedProcess:
        processes = forks.start_ranks(fork_server, ranks, script, *arguments)
        try:
            forks.wait_until(lambda: all_ended_or_one_failed(processes), SECONDS_TO_TRAIN)
            for process in processes:
                process.wait(SECONDS_TO_FOLLOW)
        finally:
            for process in processes:
                process.kill()
        code = next((process.returncode for process in processes if process.returncode), 0)
        printed = ["".join(getattr(process, stream) for process in processes) for stream in ("stdout", "stderr")]
        assert not check or code == 0, "".join(printed)
        return subprocess.CompletedProcess([script, *arguments], code, *printed)

    return run_script


def all_ended_or_one_failed(processes: list[forks.Fork]) -> bool:
    codes = [process.poll() for process in processes]
    return None not in codes or any(codes)


@pytest.fixture
def start_process():
    """Returns subprocess.Popen, in whose process groups nothing outlives the test."""
    started = []

    def start(command: list, **how) -> subprocess.Popen:
        started.append(subprocess.Popen(list(map(str, command)), **{"start_new_session": True, **how}))
        return started[-1]

    yield start
    for process in started:
        forks.kill_group(process.pid)
        process.wait(30)
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()


@pytest.fixture
def launch(start_process, repository, tmp_path):
    """Returns a function that starts a script in ranks under Paddle's launcher, as users do; none outlives the test."""

    def start(ranks: int, script: Path | str, *arguments, **how) -> subprocess.Popen:
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", ranks, "--log_dir", tmp_path / "launch"]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | without_gpus(ranks)
        return start_process(
            [sys.executable, *launcher, script, *arguments],
            cwd=repository,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment, **how},
        )

    return start


@pytest.fixture(scope="session")
def exports():
    """Exported models by what was exported: a name and {file name: content}."""
    return {}


@pytest.fixture
def exports_once(exports, monkeypatch):
    """Has each backbone with its weights exported once a session, in a process of its own as always."""
    from arcface.inference import engines
    from arcface.weights.state_dict import read_state_dict

    real = engines.export_in_child

    def once(weights: Path, network: str, embedding_size: int, folder: Path, format: str) -> Path:
        # Not the file's bytes: Paddle writes the names of its tensors, which are new each time.
        digest = hashlib.sha256(b"".join(array.tobytes() for array in read_state_dict(weights).values())).hexdigest()
        key = digest, network, embedding_size, format
        if key not in exports:
            name = real(weights, network, embedding_size, folder, format).name
            exports[key] = name, {file.name: file.read_bytes() for file in folder.iterdir() if file != weights}
        name, files = exports[key]
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return folder / name

    monkeypatch.setattr(engines, "export_in_child", once)


@pytest.fixture
def tiny(monkeypatch):
    """Registers the backbone "Tiny" in this process, for this test."""
    from tiny_backbone import Tiny

    from arcface.backbones import BACKBONES

    BACKBONES.pop("Tiny", None)  # the import registers it permanently
    monkeypatch.setitem(BACKBONES, "Tiny", Tiny)


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
