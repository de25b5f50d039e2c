"""Verifier: when a training run verifies, on which sets, and with which engine."""

from collections.abc import Iterator

import paddle

from arcface.config import NetworkOptions, VerificationOptions
from arcface.data.verification_set import VerificationSet
from arcface.distributed.process_group import rank
from arcface.errors import UserError
from arcface.inference.engines import open_agreed, open_engine
from arcface.io.log import logger
from arcface.verification.evaluator import Verification, check_images, verify


class Verifier:
    """Verifies the backbone of a run every `val_interval` steps and at its end.

    The order is: read the sets, make a Verifier, `check_images` on one rank, `choose_engine` once the backbone exists; then
    in each step ask `due`, and if so `run`.

    Args:
        sets: the run's sets, from `read_pair_sets`; [] verifies nothing.
        options: how to verify; of these val_batch_size and engine are used.
        network: the backbone's name and embedding_size, with which an engine builds it again.
        val_interval: steps between verifications; 0 verifies at the end only.
        best_by: name of the set whose accuracy decides which checkpoint is best; None is the first.

    Attributes:
        sets: as given.
        best_by: name of the deciding set; None without sets.
        engine: name of the engine that is used, once it is chosen.

    Raises:
        UserError: best_by is none of the sets.
    """

    def __init__(
        self,
        sets: list[VerificationSet],
        options: VerificationOptions,
        network: NetworkOptions,
        val_interval: int,
        best_by: str | None = None,
    ):
        self.sets, self.best_by = sets, _name_of_best(best_by, [pairs.name for pairs in sets])
        self._options, self._network, self._val_interval = options, network, val_interval
        self.engine: str = options.engine
        self._kinds_to_log = [f"{pairs.name}: {pairs.kind}" for pairs in sets if pairs.kind]

    def check_images(self) -> None:
        """Decode every image once, so that a damaged one is a UserError now rather than in mid-training."""
        for pairs in self.sets:
            check_images(pairs)

    def choose_engine(self, backbone: paddle.nn.Layer) -> None:
        """Build the engine once, so that one that cannot be built is found now, not after hours; called by every rank.

        "auto" becomes the first engine that rank 0 can build. Raises UserError if none can be built.
        """
        if self.sets:
            with open_agreed(self.engine, backbone, self._network.network, self._network.embedding_size) as (name, _):
                self.engine = name

    def due(self, step: int, last: bool) -> bool:
        """Whether to verify after `step` steps."""
        return last or (bool(self._val_interval) and step % self._val_interval == 0)

    def run(self, backbone: paddle.nn.Layer) -> Iterator[tuple[VerificationSet, Verification]]:
        """Yield each set with its result for the weights of this moment; called by every rank, and the result is every rank's.

        The engine's memory is freed afterwards. The backbone's buffers must be the same on all ranks.
        """
        if not self.sets:
            return
        while self._kinds_to_log and rank() == 0:
            logger.info(self._kinds_to_log.pop(0))
        with open_engine(self.engine, backbone, self._network.network, self._network.embedding_size) as embed:
            for pairs in self.sets:
                yield pairs, verify(embed, pairs, self._options.val_batch_size)


def _name_of_best(asked: str | None, names: list[str]) -> str | None:
    if asked is None:
        return names[0] if names else None
    if asked not in names:
        raise UserError(f"--best_by {asked}: not among --val_targets ({', '.join(names) or 'none'}); name one of them")
    return asked
