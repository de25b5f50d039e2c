"""Embed images into one file, with the backbone of a checkpoint.

    python -m arcface.embed crops_112x112 --checkpoint emore_arcface --output features.npz
    python -m arcface.embed photos --checkpoint emore_arcface --output features.parquet --detector face_detection_yunet_2023mar.onnx

IMAGES is the first of these that fits:

    a folder           its label.txt, else its train.rec or train.lst, else all images below it, sorted by path
    NAME.bin           a verification set
    NAME.rec .lst ...  a dataset, as train.py takes --data_dir; also .csv and .parquet
    NAME.txt           a list: a path a line, relative to the list, or a path, a tab and a label
    anything else      one image

Images are 112x112 crops, aligned as the training images are; with --detector they are photos, whose faces are found and aligned.

OUTPUT is NAME.npz, with arrays `embeddings` (float32 [n, D], each of length 1), `paths` and, if they are known, `labels`; or
NAME.parquet, with columns of these names; or NAME.npy, the embeddings alone, with paths.txt (and labels.txt) beside it. Images
that cannot be read or show no face are listed in OUTPUT.unreadable.txt.

Until all is done, OUTPUT.partial contains what is ready, and the same command resumes there. Several processes divide the work:

    python -m paddle.distributed.launch --nproc_per_node 2 python -m arcface.embed ...
"""

from arcface.command import run
from arcface.config import EmbedConfig, parse
from arcface.system.startup import start_paddle


def main() -> None:
    config = parse(EmbedConfig, description=__doc__ or "")
    start_paddle()
    from arcface.inference.embed_images import embed_images  # imports Paddle, which --help need not wait for

    if line := embed_images(config):
        print(line)


def command() -> None:
    """`arcface-embed`."""
    run(main)


if __name__ == "__main__":
    command()
