#!/usr/bin/env python3
"""Align photos of faces to the 112x112 ArcFace template, which training and verification expect.

    python datasets/align.py --images photos --landmarks landmarks.txt --output photos_112x112
    python datasets/align.py --images photos --detector face_detection_yunet_2023mar.onnx --output photos_112x112

--help says all. `arcface-align` is the same command; arcface/data/align_photos.py has its logic.
"""

from hand_over import command_of

if __name__ == "__main__":
    command_of("align")()
