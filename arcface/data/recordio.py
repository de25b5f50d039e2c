"""MXNet's RecordIO as it is used for images: how records lie in a file, a reader and the encoding of one record.

A record's payload is cut wherever it contains the magic word at a multiple of four bytes; the magic word itself is left out.
Each piece is preceded by the magic word and a word with the kind of piece (3 bits) and its length (29 bits), and followed by
zeros up to a multiple of four bytes. The payload of an image is a header (number of labels, or 0 and the one label, id, high
bits of the id), the labels as float32 if they are an array, and the encoded image. All numbers are little-endian.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from arcface.errors import UserError
from arcface.io.files import open_file

_MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_FRAME_AND_HEADER = struct.Struct("<4sIIfQQ")
_HEADER_AND_LABEL = _FRAME.size + _HEADER.size + 4
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # kinds of piece
_MAX_PIECE = 2**29 - 1
_AT_ONCE = 1 << 14  # bytes read for a record before its length is known; a 112x112 JPEG has 2 to 10 thousand
_BLOCK = 1 << 22  # bytes read at once in a pass over the whole file


class Record(NamedTuple):
    """The payload of a record: labels (float32, 1 or more), id, and the encoded image, empty in a record about others."""

    labels: "memoryview[float]"
    id: int
    image: bytes


class Header(NamedTuple):
    """What the first bytes of a record say: its first label, id, and length of the encoded image."""

    label: float
    id: int
    image_bytes: int


def encode(labels: float | Sequence[float], id: int, image: bytes) -> bytes:
    """Return an image record as MXNet writes it, byte for byte: framed, cut and padded; `labels` is a number or an array.

    Raises ValueError if it is longer than the format can say.
    """
    if isinstance(labels, (int, float)):
        header = _HEADER.pack(0, labels, id, 0)
    else:
        header = _HEADER.pack(len(labels), 0, id, 0) + struct.pack(f"<{len(labels)}f", *labels)
    if len(header) + len(image) > _MAX_PIECE:
        raise ValueError(f"a record of {len(header) + len(image)} bytes; RecordIO allows {_MAX_PIECE} at most")
    payload = header + image
    pieces, start, found = [], 0, payload.find(_MAGIC)
    while found >= 0:
        if found % 4 == 0:
            pieces.append(payload[start:found])
            start = found + 4
        found = payload.find(_MAGIC, found + 4 - found % 4)
    pieces.append(payload[start:])
    kinds = [_WHOLE] if len(pieces) == 1 else [_FIRST, *[_MIDDLE] * (len(pieces) - 2), _LAST]
    framed = [_FRAME.pack(_MAGIC, kind << 29 | len(piece)) + piece for kind, piece in zip(kinds, pieces, strict=True)]
    return b"".join(framed) + bytes(-len(payload) % 4)


class RecordReader:
    """Reads image records at given places of a file.

    Every read says where it begins (os.pread), so that threads and forked processes can share a reader. Not a memory map,
    whose pages would count as the process's memory, and which kills the process when the file is cut off meanwhile.
    What is wrong with a record is a UserError with file and byte offset; nothing outside the bounds given is used.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = open_file(path)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); correct the path or the permissions") from error
        if self.size == 0 or self.size % 4:
            raise UserError(f"{path}: {self.size} bytes are no RecordIO file, or a truncated one; download it again")

    def read(self, offset: int, end: int) -> Record:
        """Return the record that begins at byte `offset` and ends by byte `end`."""
        payload, _ = self._payload(offset, end)
        count, _, id, _ = self._unpacked(payload, offset)
        image = _HEADER.size + 4 * count
        labels = memoryview(payload)[_HEADER.size : image] if count else memoryview(payload)[4:8]
        return Record(labels.cast("f"), id, payload[image:])

    def read_image(self, offset: int, end: int) -> tuple[float, bytes]:
        """Return first label and encoded image of that record: what `read` returns, in a third of the time for most records."""
        data = self._bytes(offset, min(_AT_ONCE, end - offset))
        if len(data) >= _FRAME_AND_HEADER.size:
            magic, word, labels, label, _, _ = _FRAME_AND_HEADER.unpack_from(data)
            stop = _FRAME.size + word  # beyond the data, where the kind is not _WHOLE
            if magic == _MAGIC and not labels and _FRAME_AND_HEADER.size <= stop <= len(data):
                return label, data[_FRAME_AND_HEADER.size : stop]
        record = self.read(offset, end)
        return record.labels[0], record.image

    def read_header(self, offset: int, end: int) -> Header:
        """Return what the record's first bytes say, without reading the image."""
        return self._header(self._bytes(offset, min(_HEADER_AND_LABEL, end - offset)), offset, end)[0]

    def headers(self) -> Iterator[tuple[int, int, Header]]:
        """Yield (offset, end, header) of every record, in one pass from the first byte of the file to the last."""
        offset, block, base = 0, b"", 0
        while offset < self.size:
            if offset + _HEADER_AND_LABEL > base + len(block):
                block, base = self._bytes(offset, min(_BLOCK, self.size - offset)), offset
            header, end = self._header(block[offset - base : offset - base + _HEADER_AND_LABEL], offset, self.size)
            yield offset, end, header
            offset = end

    def error(self, offset: int, detail: str) -> UserError:
        """Return the error that names file and byte."""
        return UserError(f"{self.path} byte {offset}: {detail}; download the file again, and its index")

    def _header(self, first_bytes: bytes, offset: int, end: int) -> tuple[Header, int]:
        """Return the header, and where the record ends, given its first bytes."""
        if len(first_bytes) == _HEADER_AND_LABEL:
            kind, length = self._frame(first_bytes, 0, offset)
            stop = offset + _FRAME.size + length
            if kind == _WHOLE and stop <= end:
                count, label, id, _ = self._unpacked(first_bytes[_FRAME.size :], offset, length)
                if count:
                    (label,) = struct.unpack_from("<f", first_bytes, _FRAME.size + _HEADER.size)
                return Header(label, id, length - _HEADER.size - 4 * count), stop + -length % 4
        _, stop = self._payload(offset, end)
        record = self.read(offset, end)
        return Header(float(record.labels[0]), record.id, len(record.image)), stop

    def _payload(self, offset: int, end: int) -> tuple[bytes, int]:
        """Return the record's payload put together, and where the record ends."""
        data, position = self._bytes(offset, min(_AT_ONCE, end - offset)), 0
        pieces: list[bytes] = []
        while True:
            if position + _FRAME.size > len(data):
                data = self._more(data, offset, position + _FRAME.size, end)
            kind, length = self._frame(data, position, offset)
            if kind not in ((_MIDDLE, _LAST) if pieces else (_WHOLE, _FIRST)):
                raise self.error(offset + position, f"a piece of kind {kind} where none can be")
            start, position = position + _FRAME.size, position + _FRAME.size + length
            if position > len(data):
                data = self._more(data, offset, position, end)
            pieces.append(data[start:position])
            position += -length % 4
            if kind in (_WHOLE, _LAST):
                return _MAGIC.join(pieces), offset + position

    def _more(self, data: bytes, offset: int, needed: int, end: int) -> bytes:
        """Return at least `needed` bytes from `offset` on, more than were read already."""
        if offset + needed > end:
            limit = "the file" if end == self.size else "its place in the index"
            raise self.error(offset, f"a record of {needed} bytes or more, of which {end - offset} are before the end of {limit}")
        # Twice as many: a record of many pieces would be read again for each.
        return self._bytes(offset, min(end - offset, max(needed, 2 * len(data))))

    def _bytes(self, offset: int, count: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), count, offset)
        except OSError as error:
            raise self.error(offset, f"cannot be read ({error.strerror or error})") from error
        if len(data) < count:
            raise self.error(offset, f"the file ends {count - len(data)} bytes earlier than when it was opened")
        return data

    def _frame(self, data: bytes, position: int, offset: int) -> tuple[int, int]:
        magic, word = _FRAME.unpack_from(data, position)
        if magic != _MAGIC:
            raise self.error(offset + position, "no record begins here")
        return word >> 29, word & _MAX_PIECE

    def _unpacked(self, payload: bytes, offset: int, length: int | None = None) -> tuple[int, float, int, int]:
        """Return the header's fields, given the payload or, with its length, the payload's first bytes."""
        length = len(payload) if length is None else length
        if length < _HEADER.size:
            raise self.error(offset, f"a record of {length} bytes, less than the header of an image record")
        fields = _HEADER.unpack_from(payload)
        if _HEADER.size + 4 * fields[0] > length:
            raise self.error(offset, f"a record of {length} bytes claims {fields[0]} labels")
        return fields
