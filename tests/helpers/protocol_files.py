"""Writes directories of a small template-based protocol."""

from pathlib import Path

import pytest

from arcface.data.alignment import TEMPLATE
from arcface.errors import UserError

LIST = "1.jpg 10 7\n2.jpg 10 7\n3.jpg 10 8\n4.jpg 20 7\n5.jpg 30 9\n6.jpg 30 9\n7.jpg 40 1\n"
PAIRS = "10 20 1\n10 30 0\n20 30 0\n30 40 1\n20 40 0\n10 40 0\n"


def landmark_lines(names=range(1, 8), points=TEMPLATE, score=0.5) -> str:
    return "".join(f"{name}.jpg {' '.join(map(str, points.ravel()))} {score}\n" for name in names)


def write(folder: Path, listed=LIST, pairs=PAIRS, landmarks=None, images="images", prefix="ijbx") -> Path:
    directory = folder / "IJB-X"
    (directory / "meta").mkdir(parents=True, exist_ok=True)
    contents = {"face_tid_mid": listed, "template_pair_label": pairs, "name_5pts_score": landmarks}
    for name, content in contents.items():
        if content is not None:
            (directory / "meta" / f"{prefix}_{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    if images:
        (directory / images).mkdir(exist_ok=True)
        for name in range(1, 8):
            (directory / images / f"{name}.jpg").touch()
    return directory


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
