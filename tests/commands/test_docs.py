"""The pages: each command is run here, covered by a test that is named, or marked as not run; links, files, options are right."""

import ast
import contextlib
import importlib.util
import itertools
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from backbone_params import backbones

import train
import valid
from arcface.backbones import BACKBONES, create_backbone
from arcface.backbones.counts import count
from arcface.command import run
from arcface.config import CompareConfig, EmbedConfig, TrainConfig, ValidConfig, parse
from arcface.data.alignment import TEMPLATE
from arcface.options.command_line import options_of
from arcface.options.kinds import Choice
from arcface.system.processes import without_gpus
from arcface.weights import convert

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ["README.md", "README_ch.md", "CONTRIBUTING.md", *(f"{folder}/README.md" for folder in ("datasets", "benchmarks", "tests"))]
PAGES = [REPOSITORY / name for name in NAMES] + sorted((REPOSITORY / "docs").glob("*.md"))
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python3?|pip|make|visualdl|arcface-\w+|conda|docker|mkdir|\.venv/bin/\S+)\s")

# ---- the table of commands. A command that is new in a page and neither here nor marked as not run is an error.

LAUNCH = "python -m paddle.distributed.launch"
NET = "--network MobileFaceNet_128"
# Run here in a directory made for them, with the backbone Tiny in place of the large one, for one step and on few images.
RUN_TRAIN = [
    f"python train.py {NET} --lr=0.1 --batch_size 512 --weight_decay 2e-4 --embedding_size 128"
    ' --logdir="log" --output "emore_arcface" --resume 0',
    "python train.py --config configs/demo_cpu.yaml --lr 0.8",
    "python train.py --resume 1",
]
RUN_VALID = [
    f"python valid.py {NET} --checkpoint emore_arcface",
    "python valid.py --checkpoint emore_arcface",
    "python valid.py --checkpoint emore_arcface --data_dir MS1M_v2 --val_targets lfw",
    "python valid.py --checkpoint pretrained --data_dir MS1M_v2 --val_targets lfw",
    "python valid.py --checkpoint pretrained --data_dir MS1M_v2 --val_targets lfw --report report",
]
WEIGHTS = "python -m arcface.weights"
RUN_WEIGHTS = [
    f"{WEIGHTS} emore_arcface/MobileFaceNet_128.pdparams shared/MobileFaceNet_128.safetensors",
    f"{WEIGHTS} shared/MobileFaceNet_128.safetensors pretrained/MobileFaceNet_128.pdparams",
]
# Run one after the other, with the backbone Tiny and fixed thresholds.
YUNET = "face_detection_yunet_2023mar.onnx"
EMBED, COMPARE = "python -m arcface.embed", "python -m arcface.compare"
RUN_EMBED = [
    f"{EMBED} MS1M_v2/images --checkpoint pretrained --output features.npz",
    f"{EMBED} MS1M_v2 --checkpoint pretrained --output features.parquet",
    f"{EMBED} MS1M_v2/lfw.bin --checkpoint pretrained --output lfw.npy --flip 1",
    f"{COMPARE} anna_1.jpg anna_2.jpg --checkpoint pretrained --threshold 0.3",
]
# Run one after the other, as they stand here, on datasets of a few images.
RUN_TOOLS = [
    "mkdir ms1m ms1m_sound",
    "python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec",
    "python datasets/convert.py --source ms1m --output MS1M_folders --layout folder",
    "python datasets/convert.py --source MS1M_folders --output MS1M_list",
    "python datasets/convert.py --source some.lst --output some_closed.txt --relabel",
    "python datasets/check.py --source MS1M_v2",
    "python datasets/check.py --source ms1m --report ms1m_report",
    "python datasets/check.py --source ms1m --report ms1m_report2 --repair ms1m_sound/train.rec --without_copies",
    "mkdir both",
    "python datasets/merge.py --sources MS1M_v2 mine --output both/train.rec --without MS1M_v2/lfw.bin",
    "python datasets/merge.py --sources celebrities mine --output both_by_name --same_names",
    "python datasets/merge.py --sources MS1M_v2 mine --output both_by_list --mapping same_people.txt",
    "python datasets/align.py --images photos --landmarks landmarks.txt --output photos_112x112",
    "python datasets/pack_bin.py --images lfw_112x112 --pairs pairs.txt --output MS1M_v2/lfw.bin",
    "python datasets/demo.py --output /tmp/faces --identities 5000 --num_workers 8",
]
SHORTER = {
    "--output /tmp/faces --identities 5000 --num_workers 8": "--output faces --identities 2 --images_per_identity 2 --pairs 20"
}
MAKE = ["demo", "test", "test-all", "test-gpu-wheel", "lint", "setup-tests", "docs"]
VALID = "python valid.py --checkpoint pretrained --data_dir . --val_targets"
FINE_TUNE = "python train.py --init_from pretrained/MobileFaceNet_128.pdparams"
MACHINES = f"{LAUNCH} --master 10.0.0.1:6170 --nnodes 2"
COVERED = {
    f"{LAUNCH} train.py {NET}": "tests/commands/test_docs.py::test_the_two_commands_of_the_readme_run_as_they_are",
    f"{LAUNCH} train.py {NET} --resume 1": "tests/ranks/test_training.py::test_any_change_of_ranks_trains_on_like_one_rank",
    f"{FINE_TUNE} --freeze backbone --max_steps 2000": "tests/ranks/test_training_options.py"
    "::test_the_head_is_trained_first_and_then_all",
    f"{LAUNCH} --nproc_per_node 2 train.py --device cpu": "tests/ranks/test_interruptions.py"
    "::test_a_signal_to_the_launcher_stops_its_ranks_which_save",
    f"CUDA_VISIBLE_DEVICES=-1,-1 {LAUNCH} --nproc_per_node 2 train.py --device cpu": "tests/ranks/test_launching.py"
    "::test_the_launcher_finds_a_place_for_each_rank_where_it_sees_one_gpu",
    f"{MACHINES} --rank 0 --host 10.0.0.1 train.py {NET}": "tests/ranks/test_machines.py"
    "::test_machines_whose_own_name_is_127_0_0_1_train_together",
    f"{MACHINES} --rank 1 --host 10.0.0.2 train.py {NET}": "tests/ranks/test_machines.py"
    "::test_machines_whose_own_name_is_127_0_0_1_train_together",
    f"{LAUNCH} --nproc_per_node 2 python -m arcface.train --device cpu": "tests/commands/test_installed.py"
    "::test_the_launcher_trains_with_the_installed_package_from_any_directory",
    "arcface-train --help": "tests/commands/test_installed.py"
    "::test_every_command_is_on_the_path_and_explains_itself_without_paddle",
    "pip install -e '.[cpu]'": "tests/commands/test_installed.py::test_the_metadata_names_no_paddle_without_an_extra",
    "pip install -e '.[gpu]'": "tests/unit/test_package.py::test_a_requirements_file_is_the_base_and_an_extra",
    "pip install -e '.[cpu,engines]'": "tests/unit/test_package.py::test_the_other_requirements_files_are_the_other_extras",
    "pip install -r requirements.txt": "tests/unit/test_package.py::test_a_requirements_file_is_the_base_and_an_extra",
    "pip install -r requirements-engines.txt": "tests/unit/test_package.py::test_the_other_requirements_files_are_the_other_extras",
    'pip install "paddlepaddle<3" "numpy<2" -r requirements.txt': "tests/soak/test_oldest_paddle.py",
    "python -m arcface.doctor --config configs/demo_cpu.yaml": "tests/commands/test_doctor.py"
    "::test_without_problems_the_report_fits_a_screen_and_nothing_is_left_behind",
    f"{LAUNCH} --nproc_per_node 2 python -m arcface.doctor --config configs/demo_cpu.yaml": "tests/commands/test_doctor.py"
    "::test_under_a_launcher_its_ranks_take_part_and_one_reports",
    f"{WEIGHTS} insightface_y1/model-0000.params pretrained/MobileFaceNet_128.pdparams": "tests/unit/weights/test_convert.py"
    "::test_the_command_writes_what_its_own_advice_reads",
    **{
        f"{VALID} {target}": "tests/unit/verification/test_targets.py::test_each_kind_is_said_and_has_its_figures"
        for target in ("people", "pairs.txt=lfw_112x112", "tinyface")
    },
    f"{VALID} pairs.txt=photos --detector face_detection_yunet_2023mar.onnx": "tests/unit/verification/test_targets.py"
    "::test_photos_of_lfw_give_what_the_bin_of_their_crops_gives_pair_by_pair",
    "python valid.py --checkpoint pretrained --data_dir . --val_targets IJBC": "tests/unit/verification/test_checkpoint.py"
    "::test_a_protocol_directory_is_verified_by_its_templates",
    f"{EMBED} photos --checkpoint pretrained --output photos.npz --detector {YUNET} --faces all": "tests/commands/test_embed.py"
    "::test_photos_are_embedded_face_by_face",
    f"{COMPARE} photo_1.jpg photo_2.jpg --checkpoint pretrained --report report --far 1e-3 --detector {YUNET}": "tests/commands/"
    "test_compare.py::test_a_report_of_valid_gives_the_threshold",
    f"{LAUNCH} --nproc_per_node 2 {EMBED} MS1M_v2 --checkpoint pretrained --output features.npz": "tests/commands/test_embed.py"
    "::test_ranks_divide_the_work_and_give_the_bytes_of_one",
    f"{WEIGHTS} ms1mv3_arcface_r50/backbone.pth pretrained/iresnet50.pdparams": "tests/unit/backbones/test_known_answers.py"
    "::test_names_shapes_and_embeddings_are_those_of_arcface_torch",
    f"{WEIGHTS} buffalo_l/w600k_r50.onnx pretrained/": "tests/unit/weights/test_onnx_weights.py"
    "::test_converted_weights_are_verified_and_trained_on_as_they_are",
    "visualdl --logdir log --language en": "tests/ranks/test_training.py"
    "::test_log_lines_are_those_that_scripts_parse_and_visualdl_has_the_same_figures",
    "make test-pythons PYTHONS='python3.10 python3.13'": "tests/commands/test_pythons.py"
    "::test_each_python_has_a_line_that_says_why_it_failed",
    "python examples/embed_and_compare.py pretrained anna_1.jpg anna_2.jpg": "tests/commands/test_examples.py"
    "::test_two_faces_are_embedded_and_compared",
    "python examples/verify_checkpoint.py pretrained MS1M_v2/lfw.bin": "tests/commands/test_examples.py"
    "::test_a_checkpoint_is_verified",
    "python examples/head_in_your_loop.py": "tests/commands/test_examples.py::test_the_head_trains_in_a_loop_of_one_s_own",
    **{
        f"python -m arcface.export --checkpoint pretrained --output {rest}": "tests/commands/test_clients.py"
        "::test_the_page_s_programs_compute_the_checkpoint_s_embedding_without_this_package"
        for rest in (
            "exported",
            "exported_uint8 --uint8_input --normalize",
            "exported_paddle --format paddle",
            "exported_openvino --format openvino --uint8_input --normalize",
        )
    },
    ".venv/bin/python -m pytest tests/unit/head": "tests/unit/head/test_margins.py",
}
KNOWN = {*RUN_TRAIN, *RUN_VALID, *RUN_WEIGHTS, *RUN_EMBED, *RUN_TOOLS, *(f"make {goal}" for goal in MAKE), *COVERED}


