"""The gallery and probe lists of a 1:N identification of templates, such as IJB-B's and IJB-C's."""

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arcface.errors import UserError
from arcface.verification.list_lines import is_number, numbered_lines, wrong_line


class TemplateList(NamedTuple):
    """Templates, int64 [t], ascending, and the identity of each, int64 [t]."""

    templates: np.ndarray
    identities: np.ndarray


class SearchLists(NamedTuple):
    """The probes, and the galleries in each of which all probes are searched."""

    probes: TemplateList
    galleries: list[TemplateList]


def read_search_lists(directory: Path, name: str, known: np.ndarray) -> SearchLists | None:
    """Read the lists of a 1:N identification from a protocol's meta/; None where it has no such lists.

        <name>_1N_gallery_*.csv   each a gallery; IJB-C has G1 and G2, IJB-B has S1 and S2
        <name>_1N_probe_mixed.csv   the probes

    Each line begins with a template number and a subject number, and is of one image; a first line without numbers is a header.
    `known`, int64 [t], ascending, are the templates that have images.

    Raises:
        UserError: one kind of list without the other, a wrong line (with its number), or a gallery with no probe's identity.
    """
    probe_file = directory / f"{name}_1N_probe_mixed.csv"
    gallery_files = sorted(directory.glob(f"{name}_1N_gallery_*.csv"))
    if not gallery_files and not probe_file.exists():
        return None
    if not gallery_files:
        raise UserError(
            f"{directory / f'{name}_1N_gallery_*.csv'}: no such file, but {probe_file.name} exists; restore the galleries"
        )
    probes = _read_templates(probe_file, known)
    galleries = [_read_templates(file, known) for file in gallery_files]
    for file, gallery in zip(gallery_files, galleries, strict=True):
        if not np.isin(probes.identities, gallery.identities).any():
            raise UserError(f"{file}: no probe in {probe_file.name} shows a subject of this gallery; restore the lists")
    return SearchLists(probes, galleries)


def _read_templates(file: Path, known: np.ndarray) -> TemplateList:
    identity_of: dict[int, int] = {}
    lines = array("q")
    for position, (number, line) in enumerate(numbered_lines(file)):
        parts = [part.strip() for part in line.split(b",", 2)[:2]]
        if len(parts) != 2 or not all(map(is_number, parts)):
            if position == 0 and not any(map(is_number, parts)):
                continue  # the header
            raise wrong_line(file, number, line, "does not begin with a template number, a comma and a subject number")
        template, identity = map(int, parts)
        if template not in identity_of:
            lines.append(number)
        if identity_of.setdefault(template, identity) != identity:
            raise wrong_line(file, number, line, f"is of template {template}, which has subject {identity_of[template]} above")
    if not identity_of:
        raise UserError(f"{file}: lists no templates; each line begins with a template number and a subject number")
    templates, identities = np.array(list(identity_of)), np.array(list(identity_of.values()))
    if (unknown := np.flatnonzero(~np.isin(templates, known))).size:
        line = lines[unknown[0]]
        raise UserError(f"{file} line {line}: no image belongs to template {templates[unknown[0]]}; correct or remove the line")
    order = np.argsort(templates)
    return TemplateList(templates[order], identities[order])
