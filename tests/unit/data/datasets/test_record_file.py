"""A train.rec is read with and without index, in every layout of InsightFace's tools, and no disagreement goes unnoticed."""

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_lists import write_records

from arcface.data.datasets import record_cache, record_file
from arcface.data.datasets.record_file import RecordFile
from arcface.data.recordio import RecordReader, encode
from arcface.errors import UserError

SIZES = [3, 1, 4, 2]  # images of each identity
LABELS = [identity for identity, size in enumerate(SIZES) for _ in range(size)]
IMAGES = [cv2.imencode(".png", np.full((112, 112, 3), number, np.uint8))[1].tobytes() for number in range(len(LABELS))]


@pytest.fixture
def written(tmp_path) -> Path:
    """A small train.rec with its train.idx and property."""
    write_records(tmp_path / "train.rec", zip(LABELS, IMAGES))
    return tmp_path / "train.rec"


def write_layout(directory: Path, records: list[tuple[int, bytes]]) -> Path:
    """Write records with their keys, in the order given."""
    offsets = np.cumsum([0, *(len(record) for _, record in records)])
    (directory / "train.rec").write_bytes(b"".join(record for _, record in records))
    (directory / "train.idx").write_text("".join(f"{key}\t{offset}\n" for (key, _), offset in zip(records, offsets)))
    return directory / "train.rec"


