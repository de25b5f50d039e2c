"""Export of a checkpoint's backbone: the model's files, what describes them, and the proof that they compute the same."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import arcface
from arcface.config import ExportOptions
from arcface.errors import UserError
from arcface.extras import how_to_install
from arcface.inference.embed import cosine
from arcface.inference.export import INPUT, OUTPUT, PADDLE_2_OUTPUT, Variant, export_in_child
from arcface.inference.runtimes import Run, with_onnxruntime, with_openvino, with_paddle_inference
from arcface.io.files import check_paths, read_file
from arcface.io.images import HALF_RANGE, SIZE, normalise
from arcface.weights.run_directory import LATEST, MANIFEST, find_backbone, step_of, trained_backbone
from arcface.weights.state_dict import as_arrays, state_dict_bytes

DESCRIPTION = "export.json"
BATCHES = 1, 7
LEAST_COSINE = 0.99999
MOST_DIFFERENCE = 1e-4  # of a value, in parts of the embedding's length

_RUNTIMES = {"paddle": with_paddle_inference, "onnx": with_onnxruntime, "openvino": with_openvino}
_FILES = {"paddle": (".json", ".pdmodel", ".pdiparams"), "onnx": (".onnx",), "openvino": (".xml", ".bin")}
_PACKAGES = {"paddle": (), "onnx": ("paddle2onnx", "onnx", "onnxruntime"), "openvino": ("paddle2onnx", "onnx", "openvino")}


@dataclass(frozen=True)
class Agreement:
    """How near an exported model comes to the checkpoint: the least cosine, and the largest difference of a value."""

    cosine: float
    difference: float  # in parts of the embedding's length


def export_checkpoint(options: ExportOptions) -> str:
    """Write an export directory, whole or not at all, and return a line that says what is there.

    Raises:
        UserError: weights or packages are missing, there is something else in the directory's place, it cannot be written, or
            the exported model's embeddings differ from the checkpoint's.
    """
    paddle.set_device("cpu")
    output = Path(os.path.realpath(options.output))
    if missing := [package for package in _PACKAGES[options.format] if not find_spec(package)]:
        raise UserError(f"--format {options.format} needs {' and '.join(missing)}; {how_to_install('engines')}")
    _check_output(output, options.overwrite)
    backbone = trained_backbone(Path(options.checkpoint), options.network, options.embedding_size)
    description = _describe(options)
    with _writing(output) as folder:
        weights, made, ready = folder / "weights.pdparams", folder / "made", folder / "ready"
        weights.write_bytes(state_dict_bytes(as_arrays(backbone.state_dict())))
        made.mkdir()
        ready.mkdir()
        metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in description.items()}
        variant = Variant(options.uint8_input, options.normalize, options.network, metadata)
        model = export_in_child(weights, options.network, options.embedding_size, made, options.format, variant)
        agreement = _compare(model, backbone, options)
        if model.suffix == ".pdmodel":
            description["output"] = PADDLE_2_OUTPUT
        files = sorted(file for file in made.iterdir() if file.suffix in _FILES[options.format])
        description["sha256"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        for file in files:
            file.rename(ready / file.name)
        (ready / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        if output.exists():
            output.rename(folder / "replaced")
        output.parent.mkdir(parents=True, exist_ok=True)
        ready.rename(output)
    return (
        f"{Path(options.output) / model.name}: {description['input_dtype']} images [n, 3, {SIZE}, {SIZE}] to embeddings"
        f" [n, {options.embedding_size}]; at batches {' and '.join(map(str, BATCHES))} within {agreement.difference:.1e} of the"
        f" length of the checkpoint's, cosine {agreement.cosine:.6f}"
    )


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise UserError unless a directory can be made in this place, or an export is there that may be replaced."""
    try:
        check_paths([output], [])
        entries = {entry.name for entry in output.iterdir()} if output.exists() else set()
    except OSError as error:
        raise _not_written(output, error) from error
    if not entries:
        return
    try:
        known = {DESCRIPTION, *json.loads(read_file(output / DESCRIPTION))["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = set()
    if others := sorted(entries - known):
        raise UserError(f"--output {output}: contains {others[0]!a:.100}, which is no part of an export; choose another directory")
    if not overwrite:
        raise UserError(f"--output {output}: contains an export already; choose another directory, or pass --overwrite")


@contextmanager
def _writing(output: Path) -> Iterator[Path]:
    """Make a folder, on the file system of `output`, that is removed at the end; raises UserError if files cannot be written."""
    existing = next(path for path in output.parents if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=existing) as folder:
            yield Path(folder)
    except OSError as error:
        raise _not_written(output, error) from error


def _not_written(output: Path, error: OSError) -> UserError:
    return UserError(f"--output {output}: cannot be written ({error.strerror or error}); choose another directory")


def _describe(options: ExportOptions) -> dict[str, Any]:
    """Return what is to be known about a model: what it takes and gives, and of what it was made."""
    directory = Path(options.checkpoint)
    weights = find_backbone(directory, options.network)
    packages = ("paddlepaddle", *_PACKAGES[options.format])
    return {
        "format": options.format,
        "network": options.network,
        "embedding_size": options.embedding_size,
        "input": INPUT,
        "input_dtype": "uint8" if options.uint8_input else "float32",
        "input_size": [SIZE, SIZE],
        "layout": "NCHW",
        "color_order": "RGB",
        "mean": HALF_RANGE,
        "scale": 1 / HALF_RANGE,
        "preprocessing": "inside" if options.uint8_input else "outside",  # of the model: who computes (pixel - mean) * scale
        "output": OUTPUT,
        "unit_embeddings": options.normalize,
        "weights": weights.name,
        "weights_sha256": hashlib.sha256(read_file(weights)).hexdigest(),
        **_training(directory),
        "versions": {
            "arcface": arcface.__version__,
            "python": platform.python_version(),
            "paddlepaddle": paddle.__version__,
            **{package: version(package) for package in packages[1:]},
        },
    }


def _training(directory: Path) -> dict[str, Any]:
    """Return the run and the step of a checkpoint's training; None for weights that are published without it."""
    step = step_of(directory)  # checks the manifest too
    for manifest in (directory / LATEST / MANIFEST, directory / MANIFEST):
        if manifest.exists():
            return {"training_run": json.loads(manifest.read_bytes())["progress"].get("run"), "training_step": step}
    return {"training_run": None, "training_step": None}


def _compare(model: Path, backbone: paddle.nn.Layer, options: ExportOptions) -> Agreement:
    """Return how near an exported model comes to Paddle's own layers; raises UserError if that is too far, or it does not run."""
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, SIZE, SIZE), np.uint8)
    backbone.eval()
    with paddle.no_grad():
        expected = backbone(normalise(paddle.to_tensor(images))).numpy()
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    if options.normalize:
        expected, lengths = expected / lengths, np.ones_like(lengths)
    fed = images if options.uint8_input else normalise(images)
    try:
        run: Run = _RUNTIMES[options.format](model)
        pairs = [(run(fed[:batch]), expected[:batch]) for batch in BATCHES]
        agreement = Agreement(
            min(cosine(ours, theirs).min() for ours, theirs in pairs),
            max((np.abs(ours - theirs) / lengths[: len(theirs)]).max() for ours, theirs in pairs),
        )
    except Exception as error:  # of many types: the runtimes are others' libraries, in any version
        raise UserError(f"--format {options.format}: the exported model does not run ({error}); choose another --format") from error
    # So that what is not a number is too far as well.
    if not (agreement.cosine >= LEAST_COSINE and agreement.difference <= MOST_DIFFERENCE):
        raise UserError(
            f"--format {options.format}: the exported model's embeddings differ from the checkpoint's by {agreement.difference:.1e}"
            f" of their length, cosine {agreement.cosine:.6f}, where {MOST_DIFFERENCE} and {LEAST_COSINE} are allowed; nothing was"
            " written; choose another --format"
        )
    return agreement
