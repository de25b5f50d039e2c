"""The sets that --val_targets names: .bin files, folders and lists of pairs, and the protocols of IJB and TinyFace."""

import os
from pathlib import Path

import numpy as np

from arcface.config import ListedPairs, TemplateOptions, VerificationOptions, name_of_set
from arcface.data.bin_file import read_bin, refuse_bcolz
from arcface.data.photos import CropReader
from arcface.data.verification_set import VerificationSet
from arcface.errors import UserError
from arcface.verification.folder_pairs import read_folder
from arcface.verification.ijb import IjbProtocol, read_protocol
from arcface.verification.pair_lists import read_pairs
from arcface.verification.tinyface import TinyFace, find_tinyface, read_tinyface

TargetSet = VerificationSet | IjbProtocol | TinyFace


def read_pair_sets(options: VerificationOptions) -> list[VerificationSet]:
    """Read the sets of pairs of a training run, [] where it verifies nothing; no image is decoded.

    Raises:
        UserError: a set is missing, damaged or not one of pairs; where it is missing, the message says how to train without it.
    """
    return [_read_pairs_or_do_without(target, options) for target in options.val_files]


def read_sets(options: VerificationOptions, templates: TemplateOptions) -> list[TargetSet]:
    """Read each set.

    Raises:
        UserError: a set is missing or damaged, or it lacks the detector scores that `templates` uses.
    """
    sets = [read_set(target, options) for target in options.val_files]
    for one in sets:
        if isinstance(one, IjbProtocol) and templates.template_detector_score and one.detector_scores is None:
            raise UserError(
                f"{one.directory.parent}: has no detector scores (meta/{one.name}_name_5pts_score.txt);"
                " add the file, or leave them out with --template_detector_score 0"
            )
    return sets


def read_set(target: Path | ListedPairs, options: VerificationOptions) -> TargetSet:
    """Read one of `options.val_files`. Of these kinds the first that fits counts:

    1. NAME.bin is a file: InsightFace's verification format.
    2. NAME is a directory with meta/: an IJB-style protocol.
    3. NAME or NAME/Testing_Set has Gallery_Match/ and Probe/: TinyFace's layout.
    4. NAME is another directory: a folder of identities, which are paired by rule.
    5. LIST=FOLDER: a list of pairs, and the folder of their images.

    Raises UserError if it is missing or damaged.
    """
    name = name_of_set(target)
    if isinstance(target, ListedPairs):
        return _read_listed(target, name, CropReader(options.detector))
    directory = _directory_of(target)
    if not directory:
        return read_bin(target)
    if _has_meta(directory):
        return read_protocol(directory)
    if tinyface := find_tinyface(directory):
        return read_tinyface(tinyface, name)
    return read_folder(directory, name, CropReader(options.detector))


def _directory_of(target: Path) -> Path | None:
    """Return the directory that NAME.bin stands for, where there is no such file; None otherwise."""
    directory = target.with_suffix("")
    if os.path.exists(target) or not os.path.isdir(directory):
        return None
    refuse_bcolz(directory)
    return directory


def _has_meta(directory: Path) -> bool:
    return os.path.isdir(directory / "meta")


def _read_listed(target: ListedPairs, name: str, reader: CropReader) -> VerificationSet:
    option = "--val_targets LIST=FOLDER"
    pairs = read_pairs(target.pairs, option)
    files = [file for file in pairs.find_images(target.images, option=option) if file]  # all are found
    is_same = np.array(pairs.is_same)
    kind = f"{target.pairs} lists {is_same.sum():,} pairs of one identity and {(~is_same).sum():,} of two in {target.images}"
    return VerificationSet(name, files, is_same, kind=kind, reader=reader)


def _read_pairs_or_do_without(target: Path | ListedPairs, options: VerificationOptions) -> VerificationSet:
    directory = _directory_of(target) if isinstance(target, Path) else None
    if directory and (_has_meta(directory) or find_tinyface(directory)):
        raise UserError(
            f"{target}: cannot be read (No such file or directory), and {directory} is a protocol, which only valid.py verifies;"
            " leave it out of --val_targets"
        )
    try:
        found = read_set(target, options)
    except UserError as error:
        file = target.pairs if isinstance(target, ListedPairs) else target
        if directory or os.path.lexists(file):
            raise
        raise UserError(f"{error}, or train without verification: --val_targets ''") from error
    assert isinstance(found, VerificationSet)
    return found
