"""Export of a backbone's forward pass to files that other runtimes load: Paddle Inference, ONNX and OpenVINO."""

import contextlib
import io
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import paddle
from paddle import nn

from arcface.backbones import create_backbone
from arcface.command import run
from arcface.errors import UserError
from arcface.extras import how_to_install
from arcface.inference.fold import fold_batch_norm
from arcface.io.images import HALF_RANGE, SIZE
from arcface.system.processes import child_command, child_environment
from arcface.weights.state_dict import load_backbone, read_state_dict

Format = Literal["paddle", "onnx", "openvino"]
INPUT, OUTPUT = "images", "embeddings"
PADDLE_2_OUTPUT = "save_infer_model/scale_0.tmp_0"  # in place of OUTPUT in a .pdmodel, whose names cannot be chosen


@dataclass(frozen=True)
class Variant:
    """What an exported model does beside the backbone's layers, and what its files are called and say."""

    uint8_input: bool = False  # uint8 RGB images in, which the model normalises; float32 ones that are normalised otherwise
    normalize: bool = False  # embeddings of length 1 out
    name: str = "backbone"
    metadata: dict[str, str] = field(default_factory=dict)  # written into ONNX and OpenVINO files, whose names are then tidied


class _Exported(nn.Layer):
    """A backbone with what a variant adds."""

    def __init__(self, backbone: nn.Layer, variant: Variant):
        super().__init__()
        self.backbone = backbone
        self.variant = variant

    def forward(self, images):
        if self.variant.uint8_input:  # as tensors, not numbers, which Paddle would make one operation named otherwise: onnx_file.py
            half_range = paddle.full([1], HALF_RANGE)
            images = (images.astype("float32") - half_range) * paddle.full([1], 1 / HALF_RANGE)
        embeddings = self.backbone(images)
        return nn.functional.normalize(embeddings) if self.variant.normalize else embeddings


def export(backbone: nn.Layer, folder: Path, format: Format, variant: Variant = Variant()) -> Path:
    """Write a backbone in evaluation mode to `folder` and return the model's file; the backbone itself does not change.

    The model maps images, [n, 3, 112, 112] with any n, to embeddings, float32 [n, D]. "paddle" is NAME.json (Paddle 3) or
    NAME.pdmodel (Paddle 2) with NAME.pdiparams; "onnx" is NAME.onnx, "openvino" NAME.xml with NAME.bin, both beside Paddle's.
    Raises UserError if a package is missing or cannot convert.
    """
    if format != "paddle" and not find_spec("paddle2onnx"):
        raise UserError(f"ONNX needs paddle2onnx; {how_to_install('engines')}")
    exported = _Exported(deepcopy(backbone), variant)
    exported.eval()
    fold_batch_norm(exported.backbone)
    dtype = "uint8" if variant.uint8_input else "float32"
    images = paddle.static.InputSpec([None, 3, SIZE, SIZE], dtype, name=INPUT)
    paddle.jit.save(exported, str(folder / variant.name), input_spec=[images])
    model = folder / f"{variant.name}.json"
    if model.exists():
        # Paddle has no option for it.
        model.write_text(model.read_text().replace('"fetch_name_0"', f'"{OUTPUT}"'))
    else:
        model = model.with_suffix(".pdmodel")
    if format == "paddle":
        return model
    onnx = _to_onnx(model, variant)
    return onnx if format == "onnx" else _to_openvino(onnx, variant)


def _to_onnx(model: Path, variant: Variant) -> Path:
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
    if variant.metadata:
        from arcface.inference.onnx_file import finish  # imports onnx, which the engines need not have

        finish(onnx, INPUT, OUTPUT, variant.metadata)
    return onnx


def _to_openvino(onnx: Path, variant: Variant) -> Path:
    import openvino

    model = openvino.Core().read_model(str(onnx))  # as convert_model does, which also loads a package that counts its users
    for name, value in variant.metadata.items():
        model.set_rt_info(value, ["arcface", name])
    openvino.save_model(model, str(onnx.with_suffix(".xml")), compress_to_fp16=False)
    return onnx.with_suffix(".xml")


def export_in_child(
    state_dict: Path, network: str, embedding_size: int, folder: Path, format: Format, variant: Variant = Variant()
) -> Path:
    """Export the weights in a .pdparams file, as `export` does, in a process of its own.

    Each `paddle.jit.save` keeps some MiB permanently, and converters leave libraries loaded: a training run that verifies a
    thousand times can afford neither.
    """
    environment = {name: value for name, value in child_environment().items() if not name.startswith(("PADDLE_", "FLAGS_selected"))}
    what = json.dumps(asdict(variant))
    command = child_command(__name__, str(state_dict), network, str(embedding_size), str(folder), format, what)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise UserError(f"no export: {said[-1].removeprefix('error: ')}")
    return Path(done.stdout.splitlines()[-1])


def main() -> None:
    state_dict, network, embedding_size, folder, format, what = sys.argv[1:]
    paddle.set_device("cpu")
    backbone = create_backbone(network, int(embedding_size))
    load_backbone(backbone, read_state_dict(Path(state_dict)), state_dict)
    print(export(backbone, Path(folder), format, Variant(**json.loads(what))))  # type: ignore[arg-type]  # a Format


if __name__ == "__main__":
    run(main)
