"""Export a trained backbone for other runtimes: paddle.inference, ONNX or OpenVINO.

    python -m arcface.export --network MobileFaceNet_128 --checkpoint emore_arcface --output exported --format onnx

The model takes a batch of any number of images, called "images", [n, 3, 112, 112], RGB, and gives "embeddings", float32
[n, embedding_size]. Batch norm is folded into the convolutions before it. With --uint8_input the images are pixels, which the
model normalises by itself; with --normalize the embeddings have length 1.

Beside the model, export.json says what it takes and gives, and of which weights it was made; ONNX and OpenVINO files contain the
same. Every exported model is run at batches 1 and 7, and compared with the checkpoint: nothing is written if they differ.
"""

import signal

from arcface.command import run
from arcface.config import ExportOptions, parse
from arcface.system.startup import start_paddle


def main(arguments: list[str] | None = None) -> None:
    options = parse(ExportOptions, arguments, __doc__ or "")
    start_paddle()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half written goes, as after Ctrl-C
    from arcface.inference.checkpoint_export import export_checkpoint  # imports Paddle, which --help need not wait for

    print(export_checkpoint(options))


def command() -> None:
    """`arcface-export`."""
    run(main)


if __name__ == "__main__":
    command()
