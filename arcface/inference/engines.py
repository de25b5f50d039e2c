"""Engines that compute a backbone's embeddings outside training: the same embeddings, at different speeds.

    openvino           OpenVINO on the CPU; the extra engines
    paddle-inference   Paddle Inference with oneDNN on the CPU; part of Paddle
    onnxruntime        ONNX Runtime on the CPU; the extra engines
    paddle             Paddle's layers, on the CPU or a GPU: the ones that train
    auto               on a GPU paddle, on a CPU the first of this list that is installed and can be built

`benchmarks/engines.py` compares them.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import paddle

from arcface.distributed.process_group import broadcast, rank, world_size
from arcface.errors import UserError
from arcface.extras import how_to_install
from arcface.inference.embed import Embed
from arcface.inference.export import Format, export_in_child
from arcface.inference.runtimes import with_onnxruntime, with_paddle_inference
from arcface.io.images import HALF_RANGE, normalise
from arcface.system.startup import threads
from arcface.weights.state_dict import as_arrays, state_dict_bytes

IMAGES_OF_A_STREAM = 4

_NEEDS = {
    "openvino": ("openvino", "paddle2onnx"),
    "paddle-inference": (),
    "onnxruntime": ("onnxruntime", "paddle2onnx"),
    "paddle": (),
}

_ENGINES = list(_NEEDS)

logger = logging.getLogger("arcface")


class _NotBuilt(Exception):
    """An engine cannot be built; says why."""


def candidates(name: str) -> list[str]:
    """Return the engines that `name` means on Paddle's current device, fastest first: for "auto" all that are installed.

    Raises UserError if there is no such engine, or it lacks a package.
    """
    if name not in ("auto", *_NEEDS):
        raise UserError(f"--engine {name}: no such engine; choose one of auto, {', '.join(_NEEDS)}")
    if name == "auto":
        if paddle.get_device() != "cpu":
            return ["paddle"]
        return [engine for engine, packages in _NEEDS.items() if all(map(find_spec, packages))]
    if missing := [package for package in _NEEDS[name] if not find_spec(package)]:
        raise UserError(f"--engine {name} needs {' and '.join(missing)}; {how_to_install('engines')}")
    return [name]


@contextmanager
def open_engine(name: str, backbone: paddle.nn.Layer, network: str, embedding_size: int) -> Iterator[Embed]:
    """Open a function that embeds images with the backbone's present weights, in evaluation mode.

    `name` is one of the `candidates`. Memory and files are freed at the end; the backbone itself does not change.
    Raises UserError if the engine cannot be built.
    """
    try:
        embed = _build(name, backbone, network, embedding_size)
    except _NotBuilt as error:
        raise UserError(f"--engine {name} cannot be built ({error}); use another, such as --engine paddle") from error
    yield embed


@contextmanager
def open_first(names: list[str], backbone: paddle.nn.Layer, network: str, embedding_size: int) -> Iterator[tuple[str, Embed]]:
    """Open the first of some engines that can be built, as its name and function; a warning says why those before it cannot.

    Otherwise as `open_engine`.
    """
    *others, last = names
    for name, following in zip(others, names[1:], strict=True):
        try:
            embed = _build(name, backbone, network, embedding_size)
        except _NotBuilt as error:
            logger.warning("--engine auto: %s cannot be built (%s); using %s", name, error, following)
            continue
        yield name, embed
        return
    with open_engine(last, backbone, network, embedding_size) as embed:
        yield last, embed


@contextmanager
def open_agreed(name: str, backbone: paddle.nn.Layer, network: str, embedding_size: int) -> Iterator[tuple[str, Embed]]:
    """Open the first engine that rank 0 can build of those that `name` means, as name and function; called by every rank.

    Raises UserError on a rank that cannot build that one, say on a machine where it is not installed.
    """
    own = candidates(name)
    if world_size() == 1 or rank() == 0:
        with open_first(own, backbone, network, embedding_size) as (chosen, embed):
            broadcast(paddle.to_tensor([_ENGINES.index(chosen)], "int64"))
            yield chosen, embed
        return
    chosen = _ENGINES[int(broadcast(paddle.zeros([1], "int64")).item())]
    if chosen not in own:
        raise UserError(
            f"--engine {name}: rank 0 uses {chosen}, which is not installed for rank {rank()}; install the same packages on every"
            f" machine, or choose an engine that all have, such as --engine paddle"
        )
    with open_engine(chosen, backbone, network, embedding_size) as embed:
        yield chosen, embed


def _build(name: str, backbone: paddle.nn.Layer, network: str, embedding_size: int) -> Embed:
    """Return what an engine embeds with; raises _NotBuilt."""
    if name == "paddle":
        return _with_paddle(backbone)
    builders = {"openvino": _with_openvino, "paddle-inference": _with_paddle_inference, "onnxruntime": _with_onnxruntime}
    format: Format = "paddle" if name == "paddle-inference" else "onnx"
    try:
        with tempfile.TemporaryDirectory(prefix="arcface_engine_") as folder:
            weights = Path(folder, "weights.pdparams")
            weights.write_bytes(state_dict_bytes(as_arrays(backbone.state_dict())))
            return builders[name](export_in_child(weights, network, embedding_size, Path(folder), format))
    except Exception as error:  # of many types: the engines are others' libraries, in any version
        raise _NotBuilt(" ".join(str(error).split()) or type(error).__name__) from error


def _with_paddle(backbone: paddle.nn.Layer) -> Embed:
    @paddle.no_grad()
    def embed(images: np.ndarray) -> np.ndarray:
        training = [layer for layer in backbone.sublayers(include_self=True) if layer.training]  # not those that are frozen
        backbone.eval()
        embeddings = backbone(normalise(paddle.to_tensor(images))).numpy()
        for layer in training:
            layer.training = True
        return embeddings

    return embed


def _with_openvino(model: Path) -> Embed:
    import openvino
    from openvino.preprocess import PrePostProcessor

    core = openvino.Core()
    prepared = PrePostProcessor(core.read_model(str(model)))
    prepared.input().tensor().set_element_type(openvino.Type.u8)
    prepared.input().preprocess().convert_element_type(openvino.Type.f32).mean(HALF_RANGE).scale(HALF_RANGE)
    network = prepared.build()

    def compiled(streams: int) -> openvino.CompiledModel:
        # Without the hint, processors that have bfloat16 compute in it.
        # With pinning, the ranks of a machine would all compute on its first cores.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        return core.compile_model(network, "CPU", settings)

    # A stream for each thread, fed with few images at a time, keeps activations in the caches and no thread waiting.
    streams = threads()
    queue = openvino.AsyncInferQueue(compiled(streams), streams)
    all_threads_on_one = cache(lambda: compiled(1).create_infer_request())
    parts = {}
    queue.set_callback(lambda request, start: parts.update({start: request.get_output_tensor().data.copy()}))

    def embed(images: np.ndarray) -> np.ndarray:
        if len(images) < streams:  # for a caller who waits for a face, not for a set
            return all_threads_on_one().infer(images)[0].copy()
        at_once = max(1, min(IMAGES_OF_A_STREAM, len(images) // streams))
        parts.clear()
        for start in range(0, len(images), at_once):
            queue.start_async(images[start : start + at_once], start)
        queue.wait_all()
        return np.concatenate([parts[start] for start in sorted(parts)])

    return embed


def _with_paddle_inference(model: Path) -> Embed:
    run = with_paddle_inference(model)
    return lambda images: run(normalise(images))


def _with_onnxruntime(model: Path) -> Embed:
    run = with_onnxruntime(model)
    return lambda images: run(normalise(images))
