"""Align photos of faces to the 112x112 ArcFace template, which training and verification expect.

    python datasets/align.py --images photos --landmarks landmarks.txt --output photos_112x112
    python datasets/align.py --images photos --detector face_detection_yunet_2023mar.onnx --output photos_112x112

The five landmarks are the eyes (the one on the left of the image first), the tip of the nose and the corners of the mouth,
in pixels. They come from one of

    --landmarks FILE.txt   lines 'path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5', the path in --images; '#' begins a comment
    --detector FILE.onnx   a YuNet model for OpenCV (opencv_zoo has it); of several faces the one that is large and near
                           the middle is used: the greatest area less twice the squared distance of the centres

If the first 100 faces of a list do not fit the template, nothing is written and the order of the numbers that would fit is
named. A face whose landmarks do not fit gets no crop. --unchecked uses all landmarks as they are.

A crop has the path of its photo, with the ending .jpg (or .png with --format png). Existing crops are kept, so the same
command resumes after an interruption. Photos without a crop are listed in OUTPUT/not_aligned.txt.
"""

from arcface.command import run
from arcface.data.align_photos import AlignOptions, align_photos
from arcface.options.command_line import parse


def main(arguments: list[str] | None = None) -> None:
    options = parse(AlignOptions, arguments, __doc__ or "")
    print(align_photos(options))


def command() -> None:
    """`arcface-align`, and datasets/align.py."""
    run(main)


if __name__ == "__main__":
    command()
