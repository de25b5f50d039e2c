"""How many faces are embedded at once."""

import numpy as np
import paddle
import pytest

from arcface.config import ValidConfig, parse
from arcface.verification.evaluator import embed_plain_and_flipped

BLACK = np.zeros([3, 112, 112], np.uint8)


@pytest.mark.parametrize(
    "options, device, batches",
    [
        ([], "cpu", [16] * 12 + [8]),
        ([], "gpu:3", [128, 72]),
        (["--val_batch_size=150"], "cpu", [150, 50]),
        (["--val_batch_size=150"], "gpu:3", [150, 50]),
    ],
)
def test_the_batch_suits_the_device_unless_one_is_given(monkeypatch, options, device, batches):
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    embedded = []

    def embed(images: np.ndarray) -> np.ndarray:
        embedded.append(len(images) / 2)  # each face plain and flipped
        return np.zeros([len(images), 4], np.float32)

    embed_plain_and_flipped(embed, lambda _: BLACK, 200, parse(ValidConfig, options).val_batch_size, "faces")
    assert embedded == batches
