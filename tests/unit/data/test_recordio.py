"""Records are read and written as MXNet lays them out, and nothing outside a record's bounds is used."""

import multiprocessing
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.data.recordio import RecordReader, encode
from arcface.errors import UserError

MAGIC = bytes.fromhex("0a23d7ce")

# What MXNet 1.9.1's recordio.pack and MXRecordIO.write made of these arguments; the images hold the magic word.
WRITTEN_BY_MXNET = {
    (3, 0, b"abcd" + MAGIC + b"xy" + MAGIC + MAGIC + b"z"): """
        0a23d7ce 1c000020 00000000 00004040 00000000 00000000 00000000 00000000 61626364
        0a23d7ce 0b000060 7879 0a23d7ce 0a23d7ce 7a 00""",
    ((1, 2), 1, MAGIC + MAGIC): """
        0a23d7ce 20000020 02000000 00000000 01000000 00000000 00000000 00000000 0000803f 00000040
        0a23d7ce 00000040
        0a23d7ce 00000060""",
}


def reader_of(tmp_path, content: bytes) -> RecordReader:
    (tmp_path / "a.rec").write_bytes(content)
    return RecordReader(tmp_path / "a.rec")


def framed(payload: bytes, kind: int = 0, length: int | None = None) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | (len(payload) if length is None else length)) + payload


def test_a_record_is_laid_out_byte_for_byte():
    header = "00000000 0000e040 0500000000000000 0000000000000000"  # no array, 7.0, id 5
    assert encode(7, 5, b"image") == bytes.fromhex(f"0a23d7ce 1d000000 {header} 696d616765 000000")
    header = "02000000 00000000 0500000000000000 0000000000000000"  # two labels, then 7.0 and 1.0
    assert encode([7, 1], 5, b"img!") == bytes.fromhex(f"0a23d7ce 24000000 {header} 0000e040 0000803f 696d6721")


@pytest.mark.parametrize("arguments", WRITTEN_BY_MXNET)
def test_a_record_is_written_and_read_as_by_mxnet(tmp_path, arguments):
    content = bytes.fromhex(WRITTEN_BY_MXNET[arguments])
    labels, id, image = arguments
    assert encode(*arguments) == content
    record = reader_of(tmp_path, content).read(0, len(content))
    assert list(record.labels) == ([labels] if isinstance(labels, int) else list(labels))
    assert record.id == id and record.image == image


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 2**24), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5)),
            st.integers(0, 2**64 - 1),
            st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=9).map(b"".join),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory, records):
    parts = [encode(*record) for record in records]
    reader = reader_of(tmp_path_factory.mktemp("written"), b"".join(parts))
    offset = 0
    for part, (labels, id, image), (start, end, header) in zip(parts, records, reader.headers(), strict=True):
        assert (start, end) == (offset, offset + len(part)) and len(part) % 4 == 0
        for limit in (end, reader.size):
            record = reader.read(start, limit)
            assert list(record.labels) == (labels if isinstance(labels, list) else [labels])
            assert (record.id, record.image) == (id, image)
            assert reader.read_image(start, limit) == (record.labels[0], image)
            assert reader.read_header(start, limit) == header == (record.labels[0], id, len(image))
        offset = end


def test_a_record_of_many_pieces_takes_time_in_proportion(tmp_path, monkeypatch):
    content = encode(0, 0, MAGIC * 50_000)
    reader, read = reader_of(tmp_path, content), []
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, offset: read.append(count) or original(file, count, offset))
    assert reader.read(0, reader.size).image == MAGIC * 50_000
    assert sum(read) < 3 * len(content)


def test_a_pass_over_the_file_meets_long_and_short_records_in_few_reads(tmp_path, monkeypatch):
    """Longer than what is read at once, and some that lie across its end."""
    lengths = [5_000_000, *range(3000, 5000), 4_194_304, 1]
    reader = reader_of(tmp_path, b"".join(encode(1, number, bytes(length)) for number, length in enumerate(lengths)))
    read, original = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: read.append(arguments) or original(*arguments))
    headers = [header for _, _, header in reader.headers()]
    assert len(read) < 10
    assert headers == [(1, number, length) for number, length in enumerate(lengths)]


SOUND = encode(4, 1, b"first") + encode([5, 1], 2, b"a" + MAGIC * 3) + encode(6, 3, b"third one")


def test_every_cut_of_a_file_is_refused_or_falls_between_two_records(tmp_path):
    ends = {end for _, end, _ in reader_of(tmp_path, SOUND).headers()}
    for size in range(len(SOUND)):
        if size in ends:
            list(reader_of(tmp_path, SOUND[:size]).headers())
            continue
        with pytest.raises(UserError, match=r"a\.rec(: \d+ bytes are no| byte \d+: )"):
            list(reader_of(tmp_path, SOUND[:size]).headers())


