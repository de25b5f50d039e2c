"""Child processes end when the process that started them ends, even before they could ask the kernel for that."""

import os
import signal
import subprocess
import sys

import pytest
from launchers import HAS_PADDLE

# Each process of these tests is told its parent and waits until that has ended: what follows in it then comes too late
# for certain.
HELD = """
import os, time
def hold(parent):
    ends = time.monotonic() + 60
    while os.getppid() == parent and time.monotonic() < ends:
        time.sleep(0.01)
"""


@pytest.fixture
def environment(repository, tmp_path):
    """For processes that find our modules, and `hold` in held.py."""
    (tmp_path / "held.py").write_text(HELD)
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "POD_"))}
    paths = os.pathsep.join([str(repository), str(tmp_path)])
    return mine | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


@pytest.fixture
def start(start_process, environment):
    """Returns a function that runs a Python script; what still runs is killed at the end."""

    def run(script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        command = [sys.executable, "-c", script, *arguments]
        return start_process(command, env=environment | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return run


def printed_by_all(process: subprocess.Popen) -> str:
    """What a process and those that it started print; the pipe is closed when all of them have ended."""
    return process.communicate(timeout=60)[0]


# Each starts a process that prints what it thinks of itself, and ends without waiting for it.
WORKER = """
import os, time
from held import hold
from arcface.data import workers
real = workers.die_with_parent
def late(parent):
    hold(parent)
    real(parent)
    print("outlived", flush=True)
workers.die_with_parent = late
workers.Workers(lambda task, slot: None, (1,), 1)
print("started", flush=True)
os.kill(os.getpid(), 9)
"""

RANKS_OF_THE_DOCTOR = """
import os, subprocess
from held import hold
from arcface.distributed import self_check
real, out = self_check.die_with_parent, os.dup(1)
def late(parent):
    os.write(out, b"started\\n")
    os.kill(parent, 9)
    hold(parent)
    real(parent)
    os.write(out, b"outlived\\n")
self_check.die_with_parent = late
self_check.round_trip("cpu", 2, 30)
"""

CHILD = """
import os, subprocess
from arcface.system.processes import child_command
os.environ["HELD_BY"] = str(os.getpid())
subprocess.Popen(child_command("outliving"))
print("started", flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("script", [WORKER, RANKS_OF_THE_DOCTOR, CHILD])
def test_a_child_whose_parent_ended_at_once_ends(start, tmp_path, script):
    (tmp_path / "outliving.py").write_text("print('outlived', flush=True)")
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'HELD_BY' in os.environ:\n    from held import hold\n    hold(int(os.environ['HELD_BY']))\n"
    )
    process = start(script)
    assert printed_by_all(process) == "started\n" and process.returncode == -signal.SIGKILL


def test_a_child_runs_its_module_and_leaves_signals_to_its_parent(start, tmp_path):
    (tmp_path / "told.py").write_text("import os, signal, sys\nos.kill(os.getpid(), signal.SIGHUP)\nprint(__name__, sys.argv[1:])")
    script = "import subprocess\nfrom arcface.system.processes import *\nsubprocess.run(child_command('told', 'a', 'b c'))"
    assert printed_by_all(start(script)) == "__main__ ['a', 'b c']\n"


# A process that adopts those whose parents have ended (a subreaper), and that starts a launcher: Python itself, as
# supervisord and many harnesses are, or another program.
ADOPTER = """
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)
subprocess.Popen(sys.argv[2:])
os.execvp("sleep", ["sleep", "60"]) if sys.argv[1] == "sleep" else time.sleep(60)
"""

RANK = """
import os, sys
from held import hold
from arcface.errors import UserError
from arcface.system.processes import die_with_launcher
if sys.argv[1:]:
    hold(int(sys.argv[1]))
try:
    die_with_launcher()
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
print("a rank", flush=True)
"""

OF_A_RANK = {"POD_NAME": "abc", "PADDLE_LOCAL_SIZE": "2", "PADDLE_TRAINER_ID": "0", "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:1"}

# It starts a rank with its own process id, and ends at once.
SHORT_LAUNCHER = f"""{HAS_PADDLE}
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], env={{**os.environ, **eval(sys.argv[2])}})
"""


@pytest.mark.parametrize("adopter", ["python", "sleep"])
def test_a_rank_whose_launcher_ended_at_once_says_so(start, adopter):
    rank = start(ADOPTER, adopter, sys.executable, "-c", SHORT_LAUNCHER, RANK, repr(OF_A_RANK))
    said = rank.stdout.readline()
    assert said == "PADDLE_LOCAL_SIZE is set, but the launcher that set it has ended; start the run again\n"


@pytest.mark.parametrize(
    "through",
    [
        [],
        ["sh", "-c", '"$@"; exit $?', "sh"],  # a script of the user's, which stays while the rank runs
        ["sh", "-c", 'sh -c \'"$@"; exit $?\' sh "$@"; exit $?', "sh"],
    ],
)
def test_ranks_start_below_a_launcher_and_below_scripts_that_it_starts(start, through):
    launcher = f"{HAS_PADDLE}subprocess.run(sys.argv[2:], env={{**os.environ, **eval(sys.argv[1])}})"
    process = start(launcher, repr(OF_A_RANK), *through, sys.executable, "-c", RANK)
    assert printed_by_all(process) == "a rank\n"


# SIGTERM comes in the middle of the import of Paddle, when Paddle has its own handler, or after it; with what Python knew before.
TERMINATED = """
import os, signal, sys
from arcface.system import startup
when, handled = sys.argv[1:]
if handled == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
real = startup._import_quietly
def importing(module):
    real(module)
    if when == "during":
        os.kill(os.getpid(), signal.SIGTERM)
        print("imported", flush=True)
startup._import_quietly = importing
startup.start_paddle()
if when == "after":
    print("imported", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
print("continues", flush=True)
"""


@pytest.mark.parametrize("when", ["during", "after"])
@pytest.mark.parametrize(
    "handled, code, said", [("default", -signal.SIGTERM, "imported\n"), ("ignored", 0, "imported\ncontinues\n")]
)
def test_paddle_s_signal_handler_is_removed(start, when, handled, code, said):
    process = start(TERMINATED, when, handled)
    assert (printed_by_all(process), process.returncode) == (said, code)
