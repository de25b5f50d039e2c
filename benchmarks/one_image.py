"""How long one face takes with each engine, in milliseconds: what a camera or a door waits for.

    python benchmarks/one_image.py [--images 100]

MobileFaceNet_128 with random weights, a batch of one image at a time, all threads of the process. The engines take turns of
ten images, with a pause before each: threads of one engine go on spinning for a while and would slow the next. Prints the
medians and their ratios to ONNX Runtime's, on the same graph.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arcface.system.startup import start_paddle, threads  # noqa: E402

start_paddle()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from arcface.backbones import create_backbone  # noqa: E402
from arcface.inference.engines import open_engine  # noqa: E402

ENGINES = ["openvino", "paddle-inference", "onnxruntime", "paddle"]
TURN, PAUSE = 10, 0.5  # images; seconds
AGREE = 1e-4  # of an embedding's length, which random weights make large or small
REFERENCE, WARM_UP, NETWORK, EMBEDDING_SIZE = "onnxruntime", 5, "MobileFaceNet_128", 128


def timed(embed: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the embedding and the milliseconds that it took."""
    began = time.perf_counter()
    embedding = embed(image)
    return embedding, (time.perf_counter() - began) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="that count, for each engine (default: %(default)s)")
    options = parser.parse_args()
    paddle.set_device("cpu")
    paddle.seed(0)
    backbone = create_backbone(NETWORK, EMBEDDING_SIZE)
    turns = -(-options.images // TURN)
    images = np.random.default_rng(0).integers(0, 256, (turns, WARM_UP + TURN, 1, 3, 112, 112), np.uint8)
    milliseconds = {engine: [] for engine in ENGINES}
    with ExitStack() as opened:
        embeds = {engine: opened.enter_context(open_engine(engine, backbone, NETWORK, EMBEDDING_SIZE)) for engine in ENGINES}
        for turn in images:
            results = {}
            for engine, embed in embeds.items():
                time.sleep(PAUSE)
                results[engine], taken = zip(*(timed(embed, image) for image in turn), strict=True)
                milliseconds[engine] += taken[WARM_UP:]
            expected = np.array(results["paddle"])
            difference = max(np.abs(np.array(result) - expected).max() for result in results.values())
            if difference > AGREE * np.linalg.norm(expected, axis=-1).min():
                raise SystemExit("the engines disagree")
    medians = {engine: statistics.median(taken) for engine, taken in milliseconds.items()}
    print(f"{os.cpu_count()} cores, {threads()} threads, paddlepaddle {paddle.__version__}; median of {turns * TURN} images")
    for engine, median in medians.items():
        print(f"{engine:18} {median:7.2f} ms   {median / medians[REFERENCE]:.2f} of the time of {REFERENCE}")


if __name__ == "__main__":
    main()
