"""Writes directories in TinyFace's layout."""

from pathlib import Path

import numpy as np

GALLERY = {"1_1.png": 1, "1_2.png": 1, "2_1.png": 2, "3_1.png": 3}
PROBES = {"1_3.png": 1, "2_2.png": 2, "3_2.png": 3}
DISTRACTORS = ("d1.png", "below/d2.png")


def write_mat(file: Path, kind: str, identities: dict[str, int]) -> None:
    from scipy.io import savemat

    names = np.empty((len(identities), 1), object)
    names[:, 0] = list(identities)
    savemat(file, {f"{kind}_set": names, f"{kind}_ids": np.array([[one] for one in identities.values()], np.uint16)})


def write_tinyface(directory: Path, contents=lambda name: b"image", gallery=GALLERY, probes=PROBES) -> Path:
    """Write the lists, and each image with the bytes that `contents` gives for its name."""
    directory.mkdir(parents=True)
    write_mat(directory / "gallery_match_img_ID_pairs.mat", "gallery", gallery)
    write_mat(directory / "probe_img_ID_pairs.mat", "probe", probes)
    for folder, names in (("Gallery_Match", gallery), ("Gallery_Distractor", DISTRACTORS), ("Probe", probes)):
        for name in names:
            (directory / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / folder / name).write_bytes(contents(name))
    return directory
