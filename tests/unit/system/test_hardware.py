"""Processor, memory and control groups are read in the formats of different systems."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from arcface.io.files import check_writable
from arcface.system import hardware


def tree(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(content + "\n")
    (root / "own").write_text(own)
    return root / "cgroup", root / "own"


@pytest.mark.parametrize(
    "own, files, cores, memory",
    [
        ("0::/\n", {"cpu.max": "150000 100000", "memory.max": "1073741824"}, 1.5, 2**30),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 2, None),
        ("0::/a\n", {"cpu.max": "400000 100000", "a/cpu.max": "100000 100000", "b/cpu.max": "1000 100000"}, 1, None),
        (
            "3:cpu,cpuacct:/x\n2:memory:/x\n1:name=systemd:/\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/x/memory.limit_in_bytes": "4096",
            },
            0.5,
            4096,
        ),
        (
            "2:memory:/\n1:cpu:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
            None,
        ),
        ("", {}, None, None),
    ],
    ids=["container", "above", "below", "version 1", "no limit", "no groups"],
)
def test_the_tightest_limit_of_the_control_groups_counts(tmp_path, own, files, cores, memory):
    assert hardware.cgroup_limits(*tree(tmp_path, own, files)) == (cores, memory)


def test_a_system_without_control_groups_has_no_limits(tmp_path):
    assert hardware.cgroup_limits(tmp_path / "nothing", tmp_path / "nothing") == (None, None)


def test_the_nearest_existing_directory_is_found(tmp_path):
    assert hardware.nearest_existing(tmp_path / "a" / "b") == hardware.nearest_existing(tmp_path) == tmp_path
    assert hardware.nearest_existing(Path("not_there")) == Path(".")


def test_a_trial_of_writing_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(OSError):
        check_writable(Path("/proc"))


SUMS = """
import sys
if sys.argv[1] == "kept":
    from arcface.system.startup import start_paddle
    start_paddle()
from arcface.system.hardware import sum_speed
print(sum_speed(12_500_000)[1])
"""


@pytest.mark.parametrize("memory", ["kept", "returned"])
def test_whether_freed_memory_is_kept_shows_in_the_page_faults_of_sums(repository, memory):
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if sys.platform != "linux" or (huge_pages.exists() and "[always]" in huge_pages.read_text()):
        pytest.skip("huge pages hide the page faults")
    done = subprocess.run([sys.executable, "-c", SUMS, memory], cwd=repository, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    share = float(done.stdout.splitlines()[-1])
    assert share < 0.1 if memory == "kept" else share > 0.9


def test_the_speed_of_products_is_measured_with_both_libraries():
    assert all(speed > 0 for speed in hardware.gemm_speed(64))


@pytest.mark.parametrize(
    "files, total, available",
    [
        ({"memory.max": "1000000", "memory.current": "600000", "memory.stat": "anon 1\ninactive_file 100000"}, 1_000_000, 500_000),
        ({"memory.max": "1000000", "memory.current": "800000", "a/memory.max": "900000"}, 900_000, 200_000),
        ({"memory.max": "max"}, None, None),
        ({"memory.max": "9000000000000000"}, None, None),
    ],
    ids=["container", "two levels", "no limit", "more than there is"],
)
def test_control_groups_limit_the_memory(tmp_path, monkeypatch, files, total, available):
    mounted, own = tree(tmp_path, "0::/a\n", files)
    monkeypatch.setattr(hardware, "CGROUP_ROOT", mounted)
    monkeypatch.setattr(hardware, "OWN_CGROUPS", own)
    limited, whole = hardware.device_memory("cpu"), hardware.memory()
    assert whole is None or limited.total == (total or whole[0])
    assert whole is None or total is None or limited.available == available


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_resident_memory_of_a_process_grows_with_its_arrays():
    before = hardware.resident_memory()
    with mmap.mmap(-1, 50_000_000) as held:  # new pages, whatever freed memory this process keeps
        for start in range(0, len(held), mmap.PAGESIZE):
            held[start] = 1
        assert before + 40_000_000 < hardware.resident_memory() < before + 70_000_000
