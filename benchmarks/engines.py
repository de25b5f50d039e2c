"""How long `valid.py` takes with each engine, and how much memory: whole processes, from start to the printed accuracy.

    python -m arcface.weights insightface_y1/model-0000.params pretrained/MobileFaceNet_128.pdparams
    python benchmarks/engines.py --checkpoint pretrained --data_dir MS1M_v2 --val_targets lfw

Paddle's layers come last, since they take longest: about 10 minutes for LFW on two cores. All engines have to print the
same accuracies.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

VALID = Path(__file__).parents[1] / "valid.py"
ENGINES = ["openvino", "paddle-inference", "onnxruntime", "paddle"]
REFERENCE = "paddle"


class Run(NamedTuple):
    """What one run of valid.py took and printed."""

    seconds: float
    peak: int  # bytes, of the largest of its processes
    accuracies: list[str]


def run(engine: str, options: argparse.Namespace) -> Run:
    command = [
        sys.executable,
        VALID,
        "--engine",
        engine,
        "--device",
        "cpu",
        "--checkpoint",
        options.checkpoint,
        "--data_dir",
        options.data_dir,
        "--val_targets",
        options.val_targets,
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{engine}: valid.py ended with exit code {os.waitstatus_to_exitcode(status)}")
    return Run(time.perf_counter() - began, usage.ru_maxrss * 1024, re.findall(r"Accuracy-Flip: (\S+)", printed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="as for valid.py")
    parser.add_argument("--data_dir", required=True, help="as for valid.py")
    parser.add_argument("--val_targets", default="lfw", help="as for valid.py (default: %(default)s)")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES, help="(default: all)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; valid.py on {options.val_targets}, seconds of the whole process", flush=True)
    runs = {}
    for engine in options.engines:
        one = runs[engine] = run(engine, options)
        print(f"{engine:18} {one.seconds:8.1f} s {one.peak / 1e9:6.2f} GB peak   {'   '.join(one.accuracies)}", flush=True)
    if len({tuple(one.accuracies) for one in runs.values()}) > 1:
        raise SystemExit("the engines disagree")
    if REFERENCE in runs:
        for engine, one in runs.items():
            print(f"{engine:18} {one.seconds / runs[REFERENCE].seconds:.3f} of the time of {REFERENCE}")


if __name__ == "__main__":
    main()