def face2rec2(directory: Path) -> Path:
    """InsightFace's packer of 2018, of MS1M: labels are arrays, the header record comes between images and identities."""
    images = [(key, encode([label, 1], key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    return write_layout(directory, [*images, (0, encode([11, 15], 0, b"")), *identities()])


def rec_builder(directory: Path) -> Path:
    """InsightFace's RecBuilder: one label each, the header record comes last."""
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    return write_layout(directory, [*images, *identities(), (0, encode([11, 15], 0, b""))])


def sequential(directory: Path) -> Path:
    """InsightFace's SeqRecBuilder, and MXNet's im2rec: images only, keys from 0."""
    return write_layout(directory, [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES))])


def sequential_arrays(directory: Path) -> Path:
    """The same with labels in arrays: record 0 has two of them, as a header record has, but it is an image."""
    records = [(key, encode([label, 1], key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES))]
    return write_layout(directory, records)


def identities() -> list[tuple[int, bytes]]:
    starts = np.cumsum([1, *SIZES])
    return [(11 + identity, encode(starts[identity : identity + 2].tolist(), 11 + identity, b"")) for identity in range(len(SIZES))]


def assert_is_whole(dataset: RecordFile) -> None:
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == LABELS
    assert len(dataset) == len(LABELS) and dataset.num_classes == len(SIZES)
    assert [dataset.encoded(index) for index in range(len(dataset))] == IMAGES
    dataset.scan(len(dataset))


def test_a_data_set_is_written_byte_for_byte_as_insightface_has_it(tmp_path):
    write_records(tmp_path / "train.rec", [(0, b"aaaa"), (0, b"bb"), (1, b"cccccccc")])
    assert (tmp_path / "train.rec").read_bytes() == bytes.fromhex("""
        0a23d7ce 1c000000 00000000 00000000 0100000000000000 0000000000000000 61616161
        0a23d7ce 1a000000 00000000 00000000 0200000000000000 0000000000000000 62620000
        0a23d7ce 20000000 00000000 0000803f 0300000000000000 0000000000000000 6363636363636363
        0a23d7ce 20000000 02000000 00000000 0000000000000000 0000000000000000 00008040 0000c040
        0a23d7ce 20000000 02000000 00000000 0400000000000000 0000000000000000 0000803f 00004040
        0a23d7ce 20000000 02000000 00000000 0500000000000000 0000000000000000 00004040 00008040""")
    assert (tmp_path / "train.idx").read_text() == "1\t0\n2\t36\n3\t72\n0\t112\n4\t152\n5\t192\n"
    assert (tmp_path / "property").read_text() == "2,112,112\n"


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("layout", [face2rec2, rec_builder, sequential, sequential_arrays])
def test_every_layout_is_read_with_and_without_its_index(tmp_path, layout, index):
    file = layout(tmp_path)
    if not index:
        (tmp_path / "train.idx").unlink()
    for _ in range(2):  # the second time from what the first kept, if it kept anything
        assert_is_whole(RecordFile(file))
    needs_a_pass = not index or layout in (sequential, sequential_arrays)
    assert (tmp_path / "train.rec.cache").exists() == needs_a_pass


def test_shuffled_records_keep_the_order_of_the_index_and_need_not_call_themselves_by_its_keys(tmp_path):
    order = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    file = write_layout(tmp_path, [(key, encode(LABELS[number], number + 1, IMAGES[number])) for key, number in enumerate(order)])
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\n".join(reversed(lines)) + "\n")
    dataset = RecordFile(file)
    order.reverse()
    assert dataset.labels.tolist() == [LABELS[number] for number in order]
    assert [dataset.encoded(index) for index in range(10)] == [IMAGES[number] for number in order]


def test_what_is_written_is_read_back(written):
    dataset = RecordFile(written)
    assert_is_whole(dataset)
    assert dataset.name(3) == f"{written} byte {sum(len(encode(0, 0, image)) for image in IMAGES[:3])}"
    again = written.parent / "again" / "train.rec"
    again.parent.mkdir()
    write_records(again, ((int(dataset.labels[index]), dataset.encoded(index)) for index in range(10)))
    assert again.read_bytes() == written.read_bytes()
    assert again.with_suffix(".idx").read_bytes() == written.with_suffix(".idx").read_bytes()


def test_labels_of_many_images_come_from_the_identities_with_a_sample_compared(tmp_path, monkeypatch):
    write_records(tmp_path / "train.rec", ((number // 10, b"image") for number in range(5000)))
    read = []
    for name in ("read", "read_header"):
        original = getattr(RecordReader, name)
        monkeypatch.setattr(RecordReader, name, lambda *arguments, original=original: read.append(1) or original(*arguments))
    assert RecordFile(tmp_path / "train.rec").labels.tolist() == [number // 10 for number in range(5000)]
    assert len(read) == 1 + 500 + record_file._COMPARED


def test_ranges_that_float32_may_have_rounded_are_not_relied_on(written, monkeypatch):
    monkeypatch.setattr(record_file, "_EXACT", 8)
    assert_is_whole(RecordFile(written))
    assert written.with_name("train.rec.cache").exists()


@pytest.mark.parametrize(
    "ranges", [[1, 5, 6, 9, 11], [1, 4, 4, 9, 11], [2, 4, 5, 9, 11], [1, 4, 5.5, 9, 11], [1, 4, 5, float("nan"), 11]]
)
def test_where_identities_are_wrong_the_images_own_labels_count(tmp_path, ranges):
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    records = [(11 + identity, encode(ranges[identity : identity + 2], 11 + identity, b"")) for identity in range(4)]
    assert_is_whole(RecordFile(write_layout(tmp_path, [*images, (0, encode([11, 15], 0, b"")), *records])))


@pytest.mark.parametrize("header, change", [([11, 15], lambda lines: lines[:-1]), ([11, 16], list), ([11, 14], list)])
def test_where_identities_are_missing_the_images_own_labels_count(tmp_path, header, change):
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    file = write_layout(tmp_path, [*images, (0, encode(header, 0, b"")), *identities()])
    index_of(file, change)
    assert_is_whole(RecordFile(file))


@pytest.mark.parametrize("layout", ["with identities", "without"])
def test_records_that_have_no_ids_are_read_and_one_that_has_another_is_refused(tmp_path, layout):
    about = [(0, encode([11, 15], 0, b"")), *identities()] if layout == "with identities" else []
    images = [(key, encode(label, 0, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    assert_is_whole(RecordFile(write_layout(tmp_path, [*images, *about])))
    ids = [1, 2, 3, 4, 5, 7, 6, 8, 9, 10]
    images = [(key, encode(LABELS[key - 1], id, IMAGES[key - 1])) for key, id in enumerate(ids, 1)]
    with pytest.raises(UserError, match=r"byte \d+: the index has record 6 here, which calls itself 7; download"):
        RecordFile(write_layout(tmp_path, [*images, *about]))


@pytest.mark.parametrize("labels", [[4], [4, 5, 6], []])
def test_a_record_with_other_than_two_labels_is_no_identity(tmp_path, labels):
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    records = [(key, encode(labels, key, b"") if key == 12 else record) for key, record in identities()]
    assert_is_whole(RecordFile(write_layout(tmp_path, [*images, (0, encode([11, 15], 0, b"")), *records])))


def test_a_label_that_the_sample_missed_is_found_when_the_image_is_read(written, monkeypatch):
    monkeypatch.setattr(record_file, "_COMPARED", 2)
    content = bytearray(written.read_bytes())
    offset = int(RecordFile(written)._offsets[5])
    content[offset + 12 : offset + 16] = struct.pack("<f", 3)
    written.write_bytes(content)
    dataset = RecordFile(written)
    with pytest.raises(UserError, match=f"train.rec byte {offset}: its label is 3, not 2"):
        dataset.encoded(5)
    with pytest.raises(UserError, match=f"byte {offset}"):
        dataset.scan(10)


def test_no_pass_is_made_twice_unless_a_file_has_changed(tmp_path, monkeypatch):
    file = sequential(tmp_path)
    index = tmp_path / "train.idx"
    passes = []
    original = record_file._from_headers
    monkeypatch.setattr(record_file, "_from_headers", lambda reader: passes.append(1) or original(reader))

    def passes_of_opening() -> int:
        passes.clear()
        assert_is_whole(RecordFile(file))
        return len(passes)

    assert [passes_of_opening(), passes_of_opening()] == [1, 0]
    os.utime(file, ns=(1, 1))
    assert [passes_of_opening(), passes_of_opening()] == [1, 0]
    os.utime(index, ns=(1, 1))
    assert [passes_of_opening(), passes_of_opening()] == [1, 0]
    index.unlink()
    assert [passes_of_opening(), passes_of_opening()] == [1, 0]
    with file.open("ab") as opened:
        opened.write(encode([1, 2], 99, b""))
    os.utime(file, ns=(1, 1))
    assert [passes_of_opening(), passes_of_opening()] == [1, 0]


@pytest.mark.parametrize("size", [0, 20, 47, 48, 100, -1])
def test_a_cut_cache_is_not_used(tmp_path, size):
    file = sequential(tmp_path)
    RecordFile(file)
    cache = tmp_path / "train.rec.cache"
    whole = cache.read_bytes()
    cache.write_bytes(whole[:size])
    assert record_cache.read_cache(file) is None
    assert_is_whole(RecordFile(file))
    assert cache.read_bytes() == whole


@pytest.mark.parametrize("column, value", [(0, -4), (0, 2**40), (1, -1)])
def test_a_cache_that_leads_out_of_the_file_is_not_used(tmp_path, column, value):
    file = sequential(tmp_path)
    RecordFile(file)
    columns = [array.copy() for array in record_cache.read_cache(file)]
    columns[column][3] = value
    record_cache.write_cache(file, columns)
    assert record_cache.read_cache(file) is None
    assert_is_whole(RecordFile(file))


def test_a_place_that_cannot_be_written_to_is_read_all_the_same(tmp_path):
    file = sequential(tmp_path)
    (tmp_path / "train.rec.cache").mkdir()
    assert_is_whole(RecordFile(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.idx", "train.rec", "train.rec.cache"]


def test_offsets_beyond_four_gigabytes_are_read(tmp_path):
    first, second = encode(0, 0, IMAGES[0]), encode(1, 1, IMAGES[1])
    with (tmp_path / "train.rec").open("wb") as file:
        file.write(first)
        file.seek(5 * 2**30)
        file.write(second)
    (tmp_path / "train.idx").write_text(f"0\t0\n1\t{5 * 2**30}\n")
    dataset = RecordFile(tmp_path / "train.rec")
    assert [dataset.encoded(0), dataset.encoded(1)] == IMAGES[:2] and dataset.labels.tolist() == [0, 1]


def index_of(file: Path, change) -> None:
    """Change the lines of an index, a list of [key, offset]."""
    lines = [line.split("\t") for line in file.with_name("train.idx").read_text().splitlines()]
    file.with_name("train.idx").write_text("".join("\t".join(line) + "\n" for line in change(lines)))


def set_offset(line: int, offset: str):
    return lambda lines: [[key, offset if number == line else old] for number, (key, old) in enumerate(lines, 1)]


@pytest.mark.parametrize(
    "change, complaint",
    [
        (set_offset(3, "7"), "train.idx line 3: '3\t7' is no place in the"),
        (set_offset(3, "99999999"), "train.idx line 3: '3\t99999999' is no place in the"),
        (set_offset(3, "x"), "train.idx line 3: '3\tx' is not a key, a tab and a byte offset"),
        (set_offset(3, "-4"), "train.idx line 3: '3\t-4' is not a key"),
        (set_offset(3, "9" * 19), "is not a key, a tab and a byte offset"),
        (lambda lines: [*lines[:2], ["4294967296", lines[2][1]], *lines[3:]], "train.idx line 3: '4294967296\t"),
        (set_offset(3, ""), "train.idx line 3: '3' is not a key"),
        (set_offset(3, "8 8"), "train.idx line 3: '3\t8 8' is not a key"),
        (set_offset(3, "40"), "train.rec byte 40: no record begins here"),
        (set_offset(11, "4"), "train.rec byte 4: no record begins here"),
        (lambda lines: [*lines[:5], *lines[10:]], "by the header record there are 10 images, the index lists 9 other records"),
        (lambda lines: [], "train.idx: lists no records"),
        (lambda lines: [["2", lines[0][1]], ["1", lines[1][1]], *lines[2:]], "the index has record 1 here, which calls itself 2"),
    ],
)
def test_an_index_of_another_file_is_refused(written, change, complaint):
    index_of(written, change)
    with pytest.raises(UserError, match=re.escape(complaint)) as refused:
        RecordFile(written)
    assert str(refused.value).count("\n") == 0


def test_two_keys_for_one_record_are_refused(tmp_path):
    file = write_layout(tmp_path, [(key, encode(label, 99, b"image")) for key, label in enumerate(LABELS)])
    offset = (tmp_path / "train.idx").read_text().splitlines()[1].split("\t")[1]
    index_of(file, set_offset(3, offset))
    with pytest.raises(UserError, match=f"train.rec byte {offset}: the index has two records here"):
        RecordFile(file)


NO_RANGES = [[11, 4], [11, 11], [10, 10], [0, 0], [1, 15], [8, 6], [11.5, 15], [11, float("nan")], [3, 15], [3, 8]]


@pytest.mark.parametrize("labels", NO_RANGES)
@pytest.mark.parametrize("with_identities", [True, False])
def test_a_header_record_that_names_no_range_of_identities_leaves_it_to_the_images_labels(tmp_path, labels, with_identities):
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    about = identities() if with_identities else []
    assert_same_without_its_index(write_layout(tmp_path, [(0, encode(labels, 0, b"")), *images, *about]))


def images_and_identities(directory: Path) -> Path:
    """A public packer's: record 0 comes last and says (1 + images, identities)."""
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    return write_layout(directory, [*images, (0, encode([11, 4], 0, b""))])


def twice_the_number(directory: Path) -> Path:
    """Another's: record 0 comes first and says (1 + images, 1 + images), as an array of float32."""
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    return write_layout(directory, [(0, encode([11, 11], 0, b"")), *images])


def no_identities(directory: Path) -> Path:
    """Another's: record 0 says where the identities would be and calls itself otherwise, labels are arrays of two."""
    images = [(key, encode([label, 0], key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    return write_layout(directory, [*images, (0, encode([11, 15], 11, b""))])


def assert_same_without_its_index(file: Path) -> None:
    assert_is_whole(RecordFile(file))
    for beside in "train.idx", "train.rec.cache":
        file.with_name(beside).unlink()
    assert_is_whole(RecordFile(file))


@pytest.mark.parametrize("packer", [images_and_identities, twice_the_number, no_identities])
def test_what_public_packers_write_without_identities_is_read_with_and_without_its_index(tmp_path, packer):
    assert_same_without_its_index(packer(tmp_path))


@pytest.mark.parametrize("packer", [images_and_identities, twice_the_number, no_identities])
def test_an_index_of_fewer_images_than_such_a_header_counts_is_refused(tmp_path, packer):
    file = packer(tmp_path)
    index_of(file, lambda lines: [line for line in lines if line[0] != "7"])
    with pytest.raises(UserError, match=r"byte \d+: by the header record there are 10 images, the index lists 9 other records"):
        RecordFile(file)


def test_a_header_record_that_counts_more_images_than_the_index_lists_is_refused(tmp_path):
    images = [(key, encode(label, key, image)) for key, (label, image) in enumerate(zip(LABELS, IMAGES), 1)]
    with pytest.raises(UserError, match=r"train.rec byte \d+: by the header record there are 15 images, the index lists 14 other"):
        RecordFile(write_layout(tmp_path, [*images, (0, encode([16, 17], 0, b"")), *identities()]))


@pytest.mark.parametrize(
    "labels, complaint",
    [
        ([0, 1.5], "train.rec byte 36: its label 1.5 is not a class number"),
        ([0, -1.0], "byte 36: its label -1 is not a class number"),
        ([0, float("nan")], "byte 36: its label nan is not a class number"),
        ([0, float("inf")], "byte 36: its label inf is not a class number"),
        ([0, 2.0**24], "byte 36: its label 1.67772e"),
        ([0, 2], "byte 36: labels must count up from 0 without a gap, but no record has label 1"),
        ([0, 0], "train.rec: all images are of one identity"),
    ],
)
def test_labels_that_are_no_class_numbers_are_named_by_their_byte(tmp_path, labels, complaint):
    with pytest.raises(UserError, match=complaint):
        RecordFile(write_layout(tmp_path, [(key, encode(label, key, b"1234")) for key, label in enumerate(labels)]))
    assert not (tmp_path / "train.rec.cache").exists()


def test_an_id_may_be_any_that_the_format_holds(tmp_path):
    file = sequential(tmp_path)
    file.write_bytes(encode(0, 2**64 - 1, b"a") + encode(1, 2**63, b"b"))
    (tmp_path / "train.idx").unlink()
    assert RecordFile(file).labels.tolist() == [0, 1]


def test_a_file_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="train.rec: contains no images"):
        RecordFile(write_layout(tmp_path, [(1, encode(0, 1, b""))]))


def test_a_label_beyond_num_classes_is_named(written):
    with pytest.raises(UserError, match=r"train.rec byte \d+: label 3 is not below --num_classes 3"):
        RecordFile(written, num_classes=3)
    assert RecordFile(written, num_classes=9).num_classes == 9


@pytest.mark.parametrize("content", ["5,112,112\n", "4,112,96", "4,112", "", "4;112;112", "4,112,112,3", "4\n112", "x" * 200])
def test_a_wrong_property_is_refused_and_a_missing_one_is_not(written, content):
    file = written.with_name("property")
    file.write_text(content)
    shown = " ".join(content[:100].split())
    with pytest.raises(UserError, match=f"property: '{shown}' where the records say '4,112,112'"):
        RecordFile(written)
    file.unlink()
    assert_is_whole(RecordFile(written))


@pytest.mark.parametrize("index", [True, False])
def test_every_cut_of_the_file_is_refused(written, index):
    """Without an index, a cut between two records leaves a shorter file that is sound."""
    content = written.read_bytes()
    if not index:
        written.with_name("train.idx").unlink()
    ends = {end for _, end, _ in RecordReader(written).headers()}
    sizes = [*ends, *range(0, len(content), 11), *range(len(content) - 300, len(content))]
    for size in sizes:
        written.write_bytes(content[:size])
        if size == len(content) or (not index and size in ends):
            continue
        with pytest.raises(UserError, match=r"train\.(rec|idx)( byte| line|:) \d+"):
            RecordFile(written)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True, database=None)
@given(st.data())
def test_damage_is_one_line_or_leaves_the_image_as_it_was_or_another_of_the_identity(written, data):
    content = SOUND_FILES.setdefault("rec", written.read_bytes())
    index = SOUND_FILES.setdefault("idx", written.with_name("train.idx").read_bytes())
    damaged = {"rec": bytearray(content), "idx": bytearray(index)}
    which = damaged[data.draw(st.sampled_from(["rec", "idx"]))]
    for _ in range(data.draw(st.integers(1, 4))):
        which[data.draw(st.integers(0, len(which) - 1))] = data.draw(st.integers(0, 255))
    written.write_bytes(damaged["rec"])
    written.with_name("train.idx").write_bytes(damaged["idx"])
    try:
        dataset = RecordFile(written)
        for index in range(len(dataset)):
            dataset.encoded(index)
    except UserError as error:
        assert "\n" not in str(error) and str(written.parent) in str(error)


SOUND_FILES: dict[str, bytes] = {}


def test_an_empty_image_is_not_written(tmp_path):
    with pytest.raises(UserError, match="image 1: the image is empty"):
        write_records(tmp_path / "train.rec", [(0, b"x"), (1, b"")])
    assert [path.name for path in tmp_path.iterdir()] == ["train.rec.partial"]


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    with pytest.raises(UserError, match="cannot be written .No such file"):
        write_records(tmp_path / "nowhere" / "train.rec", zip(LABELS, IMAGES))
