"""Ranks on several machines find one another by their endpoints, and are told when they do not share what they must share."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arcface.distributed.interfaces import interface_of

TRAIN = Path(__file__).parents[1] / "helpers" / "tiny_train.py"
SECONDS = 120  # at most that anything here takes
ADDRESSES = ("10.213.7.1", "10.213.7.2")


@pytest.fixture(scope="module")
def data_set(make_data_set):
    return make_data_set(16, 4)


@pytest.fixture
def start(start_process):
    """Returns a function that starts a process with more variables."""

    def run(command: list[str], **variables: str) -> subprocess.Popen:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "POD_", "GLOO_"))}
        return start_process(command, env=mine | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def variables(rank: int, endpoints: list[str]) -> dict[str, str]:
    return {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
    }


def command(data_set: Path, output: Path) -> list[str]:
    options = ["--network=Tiny", "--device=cpu", "--val_targets=", "--batch_size=4", "--num_workers=0", "--max_steps=3"]
    places = [f"--data_dir={data_set}", f"--output={output}", f"--logdir={output}_log"]
    return [sys.executable, str(TRAIN), *options, "--rank_timeout=60", *places]


@pytest.fixture
def machines(tmp_path):
    """Two network namespaces, joined by a cable, in which the host's own name is 127.0.0.1: how to run a command in each.

    The kernel removes them with the two processes that hold them.
    """
    holders = []

    def do(*what: str) -> None:
        done = subprocess.run(what, capture_output=True, text=True, timeout=20)
        if done.returncode:
            pytest.skip(f"network namespaces are not allowed here: {' '.join(what[:4])} ...: {done.stderr.strip()}")

    try:
        hosts = tmp_path / "hosts"
        hosts.write_text("127.0.0.1 localhost node0 node1\n")
        enter = []
        for node in range(2):
            script = f"hostname node{node} && mount --bind {hosts} /etc/hosts && echo ready && exec sleep 600"
            holder = subprocess.Popen(
                ["unshare", "--net", "--uts", "--mount", "sh", "-c", script],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            holders.append(holder)
            if holder.stdout.readline() != "ready\n":
                pytest.skip(f"network namespaces are not allowed here: {holder.stderr.read().strip()}")
            enter.append(["nsenter", "--net", "--uts", "--mount", f"--target={holder.pid}"])
        do(*enter[0], "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(holders[1].pid))
        for node, address in enumerate(ADDRESSES):
            do(*enter[node], "ip", "addr", "add", f"{address}/24", "dev", "cable")
            for name in ("lo", "cable"):
                do(*enter[node], "ip", "link", "set", name, "up")
        yield enter
    except FileNotFoundError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate(timeout=20)


def test_machines_whose_own_name_is_127_0_0_1_train_together(start, machines, data_set, tmp_path):
    for enter in machines:
        named = subprocess.run(
            [*enter, sys.executable, "-c", "import socket; print(socket.gethostbyname(socket.gethostname()))"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert named.stdout == "127.0.0.1\n"  # what gloo would take
    endpoints = [f"{address}:6170" for address in ADDRESSES]
    ranks = [start([*machines[rank], *command(data_set, tmp_path / "out")], **variables(rank, endpoints)) for rank in range(2)]
    for process in ranks:
        printed, complaint = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, printed + complaint
    assert (tmp_path / "out" / "latest" / "checkpoint.json").exists()


@pytest.mark.parametrize("other", ["output", "labels", "number of images"])
def test_what_machines_do_not_share_is_one_line_before_anything_is_trained(start, make_data_set, data_set, tmp_path, other):
    outputs, data_sets = [tmp_path / "out"] * 2, [data_set] * 2
    if other == "output":
        outputs[1] = tmp_path / "local_disk_of_rank_1"
        outputs[1].mkdir()
    else:
        data_sets[1] = make_data_set(16, 4) if other == "labels" else make_data_set(15, 4)
        lines = (data_sets[1] / "label.txt").read_text().splitlines()
        swapped = [line.replace("\t0", "\tx").replace("\t1", "\t0").replace("\tx", "\t1") for line in lines]
        (data_sets[1] / "label.txt").write_text("\n".join(swapped) + "\n")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        endpoints = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]
    ranks = [start(command(data_sets[rank], outputs[rank]), **variables(rank, endpoints)) for rank in range(2)]
    expected = {
        "output": r"--output \S+: rank 1 cannot see what rank 0 writes there [(]this is rank \d, on \S+[)]: pass a directory",
        "labels": "--data_dir .*: rank 0 finds 16 images of 4 identities, rank 1 other labels: copy the same dataset",
        "number of images": "--data_dir .*: rank 0 finds 16 images of 4 identities, rank 1 15 images of 4 identities: copy",
    }[other]
    for process in ranks:
        _, complaint = process.communicate(timeout=SECONDS)
        (line,) = [line for line in complaint.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2 and re.match(f"error: {expected}", line), complaint
        assert "Traceback" not in complaint
    assert not list(tmp_path.glob("out/step_*")) and not list(tmp_path.glob("*/.seen_by_all_ranks*"))


def test_an_address_s_interface_is_found():
    assert interface_of("127.0.0.1:1") == interface_of("localhost:1") == "lo"
    assert interface_of("192.0.2.77:1") is None and interface_of("no such name:1") is None  # of no machine, RFC 5737
