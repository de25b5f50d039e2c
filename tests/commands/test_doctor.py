"""The doctor says what is wrong with machine, data and directories, and what to do; where nothing is wrong, it has no findings."""

import os
import pickle
import re
import resource
import subprocess
import sys
import time

import cv2
import numpy as np
import protocol_files
import pytest
import tinyface_files

from arcface.config import TrainConfig, parse
from arcface.data.bin_file import write_bin
from arcface.data.image_statistics import text_histogram
from arcface.doctor import machine, ranks
from arcface.doctor.data import examine_training_data, examine_verification_sets
from arcface.doctor.directories import examine_directories
from arcface.doctor.examine import examine
from arcface.doctor.software import examine_software
from arcface.io.lock import locked
from arcface.io.report import Report
from arcface.system import hardware
from arcface.system.hardware import CgroupLimits, DeviceMemory, format_bytes
from arcface.training import memory

SKIN = (90, 110, 140)  # blue, green, red


def face(seed: int, colour=SKIN, size=(112, 112)) -> bytes:
    """A PNG of blobs around a colour, the same for the same seed."""
    blobs = np.random.default_rng(seed).integers(-40, 41, (7, 7, 1)) + np.array(colour)
    return cv2.imencode(".png", cv2.resize(blobs.astype(np.uint8), size, interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture
def data_set(tmp_path):
    """A healthy dataset of 12 images of 4 identities and a verification set, good.bin, of other images."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for index in range(12):
        (tmp_path / "data" / "images" / f"{index}.png").write_bytes(face(index))
    (tmp_path / "data" / "label.txt").write_text("".join(f"images/{index}.png\t{index % 4}\n" for index in range(12)))
    write_bin(tmp_path / "data" / "good.bin", [face(100 + index) for index in range(8)], [True, False] * 2)
    return tmp_path / "data"


@pytest.fixture
def printed(capsys):
    """Returns a function that calls a part of the examination with a report, and returns the lines and the findings."""

    def call(examine, *arguments) -> tuple[str, list[str]]:
        report = Report()
        examine(report, *arguments)
        text = re.sub(r"\n {16}(?!->)", " ", capsys.readouterr().out)  # a line of the report is a line here
        findings = re.findall(r"-> (.*)", text)
        assert len(findings) == report.findings
        return text, findings

    return call


@pytest.fixture
def training(printed, data_set):
    """Returns a function that examines the training data."""
    return lambda *options: printed(
        examine_training_data, parse(TrainConfig, [f"--data_dir={data_set}", "--batch_size=4", *options])
    )


@pytest.fixture
def verification(printed, data_set):
    """Returns a function that examines verification sets of the dataset's directory."""

    def call(*names: str, sample=frozenset()) -> tuple[str, list[str]]:
        return printed(examine_verification_sets, [data_set / f"{name}.bin" for name in names], sample)

    return call


@pytest.fixture
def directories(printed):
    """Returns a function that examines the directories of a run with options."""
    return lambda *options, classes=4: printed(examine_directories, parse(TrainConfig, list(map(str, options))), classes)


# the command


@pytest.fixture
def doctor(repository, tmp_path):
    """Returns a function that runs the command in tmp_path."""

    def run(*options: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        environment.pop("OMP_NUM_THREADS", None)  # this process set it for itself
        return subprocess.run(
            [sys.executable, "-m", "arcface.doctor", *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_without_problems_the_report_fits_a_screen_and_nothing_is_left_behind(doctor, data_set, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = doctor("--data_dir=data", "--val_targets=good", "--batch_size=4", "--num_workers=1", "--device=cpu", "--lr=0.3")
    assert done.returncode == 0 and done.stderr == "", done
    lines = done.stdout.splitlines()
    assert "->" not in done.stdout and lines[-1].split() == ["findings", "none"], done.stdout
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    for said in (
        "2 on cpu over gloo, started for this test: right values",
        "12 images of 4 identities",
        "3 to 3 images, median 3",
        "listed twice    no image",
        "all readable, 112x112",
        "RGB, as expected of faces",
        "emore_arcface, to be created in",
        "none in the sample",
        "4 pairs, 2 of one identity; 8 images",
    ):
        assert said in done.stdout, done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_missing_is_a_finding_and_the_examination_continues(doctor):
    done = doctor("--data_dir=nowhere", "--output=/proc/x", "--network=Net", "--device=cpu")
    assert done.returncode == 1 and done.stderr == "", done
    for finding in (
        r"training set +-> nowhere/label.txt: No such file",
        r"agedb_30 +-> nowhere/agedb_30.bin: cannot be read",
        r"network +-> --network Net: no such backbone",
        r"output .*\n +-> not writable",
        r"\nfindings +6,",
    ):
        assert re.search(finding, done.stdout), done.stdout


@pytest.mark.parametrize("option", ["--lrr=1", "--val_targets=a/x,b/x"])
def test_a_wrong_option_is_one_line_and_exit_code_2(doctor, option):
    done = doctor(option)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_under_a_launcher_its_ranks_take_part_and_one_reports(launch, data_set):
    options = [f"--data_dir={data_set}", "--val_targets=none", "--device=cpu", "--batch_size=4"]
    process = launch(2, sys.executable, "-m", "arcface.doctor", *options)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    assert "2 on cpu over gloo: right values" in printed
    assert printed.count("\nfindings        1") == 1  # once, although exit code 1 would have the launcher repeat it


def test_the_other_ranks_only_take_part(monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    asked = []
    monkeypatch.setattr(ranks, "round_trip", lambda *arguments: asked.append(arguments))
    assert examine(parse(TrainConfig, ["--data_dir=nowhere", "--device=cpu"])) == 0
    assert len(asked) == 1 and capsys.readouterr().out == ""


# the training data


def test_a_healthy_data_set_has_no_findings(training):
    assert training()[1] == []


def test_images_written_in_the_wrong_channel_order_are_noticed(training, data_set):
    for index in range(12):
        (data_set / "images" / f"{index}.png").write_bytes(face(index, SKIN[::-1]))
    _, (finding,) = training()
    assert "more blue than red" in finding


@pytest.mark.parametrize(
    "colours, said",
    [((120, 120, 120), "no colours to see; 12 grey"), ((120, 80, 120), "red above blue in 0%: does not tell the order")],
)
def test_images_whose_colours_do_not_tell_the_order_are_no_finding(training, data_set, colours, said):
    for index in range(12):
        (data_set / "images" / f"{index}.png").write_bytes(face(index, colours))
    text, findings = training()
    assert said in text and findings == []


def test_rows_that_are_listed_twice_are_counted_and_are_not_copies(training, data_set):
    with (data_set / "label.txt").open("a") as file:
        file.write("images/3.png\t3\nimages/5.png\t0\nimages/5.png\t1\n")
    text, (finding,) = training()
    assert "3 rows, 1 of them under another identity" in text
    assert finding.startswith("remove these rows; the first: ") and finding.endswith("label.txt line 13: images/3.png")


def test_copies_under_other_names_are_counted(training, data_set):
    for copy, original in ((4, 0), (7, 2)):
        (data_set / "images" / f"{copy}.png").write_bytes(face(original))
    text, (finding,) = training()
    assert "2 identical to another image, 1 of them under another identity" in text
    assert re.search(r"line 5: images/4.png equals .*line 1: images/0.png", finding)


def test_images_of_other_sizes_and_unreadable_ones_are_counted_and_the_first_is_named(training, data_set):
    (data_set / "images" / "2.png").write_bytes(face(2, size=(96, 112)))
    (data_set / "images" / "9.png").write_bytes(b"damaged")
    text, (finding,) = training()
    assert "11 of 12 readable, 112x112 (10), 96x112 (1)" in text
    assert re.match("2 wrong, the first: .*label.txt line 3: images/2.png: 96x112 pixels, not 112x112", finding)


def test_a_missing_image_is_named(training, data_set):
    (data_set / "images" / "9.png").unlink()
    text, findings = training()
    assert "line 10: images/9.png: no such file" in findings[0] and "11 of 12 readable" in text


def test_a_wrong_line_of_the_list_is_the_finding(training, data_set):
    (data_set / "label.txt").write_text("images/0.png\n")
    _, (finding,) = training()
    assert "label.txt line 1: 'images/0.png' is not a path" in finding


def test_identities_are_counted_by_their_number_of_images():
    assert text_histogram(np.array([2, 3, 8, 15, 16])) == "2-3: 2, 4-7: 0, 8-15: 2, 16-31: 1"
    assert text_histogram(np.array([1, 1, 2**20])).startswith("1: 2, 2-3: 0, ")


# the verification sets


def test_a_healthy_verification_set_has_no_findings(verification):
    assert verification("good")[1] == []


def test_each_set_s_first_problem_is_a_finding(verification, data_set):
    (data_set / "cut.bin").write_bytes((data_set / "good.bin").read_bytes()[:-100])
    (data_set / "odd.bin").write_bytes(pickle.dumps(([face(1)] * 8, [True, False, True])))
    write_bin(data_set / "bad.bin", [face(1), b"no image", face(2), face(3, size=(96, 96))], [True, False])
    write_bin(data_set / "blue.bin", [face(index, SKIN[::-1]) for index in range(4)], [True, False])
    _, findings = verification("cut", "odd", "good", "bad", "blue", "none")
    expected = [
        "cut.bin: ",
        "odd.bin: 8 images for 3 pairs",
        "2 wrong, the first: image 1: not an image that OpenCV can decode",
        "more blue than red",
        "none.bin: cannot be read",
    ]
    assert [said in finding for said, finding in zip(expected, findings, strict=True)] == [True] * 5, findings


def test_images_of_the_training_sample_in_a_verification_set_are_a_leak(data_set, verification, capsys):
    write_bin(data_set / "leak.bin", [face(index) for index in (0, 50, 7, 51)], [True, False])
    _, contents = examine_training_data(Report(), parse(TrainConfig, [f"--data_dir={data_set}"]))
    capsys.readouterr()
    text, (finding,) = verification("leak", "good", sample=contents)
    assert finding.startswith("2 of its images are also in the training sample")
    assert text.count("; none is in the training sample") == 1


def test_an_ijb_style_directory_is_read(verification, data_set):
    protocol_files.write(data_set)
    text, findings = verification("IJB-X")
    assert "6 pairs (2 of one identity) of templates of 7 images; for valid.py only" in text and findings == []


def test_folders_lists_and_tinyface_are_read(data_set, printed):
    for number in range(8):
        (data_set / "people" / f"p{number // 2}").mkdir(parents=True, exist_ok=True)
        (data_set / "people" / f"p{number // 2}" / f"{number}.jpg").write_bytes(face(number))
    (data_set / "pairs.txt").write_text("0.jpg\t1.jpg\t1\n0.jpg\t2.jpg\t0\n")
    (data_set / "crops").mkdir()
    for number in range(3):
        (data_set / "crops" / f"{number}.jpg").write_bytes(face(number, size=(96, 96) if number == 2 else (112, 112)))
    tinyface_files.write_tinyface(data_set / "tinyface")
    options = parse(TrainConfig, [f"--data_dir={data_set}", "--val_targets=people,pairs.txt=crops,tinyface"])
    text, findings = printed(examine_verification_sets, options.val_files, set(), options)
    assert "8 pairs, 4 of one identity; 8 images: all readable, 112x112" in text
    assert "TinyFace's layout: 3 probes, 6 images searched, 2 of them distractors; for valid.py only" in text
    assert findings == [f"1 wrong, the first: {data_set / 'crops' / '2.jpg'}: 96x96 pixels, not 112x112; align and crop it first"]


# the directories


def test_missing_directories_are_no_finding_and_are_not_created(directories, tmp_path):
    text, findings = directories(f"--output={tmp_path / 'a' / 'b'}", f"--logdir={tmp_path / 'c'}")
    assert findings == [] and text.count(f"to be created in {tmp_path}: writable") == 2 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("directory, reason", [("/proc/x", "No such file or directory"), ("{file}/x", "Not a directory")])
def test_a_directory_that_cannot_be_written_is_a_finding(directories, tmp_path, directory, reason):
    (tmp_path / "file").touch()
    directory = directory.format(file=tmp_path / "file")
    _, findings = directories(f"--output={directory}", f"--logdir={directory}")
    assert findings == [f"not writable ({reason}): choose another --{name}" for name in ("output", "logdir")]


def test_too_little_space_for_two_checkpoints_is_a_finding(directories, tmp_path):
    text, (finding,) = directories(f"--output={tmp_path}", f"--logdir={tmp_path}", classes=10**12)
    assert "a checkpoint needs 931 TiB" in text and finding.startswith("not enough space")


def test_a_run_that_uses_the_output_directory_is_named_while_it_lives(directories, start_process, repository, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from arcface.io.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(100)"
    )
    holder = start_process([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, cwd=repository)
    holder.stdout.readline()
    content = (tmp_path / ".lock").read_bytes()
    _, (finding,) = directories(f"--output={tmp_path}", f"--logdir={tmp_path}")
    holder.kill()
    holder.wait(30)
    assert finding.startswith(f"process {holder.pid} on ") and (tmp_path / ".lock").read_bytes() == content
    assert directories(f"--output={tmp_path}", f"--logdir={tmp_path}")[1] == []


# the machine


def test_batches_that_need_more_memory_than_is_available_are_a_finding(printed):
    _, (finding,) = printed(machine.examine_limits, 10**12, 1)
    assert finding.startswith("more than is available: use fewer --num_workers")
    assert printed(machine.examine_limits, 10**12, 0)[1] == []
    text, findings = printed(machine.examine_limits, 512, 2)
    assert "need 73.5 MiB for batches" in text and findings == []


def test_few_open_files_are_a_finding(printed):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        _, (finding,) = printed(machine.examine_limits, 4, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert finding == "too few: run ulimit -n 1024 before training"


@pytest.mark.parametrize(
    "facts, complaint",
    [
        ({}, None),
        ({"cgroup_limits": CgroupLimits(0.5, None)}, "more threads than the cgroup's cores slow one another down"),
        ({"cgroup_limits": CgroupLimits(2, None)}, None),
        ({"gemm_speed": (20e9, 80e9)}, "Paddle's BLAS uses a slow path"),
        ({"sum_speed": (4e9, 1.0)}, "every operation pays for page faults"),
    ],
    ids=["well", "half a core", "two cores", "BLAS", "malloc"],
)
def test_what_slows_a_run_down_is_a_finding(printed, monkeypatch, facts, complaint):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "1")
    well = {"cgroup_limits": CgroupLimits(None, None), "gemm_speed": (80e9, 80e9), "sum_speed": (20e9, 0.0)}
    for name, value in {**well, **facts}.items():
        monkeypatch.setattr(hardware, name, lambda *_, value=value: value)
    _, findings = printed(machine.examine_speed)
    assert [finding.partition(":")[0] for finding in findings] == ([complaint] if complaint else [])


def test_a_gpu_that_paddle_cannot_use_is_a_finding(printed, monkeypatch):
    import paddle

    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle can use GPUs")
    assert printed(examine_software, "cpu", "paddle")[1] == []
    monkeypatch.setattr(hardware, "has_nvidia_driver", lambda: True)
    assert "Paddle is built for CPU" in printed(examine_software, "cpu", "paddle")[1][0]


def test_ranks_that_do_not_answer_are_a_finding_in_bounded_time(printed, monkeypatch):
    monkeypatch.setattr(ranks, "SECONDS", 0.5)  # less than it takes to import Paddle
    started = time.monotonic()
    _, (finding,) = printed(ranks.examine_ranks, "cpu")
    assert "no answer within 0.5 s" in finding and time.monotonic() - started < 30


def test_numbers_of_bytes_have_a_readable_unit():
    counts = (0, 1023, 1536, 64 * 2**20, 3 * 2**40, 5 * 2**50)
    assert list(map(format_bytes, counts)) == ["0 B", "1,023 B", "1.5 KiB", "64 MiB", "3 TiB", "5,120 TiB"]


# batch and memory


def test_a_batch_larger_than_the_data_set_is_a_finding(training):
    _, findings = training("--batch_size=16")
    assert findings == ["--batch_size 16 is larger than the dataset, so each batch is padded: use a smaller one"]


@pytest.mark.parametrize(
    "free, finding",
    [
        (DeviceMemory(2**40, 2**40, "a large machine"), None),
        (
            DeviceMemory(2**40, 2**32, "a busy machine"),
            "only 4 GiB of a busy machine are free now: end other programs, or use --batch_size",
        ),
        (DeviceMemory(2**40, 2**20, "a crowded machine"), "only 1 MiB of a crowded machine are free now: end other programs"),
        (DeviceMemory(2**31, 2**31, "a small machine"), "more than 2 GiB of a small machine; use --batch_size"),
    ],
)
def test_the_memory_that_training_needs_is_compared_with_what_is_available(printed, monkeypatch, free, finding):
    monkeypatch.setattr(memory, "device_memory", lambda _: free)
    monkeypatch.setattr(memory, "resident_memory", lambda: 2**28)  # that of this process grows with the tests before
    text, findings = printed(machine.examine_memory, parse(TrainConfig, ["--batch_size=1024", "--device=cpu"]), 10)
    assert (finding is None) == (findings == [])
    if finding is None:
        parts = r"process .*, weights 3.9 MiB, .* activations .* GiB, centres 10 KiB"
        assert re.search(rf"^training +needs about .* GiB a rank: {parts}", text)
    else:
        assert finding in findings[0]


@pytest.mark.parametrize(
    "option, finding", [("--precision=fp16", "a CPU trains in float32"), ("--accumulate=3", "must divide the 8")]
)
def test_what_training_would_refuse_is_a_finding(printed, option, finding):
    config = parse(TrainConfig, ["--batch_size=8", "--device=cpu", option])
    assert finding in printed(machine.examine_memory, config, 10)[1][0]


def test_a_home_that_is_not_writable_is_reported(directories, tmp_path, monkeypatch):
    monkeypatch.setattr("arcface.system.home.REAL", tmp_path / "nowhere")
    text, findings = directories(f"--output={tmp_path}", f"--logdir={tmp_path}")
    assert re.search(r"^home +.*nowhere is not writable \(No such file or directory\): libraries use a temporary one", text, re.M)
    assert not findings


def test_a_run_that_uses_the_logdir_is_named(directories, tmp_path):
    (tmp_path / "log").mkdir()
    with locked(tmp_path / "log"):
        _, findings = directories(f"--output={tmp_path}", f"--logdir={tmp_path}/log")
    assert len(findings) == 1 and findings[0].endswith("so a second run is refused: end it or choose another --logdir")