# ---- reading the pages


def fences(page: Path):
    """Yield (language, why it is not run or "", lines) of each fenced block."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    above = ""
    for line in lines:
        if line.strip().startswith("```"):
            mark = re.fullmatch(r"<!-- not run: (.+) -->", above)
            yield line.strip()[3:], mark[1] if mark else "", list(itertools.takewhile(lambda text: text.strip() != "```", lines))
        above = line.strip() or above


def commands(lines: list[str]) -> list[str]:
    """Return the commands of a block, each on one line, without comments."""
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(line.strip() for line in lines))
    return [command for line in joined.splitlines() if (command := re.sub(r"(^|\s+)# .*", "", line).strip())]


def everything_to_type() -> dict[str, set[str]]:
    """Return the pages of each command that is not marked as not run."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for language, why_not, lines in fences(page):
            for command in commands(lines) if language == "bash" and not why_not else []:
                found.setdefault(command, set()).add(page.relative_to(REPOSITORY).as_posix())
    return found


def test_every_command_is_run_or_covered_or_marked():
    found = everything_to_type()
    unknown = {command: pages for command, pages in found.items() if command not in KNOWN}
    assert not unknown, "run these here, name the test that does, or mark the block '<!-- not run: why -->'"
    gone = KNOWN - found.keys()
    assert not gone, "these are in no page any more"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_commands_stand_in_blocks_that_say_so_and_python_is_python(page):
    for language, _, lines in fences(page):
        assert language in ("", "bash", "python", "yaml", "mermaid"), language
        if language == "python":
            ast.parse("\n".join(lines))
        elif language != "bash":
            assert not [line for line in lines if COMMAND.match(line)], "a block of commands begins with ```bash"


