"""Embed two faces, aligned 112x112 crops, and print their cosine similarity.

    python examples/embed_and_compare.py CHECKPOINT FACE FACE

prints "cosine similarity 0.7312": the higher, the more likely it is that both show the same identity. Which threshold gives
which false accept rate, `valid.py --report` says.
"""

import sys

import arcface


def main() -> None:
    if len(sys.argv) != 4:
        raise arcface.UserError("usage: embed_and_compare.py CHECKPOINT FACE FACE")
    checkpoint, *faces = sys.argv[1:]
    with arcface.Embedder(checkpoint, "MobileFaceNet_128", embedding_size=128) as embedder:
        first, second = embedder(faces)
    print(f"cosine similarity {arcface.cosine(first, second):.4f}")


if __name__ == "__main__":
    arcface.run(main)  # a mistake in the files is one line and exit code 2, as with the commands
