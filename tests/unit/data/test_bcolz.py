"""A verification set that is a bcolz array is named as such, whoever opens it, and a .bin beside it is read."""

from pathlib import Path

import pytest

from arcface.config import ValidConfig, VerificationOptions
from arcface.data.bin_file import read_bin, write_bin
from arcface.doctor.data import examine_verification_sets
from arcface.errors import UserError
from arcface.io.report import Report
from arcface.verification.ijb import read_protocol
from arcface.verification.sets import read_pair_sets, read_set


@pytest.fixture
def bcolz_set(tmp_path) -> Path:
    """lfw/ and lfw_list.npy as bcolz and NumPy write them, as far as anybody looks."""
    (tmp_path / "lfw" / "meta").mkdir(parents=True)
    (tmp_path / "lfw" / "data").mkdir()
    (tmp_path / "lfw" / "meta" / "sizes").write_text('{"shape": [4, 3, 112, 112], "nbytes": 602112, "cbytes": 499167}')
    (tmp_path / "lfw" / "meta" / "storage").write_text('{"dtype": "float32", "chunklen": 3}')
    (tmp_path / "lfw" / "data" / "__0.blp").write_bytes(b"blosc")
    (tmp_path / "lfw_list.npy").write_bytes(b"numpy")
    return tmp_path / "lfw"


def verify(directory: Path) -> None:
    read_set(directory.with_suffix(".bin"), ValidConfig())


def train(directory: Path) -> None:
    read_pair_sets(VerificationOptions(val_dir=str(directory.parent), val_targets=directory.name))


@pytest.mark.parametrize("read", [verify, train, read_protocol])
def test_it_is_named_with_what_to_do(bcolz_set, read):
    with pytest.raises(UserError) as refused:
        read(bcolz_set)
    assert str(refused.value).startswith(f"{bcolz_set}: is a bcolz array, a copy of lfw.bin")
    assert "make one of it and lfw_list.npy as datasets/README.md says" in str(refused.value) and "\n" not in str(refused.value)


def test_the_doctor_names_it(bcolz_set, capsys):
    report = Report()
    examine_verification_sets(report, [bcolz_set.with_suffix(".bin")], set())
    assert report.findings == 1 and "is a bcolz array" in " ".join(capsys.readouterr().out.split())


def test_a_bin_beside_it_is_read(bcolz_set):
    write_bin(bcolz_set.with_suffix(".bin"), [b"a", b"b", b"c", b"d"], [True, False])
    assert read_bin(bcolz_set.with_suffix(".bin")).images == [b"a", b"b", b"c", b"d"]


def test_other_directories_are_still_taken_for_protocols(tmp_path):
    (tmp_path / "lfw" / "meta").mkdir(parents=True)
    with pytest.raises(UserError, match="_face_tid_mid.txt: no such file; pass a protocol directory"):
        verify(tmp_path / "lfw")
    with pytest.raises(UserError, match="lfw.bin: cannot be read .No such file"):
        train(tmp_path / "lfw")
