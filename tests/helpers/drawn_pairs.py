"""Crops of drawn identities, and a verification set of them."""

from pathlib import Path

from arcface.data.bin_file import write_bin
from arcface.data.drawn_faces import draw_identity


def write_drawn_pairs(folder: Path) -> None:
    """Write two crops of each of ten identities, 0_0.jpg, 0_1.jpg, 1_0.jpg, ..., and drawn.bin with 20 pairs of them."""
    drawn = [draw_identity((0, 0, identity, 2)) for identity in range(10)]
    for identity, crops in enumerate(drawn):
        for number, crop in enumerate(crops):
            (folder / f"{identity}_{number}.jpg").write_bytes(crop)
    pairs = [pair for i in range(10) for pair in ((drawn[i][0], drawn[i][1]), (drawn[i][0], drawn[(i + 1) % 10][1]))]
    write_bin(folder / "drawn.bin", [image for pair in pairs for image in pair], [True, False] * 10)
