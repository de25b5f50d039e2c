"""Each script in examples/ runs, on drawn faces, and prints what its docstring says."""

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from drawn_pairs import write_drawn_pairs

import arcface
from arcface.backbones import create_backbone

NETWORK = "MobileFaceNet_128"
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A checkpoint with random weights, two crops of each of ten drawn identities, and a set of 20 pairs of them."""
    folder = tmp_path_factory.mktemp("faces")
    paddle.seed(0)
    paddle.save(create_backbone(NETWORK, 128).state_dict(), str(folder / f"{NETWORK}.pdparams"))
    write_drawn_pairs(folder)
    return folder


@pytest.fixture
def run_example(monkeypatch, capsys, repository):
    """Returns a function that runs an example with arguments and returns the lines that it printed."""

    def call(name: str, *arguments) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        paddle.set_device("cpu")
        runpy.run_path(str(repository / "examples" / name), run_name="__main__")
        return [line for line in capsys.readouterr().out.splitlines() if line]

    return call


@pytest.mark.usefixtures("exports_once")
def test_two_faces_are_embedded_and_compared(run_example, faces):
    (line,) = run_example("embed_and_compare.py", faces, faces / "0_0.jpg", faces / "0_1.jpg")
    with arcface.open_embedder(faces, engine="paddle", device="cpu") as embed:
        expected = arcface.cosine(*embed(np.stack([arcface.read_image(faces / f"0_{image}.jpg") for image in (0, 1)])))
    assert float(re.fullmatch(r"cosine similarity (-?\d\.\d{4})", line)[1]) == pytest.approx(expected, abs=2e-4)
    (line,) = run_example("embed_and_compare.py", faces, faces / "0_0.jpg", faces / "0_0.jpg")
    assert line == "cosine similarity 1.0000"


@pytest.mark.usefixtures("exports_once")
def test_a_checkpoint_is_verified(run_example, faces):
    (line,) = run_example("verify_checkpoint.py", faces, faces / "drawn.bin")
    mean, std, norm = re.fullmatch(r"drawn: accuracy (\S+) \+- (\S+), mean norm (\S+), 20 pairs", line).groups()
    with arcface.open_embedder(faces, engine="paddle", device="cpu") as embed:
        result = arcface.verify(embed, arcface.read_bin(faces / "drawn.bin"), batch_size=3)
    assert [float(mean), float(std)] == pytest.approx([result.accuracy.mean, result.accuracy.std], abs=1e-5)
    assert float(norm) == pytest.approx(result.xnorm, abs=0.006)


def test_the_head_trains_in_a_loop_of_one_s_own(run_example):
    lines = run_example("head_in_your_loop.py")
    steps = [re.fullmatch(r"step (\d+): loss (\d+\.\d{4})", line).groups() for line in lines]
    assert [int(step) for step, _ in steps] == [0, 20, 40, 60, 80, 100]
    losses = [float(loss) for _, loss in steps]
    assert losses[0] == pytest.approx(48, abs=2) and losses[-1] < 0.1 and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("arguments, message", [(["a.jpg", "b.jpg"], "a.jpg: No such file"), ([], "looked for")])
def test_a_mistake_is_one_line(run_example, capsys, faces, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as ended:
        if arguments:
            run_example("embed_and_compare.py", faces, *(tmp_path / name for name in arguments))
        run_example("verify_checkpoint.py", tmp_path, faces / "drawn.bin")
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("error: ")]) == 1 and message in error[-1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_uses_public_names_only(example):
    tree = ast.parse(example.read_text())
    body = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert 10 <= body[-1].end_lineno - body[0].lineno + 1 <= 30
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"arcface", "numpy", "paddle", "sys"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "arcface"}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert used and used <= set(arcface.__all__)


@pytest.mark.parametrize("name", ["embed_and_compare.py", "verify_checkpoint.py"])
def test_an_example_without_arguments_says_how_it_is_used(run_example, capsys, name):
    with pytest.raises(SystemExit) as ended:
        run_example(name)
    assert ended.value.code == 2 and f"usage: {name} CHECKPOINT" in capsys.readouterr().err
