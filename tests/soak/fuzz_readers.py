"""Feed mutated files to the readers of strangers' files. Needs `pip install atheris`; `make test-all` runs a minute of each.

    python tests/soak/fuzz_readers.py READER -max_total_time=600 -rss_limit_mb=2048

READER is one of the functions below; further options are libFuzzer's. A finding is any exception but UserError, anything
that the reader would run, import or write, a hang, or memory above the limit.
"""

import codecs
import os
import pickle
import struct
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["arcface"]):
    from arcface.data.bin_file import read_bin
    from arcface.data.datasets import record_file
    from arcface.data.recordio import encode
    from arcface.errors import UserError
    from arcface.verification.ijb import read_protocol
    from arcface.verification.pair_lists import read_pairs as read_pairs_file
    from arcface.weights.mxnet import read_params
    from arcface.weights.torch import read_torch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import torch_files

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz_", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
record_file.write_cache = lambda *_: None  # a file that is written on purpose
FORBIDDEN = ("os.", "subprocess.", "exec", "compile", "ctypes.", "shutil.", "socket.", "import", "pickle.")
ALLOWED = ("os.listdir", "os.scandir")
reading = False


def watch(event: str, arguments: tuple) -> None:
    if reading and event.startswith(FORBIDDEN) and event not in ALLOWED:
        os.write(2, f"the file made the reader do: {event} {arguments!r:.200}\n".encode())
        os.abort()
    if reading and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        os.write(2, f"the file made the reader open: {arguments!r:.200}\n".encode())
        os.abort()


def bin_file(content: bytes) -> None:
    (FOLDER / "set.bin").write_bytes(content)
    expect_refusal(read_bin, FOLDER / "set.bin")


def params(content: bytes) -> None:
    (FOLDER / "model.params").write_bytes(content)
    expect_refusal(read_params, FOLDER / "model.params")


def torch(content: bytes) -> None:
    (FOLDER / "model.pt").write_bytes(content)
    expect_refusal(read_torch, FOLDER / "model.pt")


def pairs(content: bytes) -> None:
    (FOLDER / "pairs.txt").write_bytes(content)
    expect_refusal(lambda path: read_pairs_file(path).find_images(FOLDER), FOLDER / "pairs.txt")


def protocol(content: bytes) -> None:
    """The three lists of a protocol directory, one after the other with a zero byte between them."""
    parts = (content.split(b"\0") + [b"", b"", b""])[:3]
    for name, part in zip(("face_tid_mid", "template_pair_label", "name_5pts_score"), parts, strict=True):
        (FOLDER / "meta" / f"x_{name}.txt").write_bytes(part)
    expect_refusal(read_protocol, FOLDER)


def rec(content: bytes) -> None:
    """A .rec with its .idx, property and cache; the lengths of these three come first, and what has none is not there."""
    lengths = struct.unpack("<HHH", content[:6].ljust(6, b"\0"))
    position = 6
    for name, length in zip(("train.idx", "property", "train.rec.cache"), lengths, strict=True):
        (FOLDER / name).unlink(missing_ok=True)
        if length:
            (FOLDER / name).write_bytes(content[position : position + length])
            os.utime(FOLDER / name, ns=(0, 0))
        position += length
    (FOLDER / "train.rec").write_bytes(content[position:])
    os.utime(FOLDER / "train.rec", ns=(0, 0))
    expect_refusal(read_records, FOLDER / "train.rec")


def read_records(path: Path) -> None:
    source = record_file.RecordFile(path)
    for index in range(min(len(source), 20)):
        source.encoded(index)
        source.name(index)


