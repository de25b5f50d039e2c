"""Weights are read from anybody's file, or refused with what does not fit."""

import json
import pickle
import struct
import tracemalloc

import numpy as np
import paddle
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.weights.convert import convert
from arcface.weights.run_directory import read_backbone
from arcface.weights.state_dict import load_backbone, read_state_dict, safetensors_bytes, state_dict_bytes

NETWORK = "MobileFaceNet_128"


def same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        (first[name].dtype, first[name].shape, first[name].tobytes())
        == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name in first
    )


def safetensors_file(header, values: bytes = b"") -> bytes:
    """A safetensors file, of a header as JSON or as it is."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + values


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_state_dict_published_for_the_2021_toolkit_loads(tmp_path):
    published, ours = create_backbone(NETWORK, 128), create_backbone(NETWORK, 128)
    paddle.save(published.state_dict(), str(tmp_path / f"{NETWORK}.pdparams"))
    load_backbone(ours, read_backbone(tmp_path, NETWORK), "")
    for name, tensor in published.state_dict().items():
        assert np.array_equal(tensor.numpy(), ours.state_dict()[name].numpy())


def test_weights_of_another_size_or_network_are_refused(tmp_path):
    other = {name: tensor.numpy() for name, tensor in create_backbone(NETWORK, 64).state_dict().items()}
    backbone = create_backbone(NETWORK, 128)
    with pytest.raises(UserError, match=r"linear1.conv.weight has shape \[64, 512, 1, 1\], this network's is \[128, 512"):
        load_backbone(backbone, other, "file")
    del other["conv1.conv.weight"]
    with pytest.raises(UserError, match="1 names missing, such as conv1.conv.weight"):
        load_backbone(backbone, other, "file")
    own = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    for unknown in {"fc": 0}, {"\x1b" + "f" * 9000: 0}, {1: 0, None: 0, "f": 0}:
        with pytest.raises(UserError, match=f"{len(unknown)} names unknown, such as") as caught:
            load_backbone(backbone, own | unknown, "file")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_other_precisions_become_float32_and_what_is_no_number_is_refused():
    given, ours = create_backbone(NETWORK, 128), create_backbone(NETWORK, 128)
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in given.state_dict().items()}
    load_backbone(ours, state, "file")
    for name, tensor in given.state_dict().items():
        assert np.array_equal(tensor.numpy(), ours.state_dict()[name].numpy())
    halves = {name: tensor.astype("bfloat16") for name, tensor in given.state_dict().items()}
    load_backbone(ours, {name: tensor.numpy() for name, tensor in halves.items()}, "file")
    for name, tensor in halves.items():
        assert np.array_equal(tensor.astype("float32").numpy(), ours.state_dict()[name].numpy())
    state["conv1.bn.bias"] = np.array([b"x"] * 64)
    with pytest.raises(UserError, match="file: conv1.bn.bias is of type .S1, not floating point"):
        load_backbone(ours, state, "file")


def test_a_directory_without_the_network_says_what_was_looked_for_and_found(tmp_path):
    looked_for = "looked for MobileFaceNet_128.pdparams and MobileFaceNet_128.safetensors"
    with pytest.raises(UserError, match=f"{looked_for}, found neither kind of file"):
        read_backbone(tmp_path, NETWORK)
    for name in "iresnet50.pdparams", "y1.safetensors", "notes.txt":
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{looked_for}, found iresnet50.pdparams, y1.safetensors;"):
        read_backbone(tmp_path, NETWORK)
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="not a state dict"):
        read_backbone(tmp_path, NETWORK)


# ---- .pdparams, as paddle.load reads it


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_state_dicts_are_read_as_paddle_reads_them(tmp_path, protocol):
    file = tmp_path / "state.pdparams"
    paddle.save(create_backbone(NETWORK, 128).state_dict(), str(file), protocol=protocol)
    assert same_bits(read_state_dict(file), paddle.load(str(file), return_numpy=True))


def test_the_published_weights_are_read_as_paddle_reads_them(real_data, tmp_path):
    state = convert(real_data / "insightface_y1" / "model-0000.params", NETWORK, 128)
    file = tmp_path / "y1.pdparams"
    file.write_bytes(state_dict_bytes(state))
    assert same_bits(read_state_dict(file), paddle.load(str(file), return_numpy=True))
    assert same_bits(read_state_dict(file), state)


def test_weights_beside_other_things_are_found(tmp_path):
    """Paddle saves such a dict in another way, with each tensor's internal name beside it."""
    file, state = tmp_path / "state.pdparams", create_backbone(NETWORK, 128).state_dict()
    paddle.save({**state, "epoch": 7, "schedule": {"last_lr": 0.1}}, str(file))
    loaded = paddle.load(str(file), return_numpy=True)
    assert (loaded.pop("epoch"), loaded.pop("schedule")) == (7, {"last_lr": 0.1})
    assert loaded.keys() == state.keys() and same_bits(read_state_dict(file), loaded)


