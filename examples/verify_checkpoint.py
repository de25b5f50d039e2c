"""Verify a checkpoint on InsightFace .bin sets, such as lfw.bin, as valid.py does.

    python examples/verify_checkpoint.py CHECKPOINT SET.bin ...

prints a line a set: "lfw: accuracy 0.99333 +- 0.00441, mean norm 10.55, 6000 pairs".
"""

import sys

import arcface


def main() -> None:
    if len(sys.argv) < 3:
        raise arcface.UserError("usage: verify_checkpoint.py CHECKPOINT SET.bin ...")
    checkpoint, *files = sys.argv[1:]
    with arcface.open_embedder(checkpoint) as embed:
        for pairs in map(arcface.read_bin, files):
            result = arcface.verify(embed, pairs)
            mean, std = result.accuracy.mean, result.accuracy.std
            print(f"{pairs.name}: accuracy {mean:.5f} +- {std:.5f}, mean norm {result.xnorm:.2f}, {len(pairs.is_same)} pairs")


if __name__ == "__main__":
    arcface.run(main)
