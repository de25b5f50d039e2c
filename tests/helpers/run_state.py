"""What tests see of a run from outside: its log and its processes."""

import re
import subprocess
from pathlib import Path


def steps_logged(output: Path) -> int:
    """The last step in a run's log, 0 while there is none."""
    log = output / "training.log"
    steps = re.findall(r"Global Step: (\d+)", log.read_text()) if log.exists() else []
    return int(steps[-1]) if steps else 0


def processes_of(folder: Path) -> list[int]:
    """Launchers, ranks and workers of the runs into a folder or below it, without those that wait to be reaped."""
    lines = subprocess.run(["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if f"--output={folder}" in line and line.split()[1][0] != "Z"]
