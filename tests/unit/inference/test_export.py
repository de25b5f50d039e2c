"""An exported backbone gives the embeddings of Paddle's own layers, also in a runtime that no engine uses."""

import cv2
import numpy as np
import paddle
import pytest
from backbone_params import backbones

from arcface.backbones import create_backbone
from arcface.inference import engines
from arcface.inference.export import Variant, export
from arcface.io.images import normalise
from arcface.weights.convert import convert
from arcface.weights.state_dict import load_backbone

BATCHES = 1, 7, 1  # OpenCV's DNN got batches above 1 wrong where the last layer was flattened by its rank


@pytest.mark.parametrize("network", backbones())
def test_every_engine_and_opencv_compute_the_embeddings_at_any_batch_size(network, tmp_path, monkeypatch):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnx")
    paddle.seed(0)
    backbone = create_backbone(network, 64)
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, 112, 112), np.uint8)
    with engines.open_engine("paddle", backbone, network, 64) as embed:
        expected = embed(images)
    scale = 1 / np.abs(expected).max()  # so that values are near 1, whatever the random weights make

    onnx = export(backbone, tmp_path, "onnx", Variant(metadata={"network": network}))
    check_graph(onnx)
    model = next(file for file in (onnx.with_suffix(".json"), onnx.with_suffix(".pdmodel")) if file.exists())
    monkeypatch.setattr(engines, "export_in_child", lambda *how: onnx if how[-1] == "onnx" else model)

    opencv = cv2.dnn.readNetFromONNX(str(onnx))  # OpenCV 5.0's was wrong for unfolded residual blocks once batches changed

    def with_opencv(images):
        opencv.setInput(normalise(images))
        return opencv.forward()

    def check(embed, name):
        for batch in BATCHES:
            embeddings = embed(images[:batch])
            assert embeddings.shape == (batch, 64), name
            assert np.abs(embeddings - expected[:batch]).max() * scale < 1e-4, name

    check(with_opencv, "OpenCV")
    for name in engines.candidates("auto"):
        with engines.open_engine(name, backbone, network, 64) as embed:
            check(embed, name)


def check_graph(file):
    """Batch norm is left only where it does not directly follow a convolution; the free batch has one name on both sides."""
    import onnx

    graph = onnx.load(str(file)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert not {makers.get(node.input[0]) for node in norms} & {"Conv", "MatMul", "Gemm"}
    assert not {"Constant", "Identity"} & set(makers.values())
    first = [node.name[:3] for node in graph.node[:8]]
    assert not {"Sub", "Mul"} <= set(first), "the insightface package would not normalise"
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "embeddings"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)] == ["n", "n"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("network", ["iresnet18", "mbf"])
@pytest.mark.parametrize("uint8_input", [False, True])
def test_an_export_is_read_back_as_weights(network, uint8_input, tmp_path):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnx")
    paddle.seed(0)
    backbone = create_backbone(network, 64)
    onnx = export(backbone, tmp_path, "onnx", Variant(uint8_input, metadata={"network": network}))
    again = create_backbone(network, 64)
    load_backbone(again, convert(onnx, network, 64), str(onnx))
    images = normalise(paddle.to_tensor(np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112), np.uint8)))
    with paddle.no_grad():
        backbone.eval()
        again.eval()
        embeddings = [layer(images).numpy() for layer in (backbone, again)]
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-4 * np.abs(embeddings[0]).max()
