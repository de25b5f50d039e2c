"""MetricsWriter: metrics.jsonl and VisualDL's records, from the same figures."""

import json
import os
import time
from collections import Counter
from pathlib import Path

from arcface.io.files import atomic_write
from arcface.training.state import TrainState

METRICS_FILE = "metrics.jsonl"
VISUALDL_FILE = "vdlrecords.arcface.log"  # VisualDL reads files whose name contains "vdlrecords"
CURVES_FILE = "curves.png"


class MetricsWriter:
    """Writes metrics.jsonl, one JSON object a line, and the same figures for VisualDL.

    Files with another run's records are moved to a folder of their own, where VisualDL shows them as another run.
    A run that resumes drops what it recorded after the step that it resumes from.
    """

    def __init__(self, logdir: Path, state: TrainState):
        from visualdl import LogWriter  # only rank 0 needs it

        self._file = logdir / METRICS_FILE
        self._run = state.run
        recorded = _read_records(self._file)
        kept = [record for record in recorded if record and _is_kept(record, state)]
        if any(not record or record["run"] != self._run for record in recorded):
            _set_aside(logdir)
        (logdir / VISUALDL_FILE).unlink(missing_ok=True)  # it is written again from the records kept
        self._visualdl = LogWriter(str(logdir), file_name=VISUALDL_FILE)
        with atomic_write(self._file) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)
        self._kinds = Counter(record["kind"] for record in kept)
        last = {record["kind"]: record for record in kept}
        for record in kept:
            self._draw(record, with_picture=record is last[record["kind"]])  # all of them would take minutes

    def add(self, step: int, kind: str, **figures: float | dict) -> None:
        """Record figures of a step; `kind` is "training" or "verification/<set>", a dict is an ROC."""
        record = {"run": self._run, "step": step, "kind": kind, "time": time.time(), **figures}
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._kinds[kind] += 1
        self._draw(record, with_picture=True)

    @property
    def worth_a_picture(self) -> bool:
        """Whether there is more to draw than one point."""
        return self._kinds["training"] > 1 or len(self._kinds) > 1

    def _draw(self, record: dict, with_picture: bool) -> None:
        kind, step, walltime = record["kind"], record["step"], round(record["time"] * 1000)
        for name, value in record.items():
            if name == "roc":
                if with_picture:
                    from arcface.io.figures import pixels
                    from arcface.verification.plots import thinned_figure

                    picture = pixels(thinned_figure(f"{kind.split('/')[-1]}, step {step}", value))
                    self._visualdl.add_image(f"{kind}/roc", picture, step, walltime=walltime)
            elif name not in ("run", "step", "kind", "time"):
                self._visualdl.add_scalar(f"{kind}/{name}", value, step, walltime=walltime)
        self._visualdl.flush()


def _is_kept(record: dict, state: TrainState) -> bool:
    """Whether a record is of this run and of what is done; a verification that is done anew is recorded anew."""
    if record["run"] != state.run or record["step"] > state.step:
        return False
    return not (state.unverified and record["step"] == state.step and record["kind"] != "training")


def _read_records(file: Path) -> list[dict | None]:
    """Return the file's records; None for lines that are none. Lines that a crash or a full disk cut off are left out."""
    records: list[dict | None] = []
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            if not line.startswith(b'{"run": '):
                records.append(None)
            continue
        records.append(record if isinstance(record, dict) and {"run", "step", "kind", "time"} <= record.keys() else None)
    return records


def _set_aside(logdir: Path) -> None:
    ended = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime((logdir / METRICS_FILE).stat().st_mtime))
    folder = logdir / f"until_{ended}"
    while folder.exists():
        folder = folder.with_name(folder.name + "_")
    folder.mkdir()
    for name in (METRICS_FILE, VISUALDL_FILE, CURVES_FILE):
        if (logdir / name).exists():
            os.replace(logdir / name, folder / name)