def expect_refusal(reader, path: Path) -> None:
    global reading
    reading = True
    try:
        reader(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, "not one short line"
    finally:
        reading = False


def seeds(name: str) -> list[bytes]:
    images, same = [b"\xff\xd8 first", b"\xff\xd8\x00", b"\x89PNG", b"last"], [True, False]
    landmarks = b" 38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2 0.9\n"
    match name:
        case "bin_file":
            arrays = [np.frombuffer(image, np.uint8) for image in images]
            return [
                pickle.dumps((some, flags), protocol)
                for protocol in range(6)
                for some in (images, arrays)
                for flags in (same, np.array(same))
            ]
        case "params":
            array = struct.pack("<IiIqqiii", 0xF993FAC9, 0, 2, 2, 3, 1, 0, 0) + bytes(24)
            return [struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 5) + b"arg:w"]
        case "torch":
            weights = {"conv.weight": np.ones((2, 3), "f4"), "bn.running_var": np.ones(2, "f2")}
            kinds = torch_files.state_dict(weights), {"epoch": 1, "state_dict_backbone": torch_files.state_dict(weights, "module.")}
            for number, write in enumerate((torch_files.save, torch_files.save_legacy) * 2):
                write(kinds[number // 2], FOLDER / f"seed_{number}")
            return [(FOLDER / f"seed_{number}").read_bytes() for number in range(4)]
        case "pairs":
            return [b"1\t1\nAnn\t1\t2\nAnn\t1\tBob\t2\n", b"a/1.jpg\ta/2.jpg\t1\na/1.jpg\tb/1.jpg\t0\n", b"2\nAnn 1 2\nAnn 1 3\n"]
        case "rec":
            images = [(key, encode(label, key, b"image")) for key, label in ((1, 0), (2, 0), (3, [1, 1]))]
            about = [(0, encode([4, 6], 0, b"")), (4, encode([1, 3], 4, b"")), (5, encode([3, 4], 5, b""))]
            return [
                part
                for records in (images + about, images, [*images, (9, encode(2, 9, b"\x0a\x23\xd7\xce" * 3))])
                for part in rec_seeds(records)
            ]
        case "protocol":
            listed, compared = b"a.jpg 1 1\nb.jpg 2 1\n", b"1 2 0\n1 1 1\n"
            return [b"\0".join((listed, compared, b"a.jpg" + landmarks + b"b.jpg" + landmarks)), listed + b"\0" + compared]


def rec_seeds(records: list[tuple[int, bytes]]) -> list[bytes]:
    """The records with an index and a property, with neither, and with a cache."""
    content, offsets = b"".join(record for _, record in records), np.cumsum([0, *(len(record) for _, record in records)])
    index = "".join(f"{key}\t{offset}\n" for (key, _), offset in zip(records, offsets)).encode()
    cache = struct.pack("<8s5q3q3i", b"arcface1", len(content), 0, -1, -1, 3, *offsets[:3], 0, 0, 1)
    parts = ((index, b"2,112,112\n", b""), (b"", b"", b""), (b"", b"", cache))
    return [struct.pack("<HHH", *map(len, part)) + b"".join(part) + content for part in parts]


def main() -> None:
    targets = {"bin_file": bin_file, "params": params, "pairs": pairs, "protocol": protocol, "rec": rec, "torch": torch}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        raise SystemExit(f"usage: {sys.argv[0]} {'|'.join(targets)} [libFuzzer's options]")
    name = sys.argv.pop(1)
    for folder in ("corpus", "meta", "images"):
        (FOLDER / folder).mkdir()
    for image in ("a.jpg", "b.jpg"):
        (FOLDER / "images" / image).touch()
    for number, seed in enumerate(seeds(name)):
        (FOLDER / "corpus" / str(number)).write_bytes(seed)
    for codec in ("raw_unicode_escape", "unicode_escape", "utf-8", "ascii", "latin-1"):
        codecs.lookup(codec)  # imports what decodes a pickle's text
    for seed in seeds(name):
        targets[name](seed)  # imports what the reader itself imports when it is first used
    sys.addaudithook(watch)
    atheris.Setup([*sys.argv, str(FOLDER / "corpus")], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
