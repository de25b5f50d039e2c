#!/usr/bin/env python3
"""Align photos of faces to the 112x112 ArcFace template, which training and verification expect.

    python datasets/align.py --images photos --landmarks landmarks.txt --output photos_112x112
    python datasets/align.py --images photos --detector face_detection_yunet_2023mar.onnx --output photos_112x112

--help says all. `arcface-align` is the same command; arcface/data/align_photos.py has its logic.
"""

import sys

try:
    from arcface.align import command
except ModuleNotFoundError as error:
    if error.name != "arcface":
        raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    command()
