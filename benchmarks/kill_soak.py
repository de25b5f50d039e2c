"""Kill a run of two ranks again and again, at random moments, and see whether anything is lost.

    python benchmarks/kill_soak.py [--kills 200] [--seed 0]

A short run on made-up images, which writes a checkpoint after every step and verifies after every second one, is first
done without a disturbance. Then it is started, killed (SIGKILL: the launcher, or one of the ranks) and resumed until it
ends, and begun anew, until there have been enough kills. After each kill no process may remain and the checkpoint, if
there is one, must be whole; each run that ends must have the weights, momentum and log of the undisturbed one, bit for bit.
Prints a line for each run and ends with exit code 1 at the first difference.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from arcface.io import safe_pickle  # noqa: E402
from arcface.system.processes import SECONDS_TO_STOP, without_gpus  # noqa: E402
from arcface.system.startup import start_paddle  # noqa: E402

start_paddle()

from arcface.head.shards import Shard  # noqa: E402
from arcface.training.checkpoint import Checkpoint  # noqa: E402

RANKS, IMAGES, PEOPLE = 2, 24, 6
OPTIONS = [
    "--device=cpu",
    "--engine=paddle",
    "--batch_size=4",
    "--num_epoch=2",
    "--num_workers=1",
    "--save_interval=1",
    "--log_interval=1",
    "--val_targets=tiny",
    "--val_interval=2",
    "--val_batch_size=4",
    "--sample_rate=0.5",
]
SECONDS_TO_END = SECONDS_TO_STOP + 15  # that the processes have after a kill: a rank that cannot save is killed by itself


def make_data(folder: Path) -> None:
    generator = np.random.default_rng(0)
    encoded = []
    for index in range(IMAGES):
        blobs = cv2.resize(generator.integers(0, 256, (7, 7, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", blobs)[1].tobytes())
        (folder / f"{index}.jpg").write_bytes(encoded[-1])
    (folder / "label.txt").write_text("".join(f"{index}.jpg\t{index % PEOPLE}\n" for index in range(IMAGES)))
    (folder / "tiny.bin").write_bytes(pickle.dumps((encoded, [True, False] * (IMAGES // 4))))


def start(data: Path, output: Path) -> subprocess.Popen:
    """Start or resume the run of a directory."""
    command = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        str(RANKS),
        "--log_dir",
        f"{output}.launch",
        "train.py",
        f"--data_dir={data}",
        f"--output={output}",
        f"--logdir={output}/log",
        *OPTIONS,
        f"--resume={int((output / 'latest').exists())}",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | without_gpus(RANKS)
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(output: Path, rank: int | None = None) -> list[int]:
    """Process numbers of a run: of its launcher, ranks and workers, or the training process of one rank."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                mine = f"--output={output}".encode() in (entry / "cmdline").read_bytes().split(b"\0")
                of_rank = rank is None or f"PADDLE_TRAINER_ID={rank}".encode() in (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            if alive and mine and of_rank:
                found.append(int(entry.name))
    return sorted(found)


def about(pid: int) -> str:
    """What is known of a process that should have ended."""
    status = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(("Pid", "PPid", "State"))]
    return " ".join(status + Path(f"/proc/{pid}/cmdline").read_text().split("\0"))


def ranks_logs(output: Path) -> str:
    """The end of each rank's log."""
    logs = sorted(Path(f"{output}.launch").glob("workerlog.*"))
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)


def result_of(output: Path) -> dict[str, bytes]:
    """What must be equal: every array of a checkpoint, and the log without times and speeds."""
    arrays = {}
    for path in (output / "latest").iterdir():
        if path.suffix in (".pdparams", ".pkl"):
            # A state dict's file also holds Paddle's internal names, which count the tensors of the process.
            loaded = safe_pickle.load(path.read_bytes(), str(path))
            tensors = loaded if isinstance(loaded, dict) else {"": loaded}
            arrays |= {f"{path.name} {name}": value.tobytes() for name, value in tensors.items() if isinstance(value, np.ndarray)}
    records = [json.loads(line) for line in (output / "log" / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {
            name: value
            for name, value in record.items()
            if name not in ("run", "time", "samples_per_second", "hours_to_end", "data_wait")
        }
        for record in records
    ]
    return {**arrays, "log": json.dumps(timeless).encode()}


def log_difference(expected: dict[str, bytes], found: dict[str, bytes]) -> str:
    """The records that one of the logs has and the other has not."""
    both = [json.loads(result["log"]) for result in (expected, found)]
    wanted, had = ([record for record in log if record not in other] for log, other in (both, both[::-1]))
    return f"\nonly undisturbed: {wanted}\nonly killed: {had}\nrecords: {len(both[0])}, {len(both[1])}"


def check_after_kill(output: Path) -> None:
    ends = time.monotonic() + SECONDS_TO_END
    while left := processes(output):
        if time.monotonic() > ends:
            raise SystemExit(f"processes outlived the run: {[about(pid) for pid in left]}\n{ranks_logs(output)}")
        time.sleep(0.1)
    if (output / "latest").exists():
        Checkpoint(output).load("MobileFaceNet_128", Shard(0, PEOPLE))  # compares every sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws moments and victims (default: %(default)s)")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill_soak_"))
    try:
        data = folder / "data"
        data.mkdir()
        make_data(data)
        began = time.monotonic()
        if start(data, folder / "whole").wait():
            raise SystemExit("the undisturbed run failed")
        seconds = time.monotonic() - began
        expected = result_of(folder / "whole")
        kills, runs, victims = 0, 0, {"launcher": 0, **{f"rank {rank}": 0 for rank in range(RANKS)}}
        with tqdm(total=options.kills, unit=" kills", disable=None) as bar:
            while kills < options.kills:
                runs += 1
                output = folder / f"run_{runs}"
                of_this_run = 0
                while True:
                    run = start(data, output)
                    try:
                        if run.wait(draw.uniform(0.1, seconds) if kills < options.kills else None):
                            raise SystemExit(f"run {runs} failed by itself; see {output}.launch")
                        break
                    except subprocess.TimeoutExpired:
                        pass
                    rank = draw.randrange(-1, RANKS)
                    targets = [run.pid] if rank < 0 else processes(output, rank)[:1]  # the rank is older than its workers
                    if not targets:  # the ranks have not started yet
                        rank, targets = -1, [run.pid]
                    os.kill(targets[0], signal.SIGKILL)
                    run.wait()
                    check_after_kill(output)
                    victims["launcher" if rank < 0 else f"rank {rank}"] += 1
                    kills, of_this_run = kills + 1, of_this_run + 1
                    bar.update()
                check_after_kill(output)
                found = result_of(output)
                if different := [name for name in expected if found.get(name) != expected[name]]:
                    raise SystemExit(
                        f"run {runs}, killed {of_this_run} times, differs from the undisturbed one in"
                        f" {len(different)} of {len(expected)} parts, such as {different[0]}"
                        f"{log_difference(expected, found)}\n{ranks_logs(output)}"
                    )
                print(f"run {runs}: killed {of_this_run} times, ended as the undisturbed one", flush=True)
                shutil.rmtree(output)
        print(f"{kills} of {options.kills} kills survived in {runs} runs: {victims}")
    finally:
        for pid in processes(output) if "output" in locals() else []:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
