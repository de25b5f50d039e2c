"""Draw a small dataset of cartoon faces, to see a training work on a laptop without any real data.

    python datasets/demo.py                       # 100 identities x 20 images and 600 pairs, in datasets/demo
    python datasets/demo.py --output /tmp/faces --identities 5000 --num_workers 8

It writes what a real dataset has, in the same formats:

    images/00000000.jpg ...   112x112 RGB JPEG files
    label.txt                 a line for each of them: images/00000000.jpg<TAB>0
    demo.bin                  verification pairs of identities that are not in images/, in InsightFace's format: a
                              pickle of (jpegs, issame), pair i being the files jpegs[2i] and jpegs[2i + 1]
    demo.json                 the options that made it

An identity is the shapes and colours of a face; an image adds pose, light, expression, background, noise and at
times sunglasses, a cap or a hand. The same options give the same bytes, whatever the number of processes;
another version of numpy or OpenCV rounds a few pixels differently.
"""

from arcface.command import run
from arcface.data.synthetic import DemoOptions, make_demo
from arcface.options.command_line import parse


def main(arguments: list[str] | None = None, default_output: str | None = None) -> None:
    options = parse(DemoOptions, arguments, __doc__ or "")
    options.output = options.output or default_output
    print(make_demo(options))


def command(default_output: str | None = None) -> None:
    """`arcface-demo`, and datasets/demo.py, whose default output lies beside it."""
    run(lambda: main(default_output=default_output))


if __name__ == "__main__":
    command()