@pytest.mark.parametrize("test", sorted(set(COVERED.values())))
def test_what_is_named_as_covering_a_command_exists(test):
    file, _, name = test.partition("::")
    assert (REPOSITORY / file).is_file()
    assert not name or f"\ndef {name}(" in (REPOSITORY / file).read_text()


# ---- running them


@pytest.fixture(scope="module")
def place(make_data_set, tmp_path_factory):
    """A directory with what the pages' commands name: a dataset, verification sets, a checkpoint, published weights."""
    import paddle

    folder, data = tmp_path_factory.mktemp("place"), make_data_set(40, 10)
    faces = [(data / f"images/{number:08d}.jpg").read_bytes() for number in range(40)]
    for name in ("MS1M_v2", "datasets/demo"):
        shutil.copytree(data, folder / name)
        for target in ("lfw", "cfp_fp", "agedb_30", "demo"):
            (folder / name / f"{target}.bin").write_bytes(pickle.dumps((faces, [True, False] * 10)))
    for link in ("configs", "arcface", "train.py", "valid.py"):
        (folder / link).symlink_to(REPOSITORY / link)
    for name in ("emore_arcface", "pretrained"):
        (folder / name).mkdir()
        paddle.save(create_backbone("MobileFaceNet_128", 128).state_dict(), str(folder / name / "MobileFaceNet_128.pdparams"))
    shutil.copytree(folder / "emore_arcface", folder / "shared")
    return folder