LARGE = np.arange(1000, dtype=np.float32).reshape(4, 250)
SLICED = {  # what paddle.save writes in protocols 2 and 3, but that it slices at 1 GiB
    "small": LARGE[0],
    "large@@.0": LARGE.ravel()[:600],
    "large@@.1": LARGE.ravel()[600:],
    "flat@@.0": np.float16([3]),
    "UnpackBigParamInfor@@": {
        "large": {"OriginShape": (4, 250), "slices": ["large@@.0", "large@@.1"]},
        "flat": {"OriginShape": (1,), "slices": ["flat@@.0"]},
    },
    "StructuredToParameterName@@": {"small": "s", "large": "l", "flat": "f"},
}


@pytest.mark.parametrize("protocol", [2, 3])
def test_arrays_that_paddle_has_sliced_are_whole_again(tmp_path, protocol):
    file = tmp_path / "state.pdparams"
    file.write_bytes(pickle.dumps(SLICED, protocol))
    assert same_bits(read_state_dict(file), {"small": LARGE[0], "large": LARGE, "flat": np.float16([3])})
    assert same_bits(read_state_dict(file), paddle.load(str(file), return_numpy=True))


def slices(*names, shape=(-1,)) -> dict:
    return {"large": {"OriginShape": shape, "slices": list(names)}}


KILOBYTE = np.zeros(1000, np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        {"a": KILOBYTE, "UnpackBigParamInfor@@": slices("a", "b")},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": slices("a", "a")},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": slices("a", shape=(3, 5))},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": slices("a", shape="long")},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": slices()},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": {"large": {"slices": ["a"]}}},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": {"large": 5}},
        {"a": KILOBYTE, "UnpackBigParamInfor@@": [5]},
        {"a": KILOBYTE, "b": np.zeros(3, "S9000"), "UnpackBigParamInfor@@": slices("b", "a")},  # each number a string of 9000
        {**dict.fromkeys(map(str, range(9000)), KILOBYTE), "UnpackBigParamInfor@@": slices(*map(str, range(9000)))},
    ],
)
def test_slices_that_do_not_fit_are_refused_in_little_memory(tmp_path, content):
    file = tmp_path / "state.pdparams"
    file.write_bytes(pickle.dumps(content, 4))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"{file}: the slices of its large arrays do not fit together"):
            read_state_dict(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


# ---- .safetensors


def test_a_safetensors_file_is_read_where_there_is_no_pdparams_file(tmp_path):
    states = [{name: array.numpy() for name, array in create_backbone(NETWORK, 128).state_dict().items()} for _ in range(2)]
    (tmp_path / f"{NETWORK}.safetensors").write_bytes(safetensors_bytes(states[0]))
    assert same_bits(read_backbone(tmp_path, NETWORK), states[0])
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(state_dict_bytes(states[1]))
    assert same_bits(read_backbone(tmp_path, NETWORK), states[1])


def test_what_is_written_is_read_bit_for_bit_and_also_by_the_library(tmp_path):
    bits = np.random.default_rng(0).integers(0, 256, 4 * 24, np.uint8)
    arrays = {
        "plain": bits.view("<f4").reshape(2, 3, 4),
        "in Fortran order": np.asfortranarray(bits.view("<f4").reshape(4, 6)),
        "not contiguous": bits.view("<f4")[::5],
        "0-D": bits.view("<f4")[3].reshape(()),
        "empty": np.zeros((0, 3), "<f4"),
        "double": bits.view("<f8"),
        "half": bits.view("<f2"),
    }
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors_bytes(arrays))
    assert same_bits(read_state_dict(file), arrays)
    assert same_bits(safetensors.numpy.load_file(file), arrays)


def test_bfloat16_is_read_as_paddle_holds_it(tmp_path):
    state = paddle.to_tensor([1.0, -2.5]).astype("bfloat16")
    values = np.array([0x3F80, 0xC020], "<u2")
    (tmp_path / "x.safetensors").write_bytes(safetensors_file({"w": tensor("BF16", (2,), (0, 4))}, values.tobytes()))
    paddle.save({"w": state}, str(tmp_path / "x.pdparams"))
    for ending in "safetensors", "pdparams":
        assert same_bits(read_state_dict(tmp_path / f"x.{ending}"), {"w": values})


