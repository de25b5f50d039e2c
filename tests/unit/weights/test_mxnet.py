"""MXNet parameter files are read to the last bit; whatever is wrong with one is said in a line, and costs no memory."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.errors import UserError
from arcface.weights.mxnet import read_params

WEIGHT = np.arange(6, dtype="<f4").reshape(2, 3)
# Where the fields of a file are that holds WEIGHT alone, as version 2, named arg:w.
MAGIC, COUNT, ARRAY_MAGIC, STORAGE, DIMENSIONS, LENGTHS, TYPE, NAMES, NAME_LENGTH, NAME = 0, 16, 24, 28, 32, 36, 60, 88, 96, 104


def refusal(path, content: bytes) -> str:
    """Read what must not be read; return the message, which is one line that names the file and a byte of it."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: byte ") and "\n" not in message and message.isprintable() and len(message) < 500
    assert int(message.removeprefix(f"{path}: byte ").split(":")[0]) <= len(content)
    return message


@pytest.mark.parametrize("version", [1, 2, 3])
def test_arrays_come_back_as_they_were(tmp_path, pack, version):
    arrays = {
        "arg:w": WEIGHT,
        "aux:bn_moving_var": np.array([1e-300, 2.5], "<f8"),
        "arg:half": np.array([[[65504.0]], [[-1 / 3]]], "<f2"),
        "plain": np.array([np.nan, np.inf, -0.0], "<f4"),
    }
    (tmp_path / "some.params").write_bytes(pack(arrays, version))
    loaded = read_params(str(tmp_path / "some.params"))
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()


def test_a_list_of_nothing_is_read(tmp_path, pack):
    (tmp_path / "some.params").write_bytes(pack({}))
    assert read_params(tmp_path / "some.params") == {}


