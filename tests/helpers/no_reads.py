"""Makes every way to read a tensor on the host, or to bring a value to the device other than by transfer.py, an error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import paddle

OF_TENSORS = ("numpy", "item", "tolist", "cpu", "to", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")


@contextmanager
def no_reads() -> Iterator[None]:
    """In a `with` block, what would wait for a GPU raises AssertionError: reading, paddle.to_tensor, an index by booleans."""
    indexed = paddle.Tensor.__getitem__

    def by_place(tensor, index):
        for part in index if isinstance(index, tuple) else (index,):
            assert not isinstance(part, paddle.Tensor) or part.dtype != paddle.bool, "an index by booleans waits for the device"
        return indexed(tensor, index)

    to_tensor = paddle.to_tensor

    def of_paddle_only(data, *args, **kwargs):  # its own from_dlpack passes what is a tensor already
        assert not isinstance(data, np.ndarray | np.number | Sequence | int | float), "paddle.to_tensor waits for the device"
        return to_tensor(data, *args, **kwargs)

    refused = {name: _refuse(name) for name in OF_TENSORS}
    with (
        mock.patch.multiple(paddle.Tensor, __getitem__=by_place, **refused),
        mock.patch.object(paddle, "to_tensor", of_paddle_only),
    ):
        yield


def _refuse(name: str):
    def refused(*_, **__):
        raise AssertionError(f"{name} waits for the device")

    return refused
