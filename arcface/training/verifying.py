"""Verifier: temporary, until the one of verification/verifier.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from arcface.data.bin_file import VerificationSet, read_bin
from arcface.errors import UserError
from arcface.inference.engines import open_agreed, open_engine
from arcface.verification.evaluator import Verification, check_images, verify


class Verifier:
    def __init__(self, config, network, val_interval, best_by):
        self.config, self.val_interval = config, val_interval
        self.sets = [self._read(file) for file in config.val_files]
        names = [pairs.name for pairs in self.sets]
        if best_by is not None and best_by not in names:
            raise UserError(f"--best_by {best_by}: not among --val_targets ({', '.join(names) or 'none'}); name one of them")
        self.best_by = best_by or (names[0] if names else None)
        self._engine = config.engine

    @staticmethod
    def _read(file: Path) -> VerificationSet:
        try:
            return read_bin(file)
        except UserError as error:
            if os.path.lexists(file):
                raise
            raise UserError(f"{error}, or train without verification: --val_targets ''") from error

    def check_images(self):
        for pairs in self.sets:
            check_images(pairs)

    def choose_engine(self, backbone):
        if self.sets:
            with open_agreed(self.config.engine, backbone, self.config.network, self.config.embedding_size) as (name, _):
                self._engine = name

    def due(self, step: int, last: bool, stopping: bool) -> bool:
        return last or bool(self.val_interval) and step % self.val_interval == 0 and not stopping

    def run(self, backbone) -> Iterator[tuple[VerificationSet, Verification]]:
        if self.sets:
            with open_engine(self._engine, backbone, self.config.network, self.config.embedding_size) as embed:
                for pairs in self.sets:
                    yield pairs, verify(embed, pairs, self.config.val_batch_size)