def test_a_file_that_cannot_be_opened_is_reported(tmp_path):
    for path, reason in ((tmp_path / "absent.params", "No such file"), (tmp_path, "directory")):
        with pytest.raises(UserError, match=f"{path}: cannot be read .*{reason}"):
            read_params(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_cut_off_at_any_byte_is_refused(tmp_path, pack, version):
    content = pack({"arg:w": WEIGHT, "aux:v": WEIGHT[0]}, version)
    for size in range(len(content)):
        refusal(tmp_path / "some.params", content[:size])


def test_bytes_after_the_end_are_refused(tmp_path, pack):
    assert "3 bytes follow" in refusal(tmp_path / "some.params", pack({"arg:w": WEIGHT}) + b"end")


@pytest.mark.parametrize(
    "offset, layout, value, detail",
    [
        (MAGIC, "Q", 0x113, "byte 0: the file's magic is 0x113, not 0x112"),
        (MAGIC, ">Q", 0x112, "byte 0: the file's magic"),
        (COUNT, "Q", 2**64 - 1, f"byte {COUNT}: a count or length of {2**64 - 1} where 85 bytes are left"),
        (COUNT, "Q", 2, f"byte {NAMES}: an array's magic is 0x1"),
        (COUNT, "Q", 0, f"byte {ARRAY_MAGIC}: a count"),
        (ARRAY_MAGIC, "I", 2, f"byte {ARRAY_MAGIC}: an array's magic is 0x2"),  # MXNet 0.x: the number of dimensions
        (ARRAY_MAGIC, "I", 0xF993FAC7, "an array's magic is 0xf993fac7, not 0xf993fac8 to 0xf993faca"),
        (ARRAY_MAGIC, "I", 0xF993FACB, "an array's magic is 0xf993facb"),
        (STORAGE, "i", 1, f"byte {STORAGE}: storage type 1, not dense"),
        (STORAGE, "i", 2, "storage type 2"),
        (STORAGE, "i", -1, "storage type -1"),
        (DIMENSIONS, "I", 0, f"byte {DIMENSIONS}: an array of 0 dimensions"),
        (DIMENSIONS, "I", 33, "an array of 33 dimensions"),
        (DIMENSIONS, "I", 2**31, f"an array of {2**31} dimensions"),
        (DIMENSIONS, "i", -1, f"an array of {2**32 - 1} dimensions"),
        (DIMENSIONS, "I", 32, "more bytes are due"),
        (LENGTHS, "q", 0, f"byte {LENGTHS}: a dimension of length 0"),
        (LENGTHS, "q", -2, "a dimension of length -2"),
        (LENGTHS, "qq", (-2, -3), "a dimension of length -3"),
        (LENGTHS, "qq", (2**62, 2**62), "byte 64: more bytes are due than the 45 that are left"),
        (LENGTHS, "qq", (2**32, 2**32), "more bytes are due"),  # 0 bytes, modulo 2**64
        (LENGTHS, "qq", (2**31, 3), "more bytes are due"),
        (LENGTHS, "qq", (3, 4), "byte 64: more bytes are due than the 45 that are left"),
        (TYPE, "i", 3, f"byte {TYPE}: type flag 3, not that of float32"),
        (TYPE, "i", 12, "type flag 12"),
        (TYPE, "i", -1, "type flag -1"),
        (NAMES, "Q", 0, f"byte {NAMES}: 0 names for 1 arrays"),
        (NAMES, "Q", 2**63, f"byte {NAMES}: a count or length of {2**63}"),
        (NAME_LENGTH, "Q", 6, f"byte {NAME_LENGTH}: a count or length of 6 where 5 bytes are left"),
        (NAME_LENGTH, "Q", 4, "1 bytes follow"),
        (NAME_LENGTH, "Q", 0, "a name that is empty"),
        (NAME, "c", b"\x1b", f"byte {NAME}: a name that is"),
        (NAME, "c", b"\xff", "a name that is"),
        (NAME, "c", b"\n", "a name that is"),
    ],
)
def test_a_false_field_is_named_and_costs_no_memory(tmp_path, pack, offset, layout, value, detail):
    content = bytearray(pack({"arg:w": WEIGHT}))
    values = value if isinstance(value, tuple) else (value,)
    struct.pack_into(layout if layout[0] == ">" else f"<{layout}", content, offset, *values)
    tracemalloc.start()
    try:
        assert detail in refusal(tmp_path / "some.params", bytes(content))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_names_must_be_as_many_as_the_arrays_and_different(tmp_path, pack):
    two = {"arg:w": WEIGHT, "arg:v": WEIGHT}
    assert "1 names for 2 arrays" in refusal(tmp_path / "some.params", pack(two, names=["arg:w"]))
    assert "3 names for 2 arrays" in refusal(tmp_path / "some.params", pack(two, names=["arg:u", "arg:v", "arg:w"]))
    assert "second array named arg:w" in refusal(tmp_path / "some.params", pack(two, names=["arg:w", "arg:w"]))
    assert "a name" in refusal(tmp_path / "some.params", pack({"w" * 201: WEIGHT}))


def test_many_long_dimensions_are_refused_by_a_short_line(tmp_path, pack):
    content = pack({"arg:w": np.ones([1] * 32, "<f4")})
    refusal(tmp_path / "some.params", content.replace(struct.pack("<q", 1) * 32, struct.pack("<q", 2**63 - 1) * 32))
    refusal(tmp_path / "some.params", content.replace(struct.pack("<q", 1) * 32, struct.pack("<q", -(2**63)) * 32))


def test_reading_takes_the_memory_of_the_file_once(tmp_path, pack):
    content = pack({f"arg:{number}": np.ones([64, 4096], "<f4") for number in range(8)})
    (tmp_path / "some.params").write_bytes(content)
    tracemalloc.start()
    try:
        read_params(tmp_path / "some.params")
        assert tracemalloc.get_traced_memory()[1] < 1.05 * len(content)
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "some.params"


edits = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8), st.binary(max_size=9)), max_size=4)


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(edits, st.sampled_from([1, 2, 3]))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(scratch, pack, edits, version):
    content = pack({"arg:w": WEIGHT, "aux:v": WEIGHT[0], "arg:u": WEIGHT[:1].astype("<f2")}, version)
    for position, removed, added in edits:
        content = content[:position] + added + content[position + removed :]
    scratch.write_bytes(content)
    try:
        loaded = read_params(scratch)
    except UserError:
        return
    assert sum(array.nbytes for array in loaded.values()) <= len(content)


def test_the_real_file_holds_what_its_publisher_says(real_data):
    path = real_data / "insightface_y1" / "model-0000.params"
    params = read_params(path)
    assert len(params) == 284 and {str(array.dtype) for array in params.values()} == {"float32"}
    assert params["arg:fc1_weight"].shape == (128, 512) and params["arg:conv_2_dw_conv2d_weight"].shape == (64, 1, 3, 3)
    assert sum(array.nbytes for array in params.values()) <= os.path.getsize(path)
