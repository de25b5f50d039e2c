"""Convert a dataset of training images between its layouts; the images' bytes, their order and labels stay the same.

    python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec
    python datasets/convert.py --source ms1m/train.rec --output MS1M_folders --layout folder
    python datasets/convert.py --source MS1M_v2/some.txt --output MS1M_v2/relabelled.txt --relabel

The source is what train.py takes as --data_dir: a directory with label.txt, with train.rec or with a folder for each identity,
or a list (.txt, .lst, .csv, .parquet) or .rec file itself. Names of identities, from folders or a names.txt of lines
'label<TAB>name', are written to a names.txt; they name the folders if their order is that of the labels. In folders the images
are ordered by label.

Labels must be 0, 1, ... without a gap. With --relabel they may be any whole numbers from 0 up: identities keep their order and
are numbered anew, and old_labels.txt, of lines 'label<TAB>old label', says which was which. An output NAME.txt, beside the
source's list, is then a list only: the same paths with the new labels.

Nothing is overwritten. An interrupted run leaves OUTPUT.partial, and the same command resumes there.
"""

from arcface.command import run
from arcface.data.convert import ConvertOptions, convert
from arcface.options.command_line import parse


def main(arguments: list[str] | None = None) -> None:
    options = parse(ConvertOptions, arguments, __doc__ or "")
    print(convert(options))


def command() -> None:
    """`arcface-convert`, and datasets/convert.py."""
    run(main)


if __name__ == "__main__":
    command()
