"""Which rank owns which classes."""

from typing import NamedTuple

from arcface.errors import UserError


class Shard(NamedTuple):
    """The classes start .. stop - 1."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of classes."""
        return self.stop - self.start


def shard_of(num_classes: int, rank: int, world_size: int) -> Shard:
    """Return the contiguous range of classes that `rank` owns; the ranks' sizes differ by at most one.

    Raises UserError if a rank would own no class.
    """
    if num_classes < world_size:
        raise UserError(
            f"{num_classes} classes cannot be shared by {world_size} ranks, each of which needs one;"
            f" start at most {num_classes} ranks"
        )
    return Shard(num_classes * rank // world_size, num_classes * (rank + 1) // world_size)
