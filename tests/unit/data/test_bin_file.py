"""InsightFace's `.bin` sets are read as they are, what is wrong with one is said in a line, and ours are like them."""

import os
import pickle
import struct
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.data.bin_file import read_bin, write_bin
from arcface.errors import UserError
from arcface.io.images import decode

IMAGES = [b"\xff\xd8 first", b"\xff\xd8\x00\x00", b"\x89PNG", b"\xff fourth", b"\xff\xd8 first", b"last\x00"]
SAME = [True, False, True]


def write(folder: Path, content, protocol: int = 2) -> Path:
    path = folder / "cfp_fp.bin"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_bin(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        tuple(IMAGES),
        [np.frombuffer(image, np.uint8) for image in IMAGES],
        np.array(IMAGES, dtype=object),
    ],
    ids=["list of bytes", "tuple of bytes", "list of arrays", "array of bytes"],
)
@pytest.mark.parametrize(
    "same",
    [
        SAME,
        [1, 0, 1],
        tuple(SAME),
        np.array(SAME),
        np.array([1, 0, 1], np.int32),
        [np.bool_(flag) for flag in SAME],
    ],
    ids=["list of bool", "list of 0/1", "tuple", "array of bool", "array of 0/1", "NumPy bools"],
)
def test_every_form_of_the_format_gives_the_same_set(tmp_path, images, same, protocol):
    pairs = read_bin(write(tmp_path, (images, same), protocol))
    assert pairs.name == "cfp_fp"
    assert pairs.images == IMAGES and all(type(image) is bytes for image in pairs.images)
    assert pairs.is_same.dtype == bool and pairs.is_same.tolist() == SAME


def test_a_set_that_python_2_wrote_loads(tmp_path):
    images = b"".join(b"U" + struct.pack("<B", len(image)) + image for image in IMAGES)
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"\x80\x02](" + images + b"e](\x88\x89\x88e\x86.")
    pairs = read_bin(str(path))
    assert pairs.name == "lfw" and pairs.images == IMAGES and pairs.is_same.tolist() == SAME


