"""Merge datasets of training images, in whichever layouts, into one.

    python datasets/merge.py --sources MS1M_v2 mine --output both/train.rec --without MS1M_v2/lfw.bin
    python datasets/merge.py --sources MS1M_v2 mine --output both --mapping same_people.txt

The identities of the second source are numbered after those of the first, and so on; the images are ordered by identity. The
same identity in several sources is joined by one or both of

    --same_names           equal names, of folders or in a names.txt of lines 'label<TAB>name'
    --mapping FILE         lines 'source<TAB>label<TAB>new label': the identity with this label in the second source (2), third
                           (3), ... is one of an earlier source, whose label in the output is the new label

--without leaves out identities with an image that is, byte for byte, in a verification set: the labels of the others close up.

Nothing is overwritten. An interrupted run leaves OUTPUT.partial, and the same command resumes there.
"""

from arcface.command import run
from arcface.data.merge import MergeOptions, merge
from arcface.options.command_line import parse


def main(arguments: list[str] | None = None) -> None:
    options = parse(MergeOptions, arguments, __doc__ or "")
    print(merge(options))


def command() -> None:
    """`arcface-merge`, and datasets/merge.py."""
    run(main)


if __name__ == "__main__":
    command()
