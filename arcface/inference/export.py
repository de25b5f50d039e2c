"""Export of a backbone's forward pass to files that other runtimes load: Paddle Inference and ONNX."""

import contextlib
import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import paddle

from arcface.backbones import create_backbone
from arcface.command import run
from arcface.errors import UserError
from arcface.extras import how_to_install
from arcface.io.images import SIZE
from arcface.system.processes import child_command, child_environment
from arcface.weights.state_dict import load_backbone, read_state_dict

Format = Literal["paddle", "onnx"]
NAME = "backbone"


def export(backbone: paddle.nn.Layer, folder: Path, format: Format) -> Path:
    """Write a backbone in evaluation mode to `folder` and return the model's file.

    The model maps normalised images, float32 [n, 3, 112, 112] with any n, to embeddings, float32 [n, D]. "paddle" is
    backbone.json (Paddle 3) or backbone.pdmodel (Paddle 2) with backbone.pdiparams; "onnx" is backbone.onnx beside them.
    Raises UserError if ONNX is asked for and paddle2onnx is not installed.
    """
    if format == "onnx" and not find_spec("paddle2onnx"):
        raise UserError(f"ONNX needs paddle2onnx; {how_to_install('engines')}")
    backbone.eval()
    paddle.jit.save(backbone, str(folder / NAME), input_spec=[paddle.static.InputSpec([None, 3, SIZE, SIZE], "float32")])
    model = next(file for file in (folder / f"{NAME}.json", folder / f"{NAME}.pdmodel") if file.exists())
    return model if format == "paddle" else _to_onnx(model)


def _to_onnx(model: Path) -> Path:
    import paddle2onnx

    # Paddle2ONNX 2 would install packages by itself in order to optimise; version 1 has no such option.
    options = {"optimize_tool": "None"} if paddle2onnx.__version__ >= "2" else {}
    onnx = model.with_suffix(".onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        paddle2onnx.export(str(model), str(model.with_suffix(".pdiparams")), str(onnx), opset_version=13, verbose=False, **options)
    if not onnx.exists() or not onnx.stat().st_size:
        raise UserError(
            f"paddle2onnx {paddle2onnx.__version__} cannot convert what paddlepaddle {paddle.__version__} exports;"
            " see requirements-engines.txt for versions that fit"
        )
    return onnx


def export_in_child(state_dict: Path, network: str, embedding_size: int, folder: Path, format: Format) -> Path:
    """Export the weights in a .pdparams file, as `export` does, in a process of its own.

    Each `paddle.jit.save` keeps some MiB permanently, and converters leave libraries loaded: a training run that verifies a
    thousand times can afford neither.
    """
    environment = {name: value for name, value in child_environment().items() if not name.startswith(("PADDLE_", "FLAGS_selected"))}
    command = child_command(__name__, str(state_dict), network, str(embedding_size), str(folder), format)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise UserError(f"no export: {said[-1].removeprefix('error: ')}")
    return Path(done.stdout.splitlines()[-1])


def main() -> None:
    state_dict, network, embedding_size, folder, format = sys.argv[1:]
    paddle.set_device("cpu")
    backbone = create_backbone(network, int(embedding_size))
    load_backbone(backbone, read_state_dict(Path(state_dict)), state_dict)
    print(export(backbone, Path(folder), "onnx" if format == "onnx" else "paddle"))


if __name__ == "__main__":
    run(main)
