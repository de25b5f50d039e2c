"""Checkpoints of toolkits that write only the backbone and the ranks' class centres, as the 2021 toolkit does.

MobileFaceNet_128.pdparams
rank:0_softmax_weight.pkl        class centres of rank 0, [classes, embedding_size]; or rank_0_softmax_weight.pkl
rank:0_softmax_weight_mom.pkl    their momentum, which need not be there
"""

import os
import re
from pathlib import Path

import numpy as np

from arcface.errors import UserError
from arcface.head.shards import Shard
from arcface.io import safe_pickle
from arcface.training.checkpoint import Arrays, collect_rows
from arcface.training.checkpoint_files import head_files
from arcface.weights.run_directory import LATEST, MANIFEST, read_backbone

_CENTRES = re.compile(r"rank([:_])(\d+)_softmax_weight\.pkl")


def has_only_rank_files(directory: Path) -> bool:
    """Return whether a directory contains class centres, but no checkpoint of this toolkit."""
    return bool(_found(directory)) and not any(os.path.lexists(directory / name) for name in (LATEST, MANIFEST))


class RankFiles:
    """The weights in such a directory.

    missing: what starts anew in a run that resumes from them, in words.
    """

    def __init__(self, directory: Path):
        """Raises UserError if a rank's file is missing, or if one is not an array [classes, embedding_size]."""
        self.directory = directory
        found = _found(directory)
        if absent := sorted(set(range(max(found) + 1)) - found.keys()):
            raise UserError(f"{directory}: {head_files(absent[0])[0]} is missing, of {max(found) + 1} ranks; restore it")
        self._files, self._momentum_files = zip(*(head_files(owner, found[owner]) for owner in sorted(found)), strict=True)
        shapes = [self._read(file).shape for file in self._files]
        ends = np.cumsum([classes for classes, _ in shapes]).tolist()
        self._ranges = list(zip([0, *ends[:-1]], ends, strict=True))
        self._embedding_sizes = [size for _, size in shapes]
        self._has_momentum = all((directory / file).exists() for file in self._momentum_files)
        self.missing = [
            "the step",
            "the best accuracies",
            "the backbone's momentum",
            *([] if self._has_momentum else ["the class centres' momentum"]),
        ]

    def check_fingerprint(self, fingerprint: dict) -> None:
        """Raise UserError if they contain other classes or embeddings than the run has."""
        ranges = zip(self._files, self._ranges, strict=True)
        held = ", ".join(f"{file} the classes {start} to {stop - 1}" for file, (start, stop) in ranges)
        if self._ranges[-1][1] != fingerprint["num_classes"]:
            raise UserError(
                f"--resume 1: {self.directory} is of {self._ranges[-1][1]} classes, not {fingerprint['num_classes']}"
                f" ({held}); pass the dataset that it was trained on"
            )
        for file, size in zip(self._files, self._embedding_sizes, strict=True):
            if size != fingerprint["embedding_size"]:
                raise UserError(
                    f"--resume 1: {self.directory / file} was trained with embedding_size {size},"
                    f" not {fingerprint['embedding_size']}; resume with the same embedding_size"
                )

    def load(self, network: str, shard: Shard) -> Arrays:
        """Return the state, with zeros for the momentum that is missing."""
        backbone = read_backbone(self.directory, network)
        centres = collect_rows(self.directory, self._files, self._ranges, shard, self._read)
        velocity = np.zeros_like(centres)
        if self._has_momentum:
            velocity = collect_rows(self.directory, self._momentum_files, self._ranges, shard, self._read)
        momentum = {name: np.zeros_like(array) for name, array in backbone.items()}
        return Arrays(backbone, {"momentum": momentum}, centres, velocity)

    def _read(self, file: str) -> np.ndarray:
        path = self.directory / file
        try:
            rows = safe_pickle.load(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from error
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind != "f" or not len(rows):
            raise UserError(f"{path}: not an array [classes, embedding_size] of numbers; restore it")
        return rows.astype(np.float32, copy=False)


def _found(directory: Path) -> dict[int, str]:
    """Return the ranks that have a file of class centres, each with what stands between "rank" and its number."""
    try:
        names = sorted((path.name for path in directory.iterdir()), reverse=True)
    except OSError:
        return {}
    return {int(match[2]): match[1] for name in names if (match := _CENTRES.fullmatch(name))}
