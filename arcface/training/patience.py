"""Patience: ends a run that has not improved for some verifications."""

from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.io.log import logger
from arcface.training.state import TrainState


class Patience:
    """Counts the verifications since the last new best, in the state; every rank has the same results, and so the same count.

    over: whether the run is to end after this step, for its last verification.

    Raises UserError if --patience is set and nothing is verified before the end.
    """

    def __init__(self, config: TrainConfig, state: TrainState, best_by: str | None):
        self._limit, self._state, self._best_by = config.patience, state, best_by
        self.over = False
        if self._limit and not (best_by and config.val_interval):
            reason = "--val_interval 0 verifies at the end only" if best_by else "--val_targets names no sets"
            raise UserError(f"--patience {self._limit}: {reason}; verify during the run, or leave --patience out")

    def count(self, new_best: bool) -> None:
        """Count the verification of this step."""
        state = self._state
        if new_best:
            state.best_step, state.without_best = state.step, 0
        elif self._best_by:
            state.without_best += 1
        self.over = bool(self._limit) and state.without_best >= self._limit

    def log_end(self) -> None:
        """Say why the run has ended after this step, whose checkpoint is saved."""
        state = self._state
        best = f"{state.highest[self._best_by]:.5f} at step {state.best_step or 'unknown'}" if self._best_by else ""
        logger.info(
            "ended after step %d, which is saved: %d verifications without a new best on %s (--patience %d); the best is %s",
            *(state.step, state.without_best, self._best_by, self._limit, best),
        )