def arguments(command: str, **instead: str) -> list[str]:
    """Return the command's arguments, with some options in place of its own."""
    given = iter(shlex.split(command))
    kept = []
    for word in given:
        if word.startswith("--") and word[2:].partition("=")[0] in instead:
            next(given) if "=" not in word else None
        else:
            kept.append(word)
    return [*kept, *(f"--{name}={value}" for name, value in instead.items())]


FEW = {"network": "Tiny", "device": "cpu", "engine": "paddle"}
ONE_STEP = {**FEW, "batch_size": "4", "num_workers": "0", "max_steps": "1", "cpu_kernels": "off"}


def test_training_commands_run(place, tiny, monkeypatch):
    monkeypatch.chdir(place)
    for command in RUN_TRAIN:
        monkeypatch.setattr(sys, "argv", arguments(command, **ONE_STEP)[1:])
        train.main()
        output = parse(TrainConfig, arguments(command)[2:]).output
        assert (Path(output) / "latest").exists(), command


def test_verification_commands_run(place, tiny, monkeypatch, capsys):
    import paddle
    from tiny_backbone import Tiny

    monkeypatch.chdir(place)
    for name in ("emore_arcface", "pretrained"):
        if not Path(name, "Tiny.pdparams").exists():
            paddle.save(Tiny().state_dict(), str(Path(name) / "Tiny.pdparams"))
    for command in RUN_VALID:
        monkeypatch.setattr(sys, "argv", arguments(command, **FEW)[1:])
        valid.main()
        said = capsys.readouterr()
        assert re.search(r"\[lfw]\[\d+]Accuracy-Highest", said.out + said.err), command
    assert Path("report/index.html").exists()


def test_embedding_commands_run(place, tiny, monkeypatch, capsys):
    import paddle
    from tiny_backbone import Tiny

    from arcface import compare, embed

    monkeypatch.chdir(place)
    paddle.save(Tiny().state_dict(), "pretrained/Tiny.pdparams")
    for number in (1, 2):
        shutil.copy(f"MS1M_v2/images/{number:08d}.jpg", f"anna_{number}.jpg")
    for command in RUN_EMBED:
        monkeypatch.setattr(sys, "argv", arguments(command, **FEW)[2:])
        with contextlib.suppress(SystemExit):  # compare's exit code is its answer
            (embed if command.startswith(EMBED) else compare).main()
        said = r": 40 embeddings of 40 images" if command.startswith(EMBED) else r"the threshold 0\.3000 \(--threshold\)"
        assert re.search(rf"{said}\n$", capsys.readouterr().out), command
    assert np.load("features.npz")["embeddings"].shape == (40, 128) and len(np.load("lfw.npy")) == 40


