"""Other people's runtimes compute a checkpoint's embeddings with what arcface.export writes: the programs of docs/inference.md."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from arcface import export as command
from arcface.backbones import create_backbone
from arcface.inference import checkpoint_export
from arcface.inference.export import export
from arcface.io.images import normalise, read_image
from arcface.weights.state_dict import load_backbone, read_state_dict

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "inference.md").read_text(encoding="utf-8")
EXPORTS = re.findall(r"^python -m arcface.export .*$", PAGE, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE[PAGE.index("## Export") :], re.MULTILINE | re.DOTALL)
NETWORK = "MobileFaceNet_128"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a face, a checkpoint of Tiny under the name that the page has, and what the page's commands export of it."""
    for package in ("paddle2onnx", "onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    import tiny_backbone

    from arcface.backbones import BACKBONES

    folder = tmp_path_factory.mktemp("clients")
    blobs = np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8)
    face = cv2.resize(blobs, (112, 112), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "face.jpg"), face)
    cv2.imwrite(str(folder / "face.ppm"), cv2.imread(str(folder / "face.jpg")))
    (folder / "pretrained").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(BACKBONES, NETWORK, tiny_backbone.Tiny)
        patch.setattr(checkpoint_export, "export_in_child", in_this_process)
        paddle.seed(0)
        paddle.save(create_backbone(NETWORK, 128).state_dict(), f"pretrained/{NETWORK}.pdparams")
        for line in EXPORTS:
            command.main(shlex.split(line)[3:])
    return folder


def in_this_process(weights, network, embedding_size, folder, format, variant):
    backbone = create_backbone(network, embedding_size)
    load_backbone(backbone, read_state_dict(weights), str(weights))
    return export(backbone, folder, format, variant)


@pytest.fixture(scope="module")
def expected(place):
    """The checkpoint's embedding of the face."""
    import tiny_backbone

    backbone = tiny_backbone.Tiny()
    load_backbone(backbone, read_state_dict(place / "pretrained" / f"{NETWORK}.pdparams"), "")
    backbone.eval()
    with paddle.no_grad():
        return backbone(normalise(paddle.to_tensor(read_image(place / "face.jpg")[None]))).numpy()


def check(program: str, embeddings, expected: np.ndarray) -> None:
    unit = expected / np.linalg.norm(expected)
    right = unit if "uint8" in program or "openvino" in program else expected
    assert np.shape(embeddings) == right.shape, program
    assert np.abs(embeddings - right).max() < 1e-4 * np.linalg.norm(right), program


def run_programs(python: str, programs: list[str], place: Path) -> list[list]:
    (place / "blocks.json").write_text(json.dumps(programs))
    call = [python, str(REPOSITORY / "tests" / "helpers" / "client.py"), "blocks.json"]
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_the_page_s_programs_compute_the_checkpoint_s_embedding_without_this_package(place, expected):
    programs = [program for program in PROGRAMS if "insightface" not in program]
    assert {"onnxruntime", "cv2", "openvino", "paddle"} <= {word for program in programs for word in program.split()}
    if paddle.__version__ < "3":
        programs = [program.replace("_128.json", "_128.pdmodel") for program in programs]
    for program, embeddings in zip(programs, run_programs(sys.executable, programs, place), strict=True):
        check(program, embeddings, expected)


def test_the_insightface_package_normalises_once(place, expected):
    python = os.environ.get("INSIGHTFACE_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import insightface"], capture_output=True, timeout=100).returncode:
        pytest.skip("insightface is not installed; INSIGHTFACE_PYTHON names the Python of an environment that has it")
    programs = [program for program in PROGRAMS if "insightface" in program]
    assert len(programs) == 2
    for program, embeddings in zip(programs, run_programs(python, programs, place), strict=True):
        check(program, embeddings, expected)


@pytest.mark.parametrize("exported, normalises", [("exported", False), ("exported_uint8", True)])
def test_names_of_the_first_nodes_tell_the_insightface_package_whether_the_model_normalises(place, exported, normalises):
    import onnx

    first = [node.name for node in onnx.load(str(place / exported / f"{NETWORK}.onnx")).graph.node[:8]]
    # The rule of its ArcFaceONNX, versions 0.1 to 2.1.
    assert all(any(name.startswith(kinds) for name in first) for kinds in (("Sub", "_minus"), ("Mul", "_mul"))) == normalises


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_the_program_in_cpp_is_built_as_it_says_and_prints_the_embedding(place, expected):
    import openvino

    source = REPOSITORY / "examples" / "openvino_cpp" / "embed.cpp"
    (line,) = [line[2:].strip() for line in source.read_text().splitlines() if line.startswith("//     g++")]
    shutil.copy(source, place)
    environment = {**os.environ, "OPENVINO": openvino.__path__[0]}
    built = subprocess.run(line, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stderr
    arguments = [f"exported_openvino/{NETWORK}.xml", "face.ppm", "face.ppm"]
    done = subprocess.run(["./embed", *arguments], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for printed in done.stdout.splitlines():
        check("openvino", [list(map(float, printed.split()))], expected)
    assert done.stdout.count("\n") == 2
    refused = subprocess.run(["./embed", arguments[0], "face.jpg"], cwd=place, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and refused.stderr == "error: face.jpg: not a binary PPM of 112x112 pixels\n"


@pytest.mark.exhaustive
def test_the_commands_as_they_stand_export_the_whole_network_in_a_process_of_its_own(tmp_path):
    (tmp_path / "pretrained").mkdir()
    paddle.save(create_backbone(NETWORK, 128).state_dict(), str(tmp_path / "pretrained" / f"{NETWORK}.pdparams"))
    for line in EXPORTS:
        call = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "at batches 1 and 7 within" in done.stdout, (line, done.stderr)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