def test_linear_weights_are_not_transposed(tmp_path):
    linear = paddle.nn.Linear(2, 3)
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors_bytes({name: array.numpy() for name, array in linear.state_dict().items()}))
    assert read_state_dict(file)["weight"].shape == (2, 3)


TWICE = b'{"w":%s,"w":%s}' % ((json.dumps(tensor()).encode(),) * 2)
DAMAGED = {
    "empty": b"",
    "a pickle": pickle.dumps(SLICED),
    "a page": b"<!DOCTYPE html><html>",
    "a header of terabytes": struct.pack("<Q", 2**42) + b"{}",
    "a header of 2**64 - 1 bytes": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a header cut off": safetensors_file({"w": tensor()})[:30],
    "values cut off": safetensors_file({"w": tensor()}, bytes(7)),
    "more than its values": safetensors_file({"w": tensor()}, bytes(9)),
    "values of terabytes": safetensors_file({"w": tensor(shape=(2**40,), offsets=(0, 2**42))}, bytes(8)),
    "a shape of terabytes": safetensors_file({"w": tensor(shape=(2**40,))}, bytes(8)),
    "a shape that overflows": safetensors_file({"w": tensor(shape=(2**62, 2**62))}, bytes(8)),
    "an empty shape that overflows": safetensors_file({"w": tensor(shape=(2**64 - 1, 0), offsets=(0, 0))}),
    "an empty shape beyond NumPy": safetensors_file({"w": tensor(shape=(2**62, 0, 2), offsets=(0, 0))}),
    "more dimensions than NumPy has": safetensors_file({"w": tensor(shape=(1,) * 99, offsets=(0, 4))}, bytes(4)),
    "a negative length": safetensors_file({"w": tensor(shape=(-2,))}, bytes(8)),
    "offsets reversed": safetensors_file({"w": tensor(offsets=(8, 0))}, bytes(8)),
    "values that overlap": safetensors_file({"v": tensor(), "w": tensor(offsets=(4, 12))}, bytes(12)),
    "values with a hole": safetensors_file({"v": tensor(), "w": tensor(offsets=(9, 17))}, bytes(17)),
    "an unheard-of dtype": safetensors_file({"w": tensor("F99")}, bytes(8)),
    "a name twice": safetensors_file(TWICE, bytes(8)),
    "a name twice, once escaped": safetensors_file(TWICE.replace(b"w", rb"\u0077", 1), bytes(8)),
    "a list": safetensors_file([]),
    "a deep nest": safetensors_file(b'{"w":' + b"[" * 100_000),
    "no text": safetensors_file(b"{\xff}"),
    "a long name with control characters": safetensors_file({"\n\x1b[31m" + "w" * 9000: tensor(offsets=(8, 16))}, bytes(16)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_safetensors_files_are_one_short_line_in_little_memory(tmp_path, damage):
    file = tmp_path / "x.safetensors"
    file.write_bytes(DAMAGED[damage])
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            read_state_dict(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{file}: not a safetensors file, or a damaged one (") and message.endswith("download it again")
    assert message.isprintable() and len(message) < 200 + len(str(file))
    assert peak < 2**20


def test_safetensors_of_integers_are_refused_by_name(tmp_path):
    file = tmp_path / "x.safetensors"
    for dtype in "I32", "U8", "BOOL", "F8_E4M3":
        length = 2 if dtype == "I32" else 8
        file.write_bytes(safetensors_file({"conv1\x1b": tensor(dtype, (length,))}, bytes(8)))
        with pytest.raises(UserError, match=rf"x.safetensors: 'conv1\\x1b' is of type {dtype}, not floating point"):
            read_state_dict(file)


HONEST = safetensors_bytes({"v": np.ones((2, 3), np.float32), "w": np.ones(2)})


@settings(deadline=None, derandomize=True, database=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), max_size=3), st.integers(0, len(HONEST)))
def test_any_damage_to_safetensors_loads_or_is_reported(tmp_path_factory, changes, length):
    damaged = bytearray(HONEST)
    for position, value in changes:
        damaged[position] = value
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(damaged[: length or None])
    try:
        read_state_dict(file)
    except UserError as error:
        assert str(error).isprintable()
