"""Benchmarks that nothing else runs still run with the package as it is."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from arcface.inference.engines import candidates

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "backbones.py"


@pytest.mark.exhaustive
def test_the_benchmark_of_backbones_measures_training_and_every_engine(tmp_path):
    file = tmp_path / "figures.csv"
    options = ["--networks", "MobileFaceNet_128", "--rounds", "2", "--batch_size", "2", "--csv", str(file)]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    head, _, row = (line.split(" | ") for line in done.stdout.splitlines()[:3])
    assert row[:3] == ["| MobileFaceNet_128", "1.0 M", "221 M"] and len(row) == len(head)
    figures = {(line["phase"], line["column"]): float(line["images_per_second"]) for line in csv.DictReader(file.open())}
    engines = {("embedding", engine) for engine in candidates("auto")}
    assert figures.keys() == {("training", "ours"), ("training", "off"), *engines}
    assert all(speed > 0 for speed in figures.values())
