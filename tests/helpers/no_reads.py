"""Makes every way to read a tensor on the host, or to bring a value to the device other than by transfer.py, an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

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

    refused = {name: _refuse(name) for name in OF_TENSORS}
    with (
        mock.patch.multiple(paddle.Tensor, __getitem__=by_place, **refused),
        mock.patch.object(paddle, "to_tensor", _refuse("to_tensor")),
    ):
        yield


def _refuse(name: str):
    def refused(*_, **__):
        raise AssertionError(f"{name} waits for the device")

    return refused
