"""Writes folders of identities."""

from pathlib import Path


def write_folder(directory: Path, counts: dict[str, int]) -> Path:
    """Write <identity>/0.jpg, 1.jpg, ... of no image, so many of each identity, and return the directory."""
    for identity, images in counts.items():
        (directory / identity).mkdir(parents=True)
        for number in range(images):
            (directory / identity / f"{number}.jpg").write_bytes(b"image")
    return directory
