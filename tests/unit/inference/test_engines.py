"""Every engine gives the embeddings of Paddle's own layers, and leaves nothing behind."""

import json
import tempfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from engine_params import engines_here

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.inference import engines
from arcface.inference.engines import candidates, open_engine, open_first
from arcface.io.images import normalise

NETWORK = "MobileFaceNet_128"
AUTO = "openvino", "paddle-inference", "onnxruntime"  # in the order that --engine auto tries them
FAST = engines_here(*AUTO)


@pytest.fixture(scope="module")
def backbone():
    """A network whose embeddings have a length near 10, as trained ones do: batch norms with statistics of their inputs."""
    paddle.seed(0)
    backbone = create_backbone(NETWORK, 64)
    for layer in backbone.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer.register_forward_pre_hook(take_statistics)
    backbone.eval()
    with paddle.no_grad():
        backbone(normalise(paddle.to_tensor(images(8))))
    for layer in backbone.sublayers():
        layer._forward_pre_hooks.clear()
    backbone.train()
    return backbone


def take_statistics(layer, inputs):
    layer._mean.set_value(inputs[0].mean([0, 2, 3]))
    layer._variance.set_value(inputs[0].var([0, 2, 3]))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, 112, 112), np.uint8)


def embeddings(name: str, backbone, *batches: np.ndarray) -> np.ndarray:
    with open_engine(name, backbone, NETWORK, 64) as embed:
        return np.concatenate([embed(batch) for batch in batches])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.usefixtures("exports_once")
def test_embeddings_are_paddle_s_own_at_any_batch_size(backbone, name):
    batches = images(1), images(5), images(32), images(2)
    expected = embeddings("paddle", backbone, *batches)
    assert np.linalg.norm(expected, axis=1).min() > 1
    ours = embeddings(name, backbone, *batches)
    assert ours.dtype == np.float32 and ours.shape == expected.shape == (40, 64)
    assert np.abs(ours - expected).max() < 1e-4


@pytest.mark.parametrize("name", [*FAST, "paddle"])
@pytest.mark.usefixtures("exports_once")
def test_an_engine_opened_later_has_the_weights_of_then_and_training_goes_on(backbone, name):
    before = embeddings(name, backbone, images(2))
    weight = backbone.linear1.bn.weight
    weight.set_value(weight * 2)
    try:
        assert np.allclose(embeddings(name, backbone, images(2)), 2 * before, atol=1e-4)
    finally:
        weight.set_value(weight / 2)
    assert backbone.training
    upstream = paddle.to_tensor(np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32))
    (backbone(normalise(paddle.to_tensor(images(4)))) * upstream).sum().backward()
    assert np.abs(backbone.conv1.conv.weight.grad.numpy()).max() > 1e-6
    backbone.clear_gradients()


@pytest.mark.parametrize("name", FAST)
def test_opening_engines_again_and_again_leaks_neither_memory_nor_files(run_ranks, name, tmp_path):
    done = run_ranks(1, Path(__file__).parents[2] / "helpers" / "leak_worker.py", name, tmp_path)
    left, sizes = json.loads(done.stdout.splitlines()[-1])
    assert left == []
    assert min(sizes[-4:]) - max(sizes[3:6]) < 8 * 2**20, [size >> 20 for size in sizes]


def test_an_export_that_fails_is_explained_in_a_line(backbone, tmp_path):
    complaint = r"^--engine paddle-inference cannot be built \(no export: .*linear1.conv.weight has shape \[64, 512, 1, 1\]"
    with pytest.raises(UserError, match=complaint):
        with open_engine("paddle-inference", backbone, NETWORK, 128):
            pass


def test_a_place_or_library_that_fails_is_explained_in_a_line(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="^--engine openvino cannot be built .*No such file.*--engine paddle"):
        with open_engine("openvino", backbone, NETWORK, 64):
            pass


def test_auto_takes_the_first_that_is_installed_and_a_missing_one_is_named(monkeypatch):
    installed = {"openvino", "paddle2onnx", "onnxruntime"}
    monkeypatch.setattr(engines, "find_spec", lambda package: package in installed or None)
    assert candidates("auto")[0] == "openvino"
    installed.discard("openvino")
    assert candidates("auto")[0] == "paddle-inference"
    assert candidates("onnxruntime") == ["onnxruntime"]
    with pytest.raises(UserError, match="--engine openvino needs openvino; (run: pip install|use Python 3.12)"):
        candidates("openvino")


def test_auto_passes_over_what_cannot_be_built_with_a_line_that_names_it_and_why(backbone, monkeypatch, caplog):
    def does_not_fit(*_):
        raise UserError("no export: paddle2onnx 2.1 needs another Paddle")

    monkeypatch.setattr(engines, "export_in_child", does_not_fit)
    monkeypatch.setattr(engines, "find_spec", lambda package: True)
    monkeypatch.setattr(engines.logger, "handlers", [caplog.handler])
    monkeypatch.setattr(engines.logger, "propagate", False)  # as a run's log has it
    with open_first(candidates("auto"), backbone, NETWORK, 64) as (name, embed):
        assert name == "paddle" and embed(images(2)).shape == (2, 64)
    reason = "no export: paddle2onnx 2.1 needs another Paddle"
    assert [record.message for record in caplog.records] == [
        f"--engine auto: {failed} cannot be built ({reason}); using {following}"
        for failed, following in zip(AUTO, [*AUTO[1:], "paddle"])
    ]
    with pytest.raises(UserError, match="^--engine openvino cannot be built .*paddle2onnx 2.1 needs"):
        with open_first(candidates("openvino"), backbone, NETWORK, 64):
            pass