@pytest.mark.parametrize(
    "content, complaint",
    [
        (framed(bytes(24))[::-1], "byte 0: no record begins here"),
        (encode(0, 0, b"abcd") + b"junk" + framed(bytes(24)), "byte 36: no record begins here"),
        (framed(bytes(24), length=25), "byte 0: a record of 33 bytes or more, of which 32 are before the end of the file"),
        (framed(bytes(24), length=2**29 - 1), "byte 0: a record of 536870919 bytes or more, of which 32"),
        (framed(bytes(20)), "byte 0: a record of 20 bytes, less than the header"),
        (framed(b""), "byte 0: a record of 0 bytes, less than the header"),
        (framed(struct.pack("<IfQQ", 2, 0, 0, 0) + bytes(4)), "byte 0: a record of 28 bytes claims 2 labels"),
        (framed(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0) + bytes(40)), "byte 0: a record of 64 bytes claims 4294967295 labels"),
        (framed(bytes(24), kind=2), "byte 0: a piece of kind 2 where none can be"),
        (framed(bytes(24), kind=3), "byte 0: a piece of kind 3"),
        (framed(bytes(24), kind=7), "byte 0: a piece of kind 7"),
        (framed(bytes(24), kind=1) + framed(bytes(24)), "byte 32: a piece of kind 0"),
        (framed(bytes(24), kind=1) + framed(bytes(24), kind=1), "byte 32: a piece of kind 1"),
        (framed(bytes(24), kind=1), "byte 0: a record of 40 bytes or more, of which 32"),
        (framed(bytes(24), kind=1) + bytes(8), "byte 32: no record begins here"),
        (framed(bytes(24), kind=1) + framed(b"", kind=3, length=9), "byte 0: a record of 49 bytes or more, of which 40"),
    ],
)
def test_a_record_that_is_none_is_named_by_its_byte(tmp_path, content, complaint):
    reader = reader_of(tmp_path, content)
    for read in (reader.read, reader.read_image):
        with pytest.raises(UserError, match=f"a.rec {re.escape(complaint)}"):
            for offset, end, _ in reader.headers():
                read(offset, end)


@pytest.mark.parametrize("content", [b"", bytes(3), encode(0, 0, b"abcd")[:-1]])
def test_a_file_that_cannot_be_whole_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=f"a.rec: {len(content)} bytes are no RecordIO file, or a truncated one"):
        reader_of(tmp_path, content)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="no.rec: cannot be read .No such file"):
        RecordReader(tmp_path / "no.rec")
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        RecordReader(tmp_path)


def test_nothing_outside_the_bounds_is_read(tmp_path, monkeypatch):
    reader, read = reader_of(tmp_path, SOUND), []
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, at: read.append((at, at + count)) or original(file, count, at))
    for start in range(0, len(SOUND), 4):
        for end in range(start, len(SOUND) + 1):
            for function in (reader.read, reader.read_image, reader.read_header):
                read.clear()
                try:
                    function(start, end)
                except UserError:
                    pass
                assert all(start <= first <= last <= end for first, last in read)


def test_a_record_must_end_where_the_next_one_begins(tmp_path):
    reader = reader_of(tmp_path, SOUND)
    first_end = next(iter(reader.headers()))[1]
    with pytest.raises(UserError, match="a record of 37 bytes or more, of which 36 are before the end of its place in the index"):
        reader.read(0, first_end - 4)


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error_and_not_a_crash(tmp_path):
    reader = reader_of(tmp_path, SOUND)
    os.truncate(tmp_path / "a.rec", 40)
    with pytest.raises(UserError, match=f"byte 0: the file ends {len(SOUND) - 40} bytes earlier than when it was opened"):
        reader.read(0, len(SOUND))


def test_a_record_that_is_too_long_to_be_written_is_refused():
    with pytest.raises(ValueError, match="a record of 536870912 bytes; RecordIO allows 536870911 at most"):
        encode(0, 0, bytes(2**29 - 24))


def read_all(reader: RecordReader, places: list[tuple[int, int]], expected: list[bytes]) -> None:
    for _ in range(20):
        for place, image in zip(places, expected, strict=True):
            assert reader.read(*place).image == image


def test_threads_and_forked_processes_share_a_reader(tmp_path):
    images = [bytes([number]) * (number * 37 % 900) for number in range(200)]
    reader = reader_of(tmp_path, b"".join(encode(0, number, image) for number, image in enumerate(images)))
    places = [(offset, end) for offset, end, _ in reader.headers()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_all(reader, places, images), range(8)))
    workers = [multiprocessing.get_context("fork").Process(target=read_all, args=(reader, places, images)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
