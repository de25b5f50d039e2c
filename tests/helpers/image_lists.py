"""Data sets that tests write image by image."""

from pathlib import Path


def write_list(directory: Path, labels, contents) -> Path:
    """Write images/<number>.jpg with these contents, whatever they are, and label.txt; returns the directory."""
    (directory / "images").mkdir(parents=True)
    lines = []
    for number, (label, content) in enumerate(zip(labels, contents, strict=True)):
        (directory / "images" / f"{number}.jpg").write_bytes(content)
        lines.append(f"images/{number}.jpg\t{label}\n")
    (directory / "label.txt").write_text("".join(lines))
    return directory
