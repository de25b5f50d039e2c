"""MATLAB's lists of names and numbers are read, and what is none is refused without being inflated."""

import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from arcface.errors import UserError
from arcface.io.mat_file import read_names_and_numbers

savemat = pytest.importorskip("scipy.io").savemat
NAMES = ["1_1.jpg", "2 b.png", "\u00e9.jpg"]


def read(path) -> tuple[list[str], list[int]]:
    names, numbers = read_names_and_numbers(path, "probe_set", "probe_ids")
    return names, numbers.tolist()


def cells(names) -> np.ndarray:
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    return column


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint16, np.float64, np.int64])
def test_a_column_of_names_and_one_of_numbers_are_read(tmp_path, compressed, kind):
    variables = {"probe_set": cells(NAMES), "probe_ids": np.array([[7], [7], [300]], kind), "other": np.zeros(3)}
    savemat(tmp_path / "a.mat", variables, do_compression=compressed)
    assert read(tmp_path / "a.mat") == (NAMES, [7, 7, 300])


@pytest.mark.parametrize(
    "variables",
    [
        {"probe_set": cells(NAMES)},
        {"probe_ids": np.arange(3)},
        {"probe_set": cells(NAMES), "probe_ids": np.arange(2)},
        {"probe_set": cells([]), "probe_ids": np.arange(0)},
        {"probe_set": cells([1, 2, 3]), "probe_ids": np.arange(3)},
        {"probe_set": cells([NAMES, NAMES, NAMES]), "probe_ids": np.arange(3)},
        {"probe_set": cells(NAMES), "probe_ids": np.array([1, 2, 3.5])},
        {"probe_set": cells(NAMES), "probe_ids": cells(NAMES)},
    ],
)
def test_other_variables_are_refused(tmp_path, variables):
    savemat(tmp_path / "a.mat", variables)
    complaint = r"damaged, or not a .mat file with probe_set and probe_ids \(.+\); download it again$"
    assert re.search(complaint, refused(tmp_path / "a.mat"))


@pytest.mark.parametrize("content", [b"", b"MATLAB", bytes(500), b"\x89HDF\r\n\x1a\n" + bytes(600), b"<html>404</html>" * 20])
def test_what_is_no_mat_file_is_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    assert "damaged, or not a .mat file" in refused(tmp_path / "a.mat")


def test_any_byte_may_be_damaged(tmp_path):
    savemat(tmp_path / "a.mat", {"probe_set": cells(NAMES), "probe_ids": np.arange(3)}, do_compression=True)
    content = (tmp_path / "a.mat").read_bytes()
    for position in range(124, len(content), 3):
        (tmp_path / "a.mat").write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            read(tmp_path / "a.mat")
        except UserError as error:
            assert "\n" not in str(error)
    (tmp_path / "a.mat").write_bytes(content[:200])
    refused(tmp_path / "a.mat")


def test_a_file_that_inflates_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("arcface.io.mat_file._MOST_BYTES", 2**20)
    compressed = zlib.compress(bytes(30_000_000), 9)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(compressed))
    (tmp_path / "a.mat").write_bytes(header + compressed)
    tracemalloc.start()
    assert "inflates to more than 1,048,576 bytes" in refused(tmp_path / "a.mat")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    assert "No such file or directory; restore the file" in refused(tmp_path / "a.mat")
    assert "Is a directory; restore" in refused(tmp_path)
