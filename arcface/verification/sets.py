"""The verification sets that --val_targets names: .bin files of pairs, and directories of an IJB-style protocol."""

import os
from pathlib import Path

from arcface.config import TemplateOptions, VerificationOptions
from arcface.data.bin_file import VerificationSet, read_bin
from arcface.errors import UserError
from arcface.verification.ijb import IjbProtocol, read_protocol


def read_bin_sets(options: VerificationOptions) -> list[VerificationSet]:
    """Read the .bin files of a training run, [] where it verifies nothing; no image is decoded.

    Raises:
        UserError: a file is missing or is not such a set; where it is missing, the message says how to train without it.
    """
    return [_read_bin_or_do_without(file) for file in options.val_files]


def read_sets(options: VerificationOptions, templates: TemplateOptions) -> list[VerificationSet | IjbProtocol]:
    """Read each .bin file or, where there is none of that name, the directory of that name as an IJB-style protocol.

    Raises:
        UserError: a set is missing or damaged, or it lacks the detector scores that `templates` uses.
    """
    return [read_set(file, templates) for file in options.val_files]


def read_set(file: Path, templates: TemplateOptions) -> VerificationSet | IjbProtocol:
    """Read one of the sets of `read_sets`; `file` is the .bin file, which need not exist."""
    directory = file.with_suffix("")
    if os.path.exists(file) or not os.path.isdir(directory):
        return read_bin(file)
    protocol = read_protocol(directory)
    if templates.template_detector_score and protocol.detector_scores is None:
        raise UserError(
            f"{directory}: has no detector scores (meta/{protocol.name}_name_5pts_score.txt);"
            " add the file, or leave them out with --template_detector_score 0"
        )
    return protocol


def _read_bin_or_do_without(file: Path) -> VerificationSet:
    try:
        return read_bin(file)
    except UserError as error:
        if os.path.lexists(file):
            raise
        raise UserError(f"{error}, or train without verification: --val_targets ''") from error
