"""Makes every way to read a tensor's values on the host, or to bring some from it other than through transfer.py, an error."""

from unittest import mock

import paddle

READS = ("numpy", "item", "tolist", "cpu", "to", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero")


def no_reads() -> mock._patch:
    """In a `with` block: reading a tensor, an index by booleans or paddle.to_tensor raises AssertionError."""
    indexed = paddle.Tensor.__getitem__

    def by_place(tensor, index):
        booleans = [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, paddle.Tensor)]
        assert not any(part.dtype == paddle.bool for part in booleans), "an index by booleans waits for the device"
        return indexed(tensor, index)

    stand_ins = {name: _refuse(name) for name in READS if hasattr(paddle.Tensor, name)}
    return mock.patch.multiple(paddle.Tensor, __getitem__=by_place, **stand_ins)


def _refuse(name: str):
    def refused(*_, **__):
        raise AssertionError(f"{name} waits for the device")

    return refused
