"""Lists of verification pairs: LFW's pairs.txt, and lines 'path<TAB>path<TAB>0 or 1'.

LFW's format is section 3c of http://vis-www.cs.umass.edu/lfw/README.txt. Its first line counts: '10<TAB>300' for ten
folds of 300 pairs of one identity and 300 of two, or '1100', without folds, in pairsDevTrain.txt. Then
'Name<TAB>1<TAB>4' pairs two images of one identity, and 'Name<TAB>1<TAB>Other_Name<TAB>2' images of two identities.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from arcface.data.bin_file import check_both_kinds
from arcface.errors import UserError
from arcface.io.text import shown

_LFW_SUFFIXES = (".jpg", ".png")  # LFW's list names none; aligned crops are often PNG
_NUMBER = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True)
class PairList:
    """The pairs of a list, in its order.

    Attributes:
        file: the list, for messages.
        paths: 2n paths below the image directory; paths[2 * i] and paths[2 * i + 1] are pair i.
        is_same: whether pair i shows one identity.
        lines: the line of pair i, from 1.
        suffixes: what the paths lack; the first that makes a path a file counts.
    """

    file: Path
    paths: list[str]
    is_same: list[bool]
    lines: list[int]
    suffixes: tuple[str, ...]

    def find_images(self, directory: str | Path, may_miss: int = 0, option: str = "--images") -> list[Path | None]:
        """Return the 2n image files below `directory`, None for up to `may_miss` images that are missing.

        Raises a UserError that counts all that are missing, if these are more; `option` is the one that named the directory.
        """
        directory = Path(directory)
        if not os.path.isdir(directory):
            raise UserError(f"{directory}: no such directory; correct {option}")
        found = {path: self._find(directory, path) for path in dict.fromkeys(self.paths)}
        missing = [path for path, file in found.items() if file is None]
        if len(missing) > may_miss:
            allowed = f", {may_miss} may be" if may_miss else ""
            line = self.lines[self.paths.index(missing[0]) // 2]
            if (with_slashes := missing[0].replace("\\", "/")) != missing[0] and self._find(directory, with_slashes):
                raise UserError(
                    f"{self.file} line {line}: {missing[0]}: no such file in {directory}, but {with_slashes} exists:"
                    " replace the backslashes in the list by slashes"
                )
            raise UserError(
                f"{self.file} line {line}: {missing[0]}{' or '.join(self.suffixes)}: no such file in {directory}"
                f" ({len(missing)} of {len(found)} images are missing{allowed}); correct {option}, restore the files, or"
                f" {f'leave out their pairs with --skip_missing {len(missing)}' if option == '--images' else 'remove their lines'}"
            )
        return [found[path] for path in self.paths]

    def _find(self, directory: Path, path: str) -> Path | None:
        candidates = (directory / (path + suffix) for suffix in self.suffixes)
        return next((file for file in candidates if os.path.isfile(file)), None)


def read_pairs(path: str | Path, option: str = "--pairs") -> PairList:
    """Read a list of pairs; LFW's is recognised by its first line, which is one or two numbers there.

    In the other format, tabs or white space separate the two paths and the flag, 1 for one identity; with tabs, a
    path may contain spaces. Blank lines, lines that begin with '#', a byte-order mark and CR-LF are accepted.

    Raises:
        UserError: no such file, with the `option` that named it; a line that is wrong, named by its number, or whose path
            leaves the image directory; other counts than the first line says; no pairs, or pairs of one kind only.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; pass the list of pairs with {option}") from error
    lines = [
        (number, line.strip())
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1)
        if line.strip() and not line.lstrip().startswith(b"#")
    ]
    header = lines[0][1].split() if lines else []
    is_lfw = 1 <= len(header) <= 2 and all(map(_NUMBER.fullmatch, header))
    parsed = [(number, *_parse(line, is_lfw, f"{path} line {number}")) for number, line in (lines[1:] if is_lfw else lines)]
    if not parsed:
        raise UserError(f"{path}: lists no pairs; each line is 'path<TAB>path<TAB>0 or 1', or the list is LFW's pairs.txt")
    pairs = PairList(
        file=path,
        paths=[os.fsdecode(image) for _, *images, _ in parsed for image in images],
        is_same=[is_same for *_, is_same in parsed],
        lines=[number for number, *_ in parsed],
        suffixes=_LFW_SUFFIXES if is_lfw else ("",),
    )
    if is_lfw:
        _check_counts(pairs, [int(count) for count in header], lines[0][0])
    check_both_kinds(path, pairs.is_same)
    return pairs


def _parse(line: bytes, is_lfw: bool, where: str) -> tuple[bytes, bytes, bool]:
    try:
        return _lfw_pair(line) if is_lfw else _path_pair(line)
    except ValueError as error:
        raise UserError(f"{where}: '{shown(line)}' {error}; correct or remove the line") from error


def _lfw_pair(line: bytes) -> tuple[bytes, bytes, bool]:
    """Return both paths, without a suffix, and whether they show one identity; raises ValueError with the complaint."""
    match line.split():
        case [name, first, second]:
            other = name
        case [name, first, other, second] if name != other:
            pass
        case [_, _, _, _]:
            raise ValueError("names one identity twice, but the form of two identities")
        case _:
            raise ValueError("is neither 'Name<TAB>1<TAB>4' nor 'Name<TAB>1<TAB>Other_Name<TAB>2'")
    for image in first, second:
        if not _NUMBER.fullmatch(image):
            raise ValueError(f"has '{os.fsdecode(image[:20])}' in the place of an image's number")
    return _lfw_path(name, int(first)), _lfw_path(other, int(second)), name == other


def _lfw_path(name: bytes, number: int) -> bytes:
    return _inside(b"%b/%b_%04d" % (name, name, number))


def _path_pair(line: bytes) -> tuple[bytes, bytes, bool]:
    """As `_lfw_pair`, for the format of two paths and a flag."""
    fields = [field.strip() for field in line.split(b"\t")] if b"\t" in line else line.split()
    if len(fields) != 3 or not all(fields):
        raise ValueError("is not two paths and 0 or 1 (with tabs between them if a path has spaces)")
    first, second, is_same = fields
    if is_same not in (b"0", b"1"):
        raise ValueError("does not end with 0 or 1 (an LFW list begins with its counts, such as 10<TAB>300)")
    return _inside(first), _inside(second), is_same == b"1"


def _inside(path: bytes) -> bytes:
    """The path; raises ValueError if it is one that leaves the directory that it starts from."""
    parts = Path(os.fsdecode(path))
    if parts.anchor or ".." in parts.parts:
        raise ValueError("has a path that leaves the image directory")
    return path


def _check_counts(pairs: PairList, header: list[int], line: int) -> None:
    expected = header[0] * header[1] if len(header) == 2 else header[0]
    positives = sum(pairs.is_same)
    if (positives, len(pairs.is_same) - positives) != (expected, expected):
        raise UserError(
            f"{pairs.file} line {line}: announces {expected} pairs of one identity and {expected} of two, but {positives} and"
            f" {len(pairs.is_same) - positives} follow; the list is cut off or was edited: download it again or correct the line"
        )
