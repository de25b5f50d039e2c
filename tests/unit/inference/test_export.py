"""An exported backbone gives the embeddings of Paddle's own layers, also in runtimes that no engine uses."""

import cv2
import numpy as np
import paddle
import pytest

from arcface.backbones import BACKBONES, create_backbone
from arcface.inference.export import export

BATCHES = 1, 7  # OpenCV's DNN got batches above 1 wrong where the last layer was flattened by its rank


@pytest.mark.parametrize("network", [name for name in BACKBONES if name != "Tiny"])
def test_opencv_computes_the_onnx_file_at_any_batch_size(network, tmp_path):
    pytest.importorskip("paddle2onnx")
    paddle.seed(0)
    backbone = create_backbone(network, 64)
    images = np.random.default_rng(0).uniform(-1, 1, (max(BATCHES), 3, 112, 112)).astype(np.float32)
    backbone.eval()
    with paddle.no_grad():
        expected = backbone(paddle.to_tensor(images)).numpy()
    scale = 1 / np.abs(expected).max()  # so that values are near 1, whatever the random weights make
    model = cv2.dnn.readNetFromONNX(str(export(backbone, tmp_path, "onnx")))
    for batch in BATCHES:
        model.setInput(images[:batch])
        embeddings = model.forward()
        assert embeddings.shape == (batch, 64)
        assert np.abs(embeddings - expected[:batch]).max() * scale < 1e-4
