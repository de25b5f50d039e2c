"""The size of an encoded image by its header: what is known before memory is spent on its pixels."""

import re
import struct

_MARKER = re.compile(rb"\xff([^\x00\xff])")  # of a JPEG; libjpeg skips what stands before it, too
# JPEG markers that begin a frame and hold its size (SOF0 to SOF15) but for those among their numbers that do not: DHT, JPG, DAC.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # JPEG markers that stand alone: TEM, RST0 to RST7, SOI
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TYPES = {3: "H", 4: "L"}


def image_size(encoded: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels, as they are stored, of a JPEG, PNG, WebP, BMP, GIF or TIFF.

    None for another format, and where the header is damaged: a decoder has to say what is wrong with those.
    """
    try:
        if encoded.startswith(b"\xff\xd8"):
            return _jpeg(encoded)
        if encoded.startswith(b"\x89PNG"):
            return struct.unpack_from(">II", encoded, 16)
        if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
            return _webp(encoded)
        if encoded.startswith(b"GIF8"):
            return struct.unpack_from("<HH", encoded, 6)
        if encoded.startswith(b"BM"):
            return _bmp(encoded)
        if encoded.startswith((b"II*\0", b"MM\0*")):
            return _tiff(encoded)
    except (struct.error, KeyError):  # the header ends early, or lacks what it must have
        pass
    return None


def _jpeg(encoded: bytes) -> tuple[int, int] | None:
    at = 2
    while found := _MARKER.search(encoded, at):
        (marker,), at = found[1], found.end()
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", encoded, at + 3)
            return width, height
        if marker not in _WITHOUT_LENGTH:
            at += struct.unpack_from(">H", encoded, at)[0]
    return None


def _webp(encoded: bytes) -> tuple[int, int] | None:
    kind = encoded[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low, middle, high = struct.unpack_from("<HHH", encoded, 24)
        return (low | (middle & 0xFF) << 16) + 1, (middle >> 8 | high << 8) + 1
    return None


def _bmp(encoded: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", encoded, 14) == (12,):  # OS/2's header
        return struct.unpack_from("<HH", encoded, 18)
    width, height = struct.unpack_from("<ii", encoded, 18)
    return abs(width), abs(height)  # rows from top to bottom have a negative height


def _tiff(encoded: bytes) -> tuple[int, int]:
    order = "<" if encoded.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", encoded, 4)
    (entries,) = struct.unpack_from(f"{order}H", encoded, start)
    found = {}
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", encoded, at)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            (found[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], encoded, at + 8)
    return found[_TIFF_WIDTH], found[_TIFF_HEIGHT]