def test_weights_are_converted(place, monkeypatch):
    monkeypatch.chdir(place)
    for command in RUN_WEIGHTS:
        source, destination = shlex.split(command)[-2:]
        Path(destination).unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["convert", source, destination])
        run(convert.main)
        assert Path(destination).exists()


def test_tools_run_one_after_the_other(make_data_set, tmp_path):
    shutil.copytree(make_data_set(12, 4), tmp_path / "MS1M_v2")
    images = sorted((tmp_path / "MS1M_v2" / "images").iterdir())
    left_out = [images[number].read_bytes() for number in (0, 4, 0, 1)]
    (tmp_path / "MS1M_v2" / "lfw.bin").write_bytes(pickle.dumps((left_out, [True, False])))
    rows = (f"{i}\t{10 * (i % 4)}.0\tMS1M_v2/images/{image.name}\n" for i, image in enumerate(images))
    (tmp_path / "some.lst").write_text("".join(rows))
    for folder, names in (("mine", ("Ann", "Bo")), ("celebrities", ("Ann", "Cy")), ("lfw_112x112", ("Ann_Lee", "Bo_Ray"))):
        for position, name in enumerate(names):
            (tmp_path / folder / name).mkdir(parents=True)
            for number in (1, 2):
                crop = (np.random.default_rng([len(folder), position, number]).random((112, 112, 3)) * 255).astype(np.uint8)
                cv2.imwrite(str(tmp_path / folder / name / f"{name}_{number:04d}.jpg"), crop)
    (tmp_path / "same_people.txt").write_text("2\t0\t1\n")
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBo_Ray\t1\n")
    (tmp_path / "photos").mkdir()
    shutil.copy(images[0], tmp_path / "photos" / "1.jpg")
    (tmp_path / "landmarks.txt").write_text(f"1.jpg {' '.join(map(str, TEMPLATE.ravel()))}\n")
    for command in RUN_TOOLS:
        if "pack_bin" in command:
            (tmp_path / "MS1M_v2" / "lfw.bin").unlink()
        for long, short in SHORTER.items():
            command = command.replace(long, short)
        words = shlex.split(command)
        if words[0] == "python":
            words[:2] = [sys.executable, str(REPOSITORY / words[1])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_the_two_commands_of_the_readme_run_as_they_are(place, start_process, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | without_gpus(1)
    here = tmp_path / "here"
    shutil.copytree(place, here, symlinks=True, ignore=shutil.ignore_patterns("emore_arcface", "log"))
    few = {name: value for name, value in ONE_STEP.items() if name not in ("network", "cpu_kernels")}
    first, second = f"{LAUNCH} train.py {NET}", "python valid.py --checkpoint emore_arcface"
    for command, instead in ((first, {**few, "val_targets": ""}), (second, {"engine": "paddle", "val_targets": "lfw"})):
        assert command in (REPOSITORY / "README.md").read_text() and command in (REPOSITORY / "README_ch.md").read_text()
        words = [sys.executable, *arguments(command, **instead)[1:]]
        process = start_process(words, cwd=here, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert "Accuracy-Highest" in said


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("goal", MAKE)
def test_make_knows_what_to_do(goal, tmp_path):
    words = ["make", "--dry-run", *shlex.split(goal), f"PYTHON={sys.executable}", f"VENV={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_demo_runs_and_leaves_its_curves(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(REPOSITORY, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "demo", "shared", "__pycache__"))
    ready = f"{sys.prefix}/ready"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "OMP_", "PYTHONPATH"))}
    done = subprocess.run(
        ["make", "demo", f"VENV={sys.prefix}", f"--old-file={ready}", f"DEMO_RUN={tmp_path / 'run'}"],
        cwd=tree,
        env={**environment, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[demo][189]Accuracy-Flip" in done.stdout + done.stderr and (tmp_path / "run" / "log" / "curves.png").is_file()


# ---- what else the pages say


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))}
    assert not {link for link in links if not (page.parent / link).exists()}
    named = set(
        re.findall(r"(?<![\w/.])(?:arcface|configs|datasets|benchmarks|tests|docs|examples)/[\w/]+\.(?:py|yaml|md|png|sh)\b", text)
    )
    assert not {path for path in named if not (REPOSITORY / path).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_commands_within_sentences_name_scripts_and_options_that_exist(page):
    for script, rest in re.findall(
        r"`(?:\w+=\S+ )?python ((?:benchmarks|datasets)/\w+\.py|train\.py|valid\.py)([^`]*)`", page.read_text("utf-8")
    ):
        source = (REPOSITORY / script).read_text()
        flags = re.findall(r"--(\w+)", rest)
        if script in ("train.py", "valid.py"):
            known = {"config", "help", *TrainConfig.__dataclass_fields__, *ValidConfig.__dataclass_fields__}
            assert not set(flags) - known
        else:
            assert not [flag for flag in flags if f"--{flag}" not in source and f"{flag}:" not in source], script


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_from_the_code_is_current():
    pages = load(REPOSITORY / "docs" / "make_pages.py")
    options, architecture = ((REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("options.md", "architecture.md"))
    assert options == pages.options_page(), "run `make docs`"
    assert architecture == pages.architecture_page(architecture), "run `make docs`"


def test_the_page_of_options_has_every_option_of_every_command():
    listed = re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8"), re.MULTILINE)
    tools = load(REPOSITORY / "docs" / "make_pages.py").TOOLS
    scripts = {path.stem for path in (REPOSITORY / "datasets").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert tools.keys() == scripts
    commands = load(REPOSITORY / "docs" / "make_pages.py").COMMANDS
    for options in (TrainConfig, ValidConfig, EmbedConfig, CompareConfig, *tools.values(), *commands.values()):
        assert options.__dataclass_fields__.keys() <= set(listed), options


def test_the_page_of_options_says_what_a_value_must_be():
    text = (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8")
    for options in (TrainConfig, ValidConfig, EmbedConfig, CompareConfig):
        for name, option in options_of(options).items():
            must_be = "" if isinstance(option.kind, Choice) or option.kind.words in ("text", "a path") else option.kind.words
            assert re.search(rf"^\| `{name}` \|[^|]*\| .*{re.escape(must_be)} \|", text, re.MULTILINE), name


PAGE_OF_BACKBONES = REPOSITORY / "docs" / "backbones.md"


def test_the_page_of_backbones_has_a_row_for_each():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE_OF_BACKBONES.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [name for name in BACKBONES if name != "Tiny"]


@pytest.mark.parametrize("name", backbones())
def test_the_page_of_backbones_has_their_counts(name):
    counts = count(create_backbone(name, 512))
    row = f"| `{name}` | {counts.parameters / 1e6:.1f} | {counts.multiply_adds / 1e6:,.0f} |"
    assert row in PAGE_OF_BACKBONES.read_text(encoding="utf-8")


def test_the_diagram_has_each_floor_above_the_one_before():
    floors = load(REPOSITORY / "tests" / "unit" / "test_floors.py").FLOORS
    (diagram,) = [lines for language, _, lines in fences(REPOSITORY / "docs" / "architecture.md") if language == "mermaid"]
    drawn = dict(re.findall(r'floor(\d+)\["<b>(.*?)</b>', "\n".join(diagram)))
    assert {int(level): set(rooms.split(" · ")) for level, rooms in drawn.items()} == dict(enumerate(map(set, floors)))
    arrows = re.findall(r"floor(\d+) --> floor(\d+)", "\n".join(diagram))
    assert [(int(above), int(below)) for above, below in arrows] == [(n, n - 1) for n in range(len(floors) - 1, 0, -1)]


def test_every_room_has_a_row_in_the_table_of_rooms():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (REPOSITORY / "arcface").iterdir() if (path / "__init__.py").exists() and path.name != "deploy"]
    assert not [room for room in rooms if f"| `arcface/{room}/` |" not in text]


def test_the_readmes_are_short_and_of_one_length():
    english, chinese = ((REPOSITORY / name).read_text(encoding="utf-8").splitlines() for name in ("README.md", "README_ch.md"))
    assert len(english) <= 125 and len(chinese) <= 125
    figures = [sorted(re.findall(r"\d+(?:[.,]\d+)+|\d{2,}", "\n".join(lines))) for lines in (english, chinese)]
    assert figures[0] == figures[1], "the two READMEs show different figures"


def test_the_configs_are_valid():
    files = sorted((REPOSITORY / "configs").glob("*.yaml"))
    assert files
    for file in files:
        parse(TrainConfig, ["--config", str(file)])
