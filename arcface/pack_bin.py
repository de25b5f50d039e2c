"""Pack aligned face crops and a list of pairs into one verification file, InsightFace's .bin.

    python datasets/pack_bin.py --images lfw_112x112 --pairs pairs.txt --output MS1M_v2/lfw.bin
    python valid.py --checkpoint emore_arcface --data_dir MS1M_v2 --val_targets lfw

The images are 112x112 crops, aligned as the training images are; their files are stored in the .bin unchanged. The
list of pairs is either

    LFW's pairs.txt           for images lfw_112x112/Abel_Pacheco/Abel_Pacheco_0001.jpg (or .png): its first line
                              counts, as 10<TAB>300 does, then Abel_Pacheco<TAB>1<TAB>4 pairs two images of one
                              person and Abdel_Madi_Shabneh<TAB>1<TAB>Dean_Barker<TAB>1 images of two people
    lines path path 0|1       for any other layout: two files in --images, 1 if they show one person;
                              a/1.jpg<TAB>a/2.jpg<TAB>1, with tabs if a path has spaces; '#' begins a comment

Missing images are an error. --skip_missing N leaves out the pairs of up to N images, such as those without a face that a
detector finds, and lists the images in FILE.missing.txt, with the lines of --pairs that show them.

The pairs keep their order. Accuracy is measured in ten folds of consecutive pairs: each tenth of the list should
contain both kinds of pairs, and people that no other tenth has, as in LFW's. Where pairs are left out, later ones move up, some
into the fold before: the accuracy then compares only with that of sets that lack the same pairs.
"""

from arcface.command import run
from arcface.options.command_line import parse
from arcface.verification.pack_bin import PackOptions, pack_bin


def main(arguments: list[str] | None = None) -> None:
    options = parse(PackOptions, arguments, __doc__ or "")
    print(*pack_bin(options), sep="\n")


def command() -> None:
    """`arcface-pack-bin`, and datasets/pack_bin.py."""
    run(main)


if __name__ == "__main__":
    command()