def test_a_missing_file_is_reported(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.bin")
    assert "directory" in refusal(tmp_path)


def test_a_file_cut_off_is_reported(tmp_path):
    path = write(tmp_path, (IMAGES, SAME))
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in refusal(path)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_hostile_set_is_refused_before_it_runs(tmp_path):
    marker = tmp_path / "it ran"
    path = write(tmp_path, ([Call(os.mkdir, str(marker)), *IMAGES[1:]], SAME))
    assert f"{os.mkdir.__module__}.mkdir" in refusal(path)
    assert not marker.exists()


def text(value) -> bytes:
    return b"V" + str(value).encode() + b"\n"


def hostile_set(image: bytes, flag: bytes = b"\x88") -> bytes:
    """A set of two pairs whose first image and first flag are made by these pickle instructions."""
    return b"\x80\x04((" + image + b"NNNl(" + flag + b"\x89l\x86."


def array_of(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def uint8_array(content: bytes) -> bytes:
    return array_of(b"(J" + struct.pack("<i", len(content)) + b"t", dtype(b"u1"), big_bytes(content))


def dtype(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(V" + code + b"\n\x89\x88tR"


def big_bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def views(count: int) -> bytes:
    """A list of `count` arrays on one buffer; each but the first takes 13 bytes of the file."""
    content = bytes(100_000)
    first = b"cnumpy._core.numeric\n_frombuffer\nq\x00(" + big_bytes(content) + b"q\x01" + dtype(b"u1") + b"q\x02"
    first += b"(J" + struct.pack("<i", len(content)) + b"tq\x03" + text("C") + b"q\x04tR"
    return b"(" + first + b"h\x00(h\x01h\x02h\x03h\x04tR" * (count - 1) + b"l"


def flags(count: int) -> bytes:
    return b"(" + b"\x88" * (count // 2) + b"\x89" * (count - count // 2) + b"l"


HUGE = struct.pack("<Q", 2**60)
ATTACKS = {  # by what they try: the pickle, and what its refusal names
    "os.system by REDUCE": (hostile_set(b"cos\nsystem\n(" + text("touch ran") + b"tR"), "os.system"),
    "eval by getattr": (hostile_set(b"cbuiltins\ngetattr\n(cbuiltins\n__dict__\n" + text("eval") + b"tR"), "builtins.getattr"),
    "numpy.load": (hostile_set(b"cnumpy\nload\n(" + text("ran.npy") + b"N\x88tR"), "numpy.load"),
    "PERSID": (hostile_set(b"Pran\n"), "a persistent id"),
    "BINPERSID": (hostile_set(text("ran") + b"Q"), "a persistent id"),
    "STACK_GLOBAL, dotted": (hostile_set(text("numpy") + text("ndarray.tofile") + b"\x93"), "numpy.ndarray.tofile"),
    "STACK_GLOBAL, by a module": (hostile_set(text("numpy") + text("f2py.os.system") + b"\x93"), "numpy.f2py.os.system"),
    "INST": (hostile_set(b"(" + text("touch ran") + b"ios\nsystem\n"), "os.system"),
    "OBJ": (hostile_set(b"(cnumpy\nndarray\n" + text("ran") + b"o"), "OBJ"),
    "NEWOBJ": (hostile_set(b"cnumpy\nndarray\n(M\xff\xfft\x81"), "NEWOBJ"),
    "EXT1": (hostile_set(b"\x82\xf0"), "EXT1"),
    "a global as an image": (hostile_set(b"cnumpy\nndarray\n"), "image 0 is a _Global"),
    "in a flag": (hostile_set(b"N", b"cos\nsystem\n(" + text("touch ran") + b"tR"), "os.system"),
    "dtype with fields by BUILD": (
        hostile_set(dtype(b"u1") + b"(K\x03" + text("<") + b"N(" + text("a") + b"t}J\xff\xff\xff\x7fK\x01K\x00tb"),
        "NumPy dtype",
    ),
    "objects from raw pointers": (hostile_set(array_of(b"(K\x01t", dtype(b"O8"), b"C\x08" + b"A" * 8)), "does not fit its shape"),
    "array larger than its bytes": (
        hostile_set(array_of(b"(J\xff\xff\xff\x7ft", dtype(b"u1"), b"C\x01x")),
        "does not fit its shape",
    ),
    "object array in an object array": (
        hostile_set(array_of(b"(K\x01t", dtype(b"O8"), b"(" + array_of(b"(K\x01t", dtype(b"O8"), b"(Nl") + b"l")),
        "an object array in an object array",
    ),
    "BINBYTES8 of 2**60 bytes": (hostile_set(b"\x8e" + HUGE + b"x"), "unexpected end of file"),
    "BINUNICODE8 of 2**60 bytes": (hostile_set(b"\x8d" + HUGE + b"x"), "unexpected end of file"),
    "BINBYTES of 4 GiB": (hostile_set(b"B\xff\xff\xff\xffx"), "unexpected end of file"),
    "BYTEARRAY8 of 2**60 bytes": (hostile_set(b"\x96" + HUGE + b"x"), "unexpected end of file"),
    "LONG4 of 2 GiB": (hostile_set(b"\x8b\xff\xff\xff\x7f\x01"), "truncated"),
    "FRAME of 2**60 bytes": (hostile_set(b"\x95" + HUGE), "unexpected end of file"),
    "LONG_BINPUT to entry 2**32 - 1": (hostile_set(b"Nr\xff\xff\xff\xff"), "image 0 is a NoneType"),
    "lists of lists by the memo": (hostile_set(b"]q\x00" + b"(h\x00h\x00lq\x00" * 10_000), "image 0 is a list"),
    "a list in itself": (hostile_set(b"]q\x00h\x00a"), "image 0 is a list"),
    "a deep list": (hostile_set(b"(" * 30_000 + b"l" * 30_000), "image 0 is a list"),
    "a flag of 300,000 digits": (
        b"((C\x01xC\x01xl(\x8b" + struct.pack("<I", 125_000) + b"\x7f" * 125_000 + b"l\x86.",
        "the flag of pair 0",
    ),
    "images that are one list": (b"(](NNeq\x00h\x00t.", "image 0 is a NoneType"),
    "arrays of the same bytes": (b"(" + views(10_000) + flags(5_000) + b"t.", "far more memory than its size"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_name_at_once_in_little_memory(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload, detail = ATTACKS[attack]
    Path("attack.bin").write_bytes(payload)
    started = time.process_time()  # other tests may share the processor
    tracemalloc.start()
    try:
        message = refusal(Path("attack.bin"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert detail in message and len(message) < 300
    assert peak < 2**20 + 40 * len(payload)
    assert time.process_time() - started < 10
    assert os.listdir() == ["attack.bin"]


@pytest.mark.parametrize(
    "image",
    [big_bytes(bytes(100_000)), uint8_array(bytes(100_000)), b"\x96" + struct.pack("<Q", 100_000) + bytes(100_000)],
    ids=["bytes", "array", "bytearray"],
)
def test_an_image_of_many_pairs_is_held_once(tmp_path, image):
    """10 GB if each of the 100,000 were a copy, from a file of 350 kB."""
    count = 100_000
    path = tmp_path / "laughs.bin"
    path.write_bytes(b"((" + image + b"q\x00" + b"h\x00" * (count - 1) + b"l" + flags(count // 2) + b"t.")
    tracemalloc.start()
    try:
        pairs = read_bin(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pairs.images) == count and len(set(map(id, pairs.images))) == 1
    assert pairs.images[0] == bytes(100_000)
    assert peak < 40 * path.stat().st_size


def test_arrays_of_every_layout_give_their_bytes_in_order(tmp_path):
    square = np.arange(12, dtype=np.uint8).reshape(3, 4)
    images = [square, np.asfortranarray(square), square.T, square[:, ::2], np.array(5, np.uint8), square[:0]]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert read_bin(write(tmp_path, (images, SAME), protocol)).images == [image.tobytes() for image in images]


@pytest.mark.parametrize(
    "content, detail",
    [
        ({"conv1.weight": np.zeros(3)}, "does not contain two lists"),
        ((IMAGES, SAME, []), "does not contain two lists"),
        ([], "does not contain two lists"),
        (b"ab", "does not contain two lists"),
        ((None, None), "does not contain two lists"),
        ((b"ab", [True]), "does not contain two lists"),
        ((dict.fromkeys("ab"), [True]), "does not contain two lists"),
        ((np.array(IMAGES), SAME), "does not contain two lists"),  # NumPy's bytes lose the zeros at their end
        ((IMAGES, np.array([SAME])), "does not contain two lists"),
        ((["text"] * 6, SAME), "image 0 is a str"),
        ((IMAGES[:3] + [None] + IMAGES[4:], SAME), "image 3 is a NoneType"),
        ((IMAGES[:5] + [np.zeros(4, np.float32)], SAME), "image 5 is a ndarray"),
        ((IMAGES, [True, 2, False]), "the flag of pair 1"),
        ((IMAGES, [True, False, "True"]), "the flag of pair 2"),
        ((IMAGES, [None, True, False]), "the flag of pair 0"),
        ((IMAGES, [0.5, True, False]), "the flag of pair 0"),
        ((IMAGES, [[True], True, False]), "the flag of pair 0"),
        ((IMAGES, [np.array([1, 0]), True, False]), "the flag of pair 0"),
    ],
)
def test_other_content_is_reported_as_not_the_format(tmp_path, content, detail):
    message = refusal(write(tmp_path, content, 4))
    assert "not a verification set" in message and detail in message


def test_images_that_are_not_two_a_pair_are_reported(tmp_path):
    assert "6 images for 2 pairs" in refusal(write(tmp_path, (IMAGES, [True, False])))
    assert "5 images for 3 pairs" in refusal(write(tmp_path, (IMAGES[:5], SAME)))
    assert "0 images for 3 pairs" in refusal(write(tmp_path, ([], SAME)))


def test_no_pairs_are_reported(tmp_path):
    assert "contains no pairs" in refusal(write(tmp_path, ([], [])))
    assert "contains no pairs" in refusal(write(tmp_path, (IMAGES, np.array([], bool))))


def test_pairs_of_one_kind_are_reported(tmp_path):
    assert "all 3 pairs show the same identity" in refusal(write(tmp_path, (IMAGES, [True] * 3)))
    assert "all 3 pairs show different identities" in refusal(write(tmp_path, (IMAGES, [0, 0, 0])))


def test_the_real_lfw_has_its_12000_images_and_6000_pairs(real_data):
    pairs = read_bin(real_data / "lfw.bin")
    assert pairs.name == "lfw" and len(pairs.images) == 12_000
    # LFW's 10 official folds are 300 pairs of one person, then 300 of two.
    assert pairs.is_same.reshape(20, 300).tolist() == [[fold % 2 == 0] * 300 for fold in range(20)]
    for number in (0, 5_999, 11_999):
        image = decode(pairs.images[number], f"lfw image {number}")
        assert image.shape == (3, 112, 112) and image.dtype == np.uint8 and image.std() > 10


# ---- what is written


def insightface_load(path: Path):
    """As its load_bin does."""
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except UnicodeDecodeError:
        with open(path, "rb") as file:
            return pickle.load(file, encoding="bytes")


pairs_of_any_kind = st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300), st.booleans()), min_size=2).filter(
    lambda pairs: len({same for *_, same in pairs}) == 2
)


@settings(deadline=None, derandomize=True, database=None)
@given(pairs_of_any_kind)
def test_what_is_written_is_read_back_here_and_by_insightface(pairs):
    images, same = [image for pair in pairs for image in pair[:2]], [pair[2] for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.bin"
        write_bin(path, images, same)
        assert os.listdir(folder) == ["any.bin"]
        read = read_bin(path)
        assert read.images == images and read.is_same.tolist() == same
        for loaded in insightface_load(path), pickle.loads(path.read_bytes(), encoding="bytes"):
            assert loaded == (images, same)
            assert [type(part) for part in loaded] == [list, list]
            assert {type(image) for image in loaded[0]} == {bytes} and {type(flag) for flag in loaded[1]} == {bool}


@pytest.mark.parametrize("same", [SAME, [1, 0, 1], np.array(SAME), np.array([1.0, 0.0, 1.0]), iter(SAME)])
def test_flags_of_every_form_are_written_as_bools(tmp_path, same):
    write_bin(tmp_path / "flags.bin", IMAGES, same)
    assert repr(insightface_load(tmp_path / "flags.bin")[1]) == "[True, False, True]"


def test_equal_images_are_stored_once_and_read_as_one_object(tmp_path):
    pairs = 100
    images = [bytes([number % 5]) * 10_000 for number in range(2 * pairs)]  # 200 objects
    write_bin(tmp_path / "shared.bin", images, [number % 2 for number in range(pairs)])
    assert 50_000 < (tmp_path / "shared.bin").stat().st_size < 52_000
    read = read_bin(tmp_path / "shared.bin").images
    assert read == images and len(set(map(id, read))) == 5


def unwritten(path: Path, *arguments, **options) -> str:
    """The refusal to write; the directory stays as it was."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(UserError) as caught:
        write_bin(path, *arguments, **options)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_an_existing_file_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"a year's work")
    assert "--overwrite" in unwritten(path, IMAGES, SAME)
    write_bin(path, IMAGES, SAME, overwrite=True)
    assert read_bin(path).images == IMAGES and os.listdir(tmp_path) == ["lfw.bin"]
    broken_link = tmp_path / "link.bin"
    broken_link.symlink_to(tmp_path / "elsewhere")
    assert "--overwrite" in unwritten(broken_link, IMAGES, SAME)


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "new.bin"
    assert "contains no pairs" in unwritten(path, [], [])
    assert "5 images for 3 pairs, not two a pair" in unwritten(path, IMAGES[:5], SAME)
    assert "6 images for 2 pairs, not two a pair" in unwritten(path, IMAGES, SAME[:2])
    assert "all 3 pairs show the same identity" in unwritten(path, IMAGES, [True] * 3)
    assert "all 3 pairs show different identities" in unwritten(path, IMAGES, [False] * 3)
    assert "the flag of pair 1" in unwritten(path, IMAGES, [True, "0", False])
    with pytest.raises(TypeError, match="image 2 is a ndarray"):
        write_bin(path, [*IMAGES[:2], np.zeros(3, np.uint8), *IMAGES[3:]], SAME)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    assert "directory does not exist" in refused_place(tmp_path / "absent" / "lfw.bin")
    (tmp_path / "file").write_bytes(b"")
    assert "directory does not exist" in refused_place(tmp_path / "file" / "lfw.bin")
    assert "is a directory" in refused_place(tmp_path)
    assert "cannot be written (File name too long)" in refused_place(tmp_path / ("x" * 250 + ".bin"))


def refused_place(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        write_bin(path, IMAGES, SAME, overwrite=True)
    return str(caught.value)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "pickle.dump"])
@pytest.mark.parametrize("old", [None, b"the old set"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step, old):
    path = tmp_path / "lfw.bin"
    if old:
        path.write_bytes(old)

    def full(*_):
        raise OSError(28, "No space left on device")

    def interrupted(*_):
        raise KeyboardInterrupt

    module, name = step.split(".")
    monkeypatch.setattr({"os": os, "pickle": pickle}[module], name, full)
    assert "No space left on device" in unwritten(path, IMAGES, SAME, overwrite=True)
    monkeypatch.setattr({"os": os, "pickle": pickle}[module], name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bin(path, IMAGES, SAME, overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_a_set_gets_its_name_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    path, synced, replace, fsync = tmp_path / "lfw.bin", [], os.replace, os.fsync

    def checked_fsync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def checked_replace(partial, name):
        assert Path(partial).parent == tmp_path and name == path and not path.exists()
        assert synced == [os.path.getsize(partial)]
        assert read_bin(partial).images == IMAGES
        replace(partial, name)

    monkeypatch.setattr(os, "fsync", checked_fsync)
    monkeypatch.setattr(os, "replace", checked_replace)
    write_bin(path, IMAGES, SAME)
    assert synced and read_bin(path).images == IMAGES


def test_the_real_lfw_is_written_back_the_same_and_smaller(real_data, tmp_path):
    original = read_bin(real_data / "lfw.bin")
    write_bin(tmp_path / "lfw.bin", original.images, original.is_same)
    again = read_bin(tmp_path / "lfw.bin")
    assert again.images == original.images and (again.is_same == original.is_same).all()
    assert (tmp_path / "lfw.bin").stat().st_size < 0.7 * (real_data / "lfw.bin").stat().st_size
    for pairs in original, again:
        assert len(set(map(id, pairs.images))) == len(set(pairs.images)) == 7_701
