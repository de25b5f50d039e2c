"""No command needs a writable home: libraries that write to one get a temporary home, which is removed with the process.

Permissions do not stop root from writing, so the home is a file system mounted read-only, in a namespace of its own.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arcface.system import home, startup
from arcface.training.metrics_writer import VISUALDL_FILE

MOUNT = "mount -t tmpfs -o ro tmpfs {home} && "


@pytest.fixture
def with_read_only_home(repository, tmp_path):
    """Returns a function that runs shell commands with a home that is read-only, and returns what they printed."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    mount = MOUNT.format(home=shlex.quote(str(tmp_path / "home")))
    unshare = ["unshare", "-m", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*unshare, f"{mount} true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here (unshare -m)")

    def run(command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPLCONFIG"))}
        paths = os.pathsep.join([str(repository), str(repository / "tests" / "helpers")])
        environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": paths}
        done = subprocess.run(
            [*unshare, f"{mount} {command}"],
            cwd=repository,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_libraries_get_a_temporary_home_that_is_removed_at_the_end(with_read_only_home, tmp_path):
    output = with_read_only_home(f"{sys.executable} tests/helpers/home_worker.py {tmp_path}")
    *_, used, reason = output.splitlines()
    assert Path(used).parent == tmp_path / "tmp"
    assert reason == f"{tmp_path / 'home'} is not writable (Read-only file system)"
    assert (tmp_path / "backbone.pdiparams").exists()
    assert not any((tmp_path / "tmp").iterdir())


def test_the_demo_s_faces_are_drawn_and_trained_on(with_read_only_home, tmp_path):
    data = tmp_path / "faces"
    with_read_only_home(
        f"{sys.executable} datasets/demo.py --output {data} --identities 2 --images_per_identity 2 --pairs 20 &&"
        f" {sys.executable} tests/helpers/tiny_train.py --network Tiny --data_dir {data} --val_targets demo --batch_size 4"
        f" --max_steps 1 --num_workers 0 --cpu_kernels off --engine paddle --output {tmp_path}/out --logdir {tmp_path}/log"
    )
    assert (tmp_path / "out" / "latest" / "Tiny.pdparams").exists() and (tmp_path / "log" / VISUALDL_FILE).exists()
    assert not any((tmp_path / "tmp").iterdir())


def test_a_writable_home_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "REAL", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").mkdir()
    home.use_temporary_home_if_needed()
    assert os.environ["HOME"] == str(tmp_path) and list(tmp_path.iterdir()) == [tmp_path / ".cache"]


@pytest.mark.parametrize("what", ["absent", ".cache that is a file"])
def test_a_home_in_part_of_which_libraries_cannot_write_is_replaced(tmp_path, monkeypatch, what):
    place = tmp_path / "home"
    if what != "absent":
        place.mkdir()
        (place / ".cache").write_text("")
    monkeypatch.setattr(home, "REAL", place)
    monkeypatch.setattr(home.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("MPLCONFIGDIR", "")
    ends = []
    monkeypatch.setattr(home.atexit, "register", lambda *call: ends.append(call))
    home.use_temporary_home_if_needed()
    used = Path(os.environ["HOME"])
    assert used.parent == tmp_path and used.is_dir() and os.environ["MPLCONFIGDIR"].startswith(f"{used}/")
    ((remove, *arguments),) = ends
    remove(*arguments)
    assert not used.exists()


def test_the_home_is_set_before_paddle_is_imported(monkeypatch):
    done = []
    for name in ("use_temporary_home_if_needed", "_use_fast_blas_on_amd", "_keep_freed_memory", "_share_cores_between_ranks"):
        monkeypatch.setattr(startup, name, lambda name=name: done.append(name))
    monkeypatch.setattr(startup, "_import_quietly", done.append)
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    startup.start_paddle()
    assert done.index("use_temporary_home_if_needed") < done.index("paddle")
