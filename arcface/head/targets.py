"""Where a step's targets are: what the host knows from the labels, for the device in one copy."""

from typing import NamedTuple

import numpy as np
import paddle

from arcface.head.shards import Shard
from arcface.system.transfer import to_device


class Targets(NamedTuple):
    """The targets of N rows, some of which this rank has; C classes are in use. All are int64, on the device."""

    sampled: paddle.Tensor | None  # [C]: the classes in use, counted from the shard's start; None for all
    place: paddle.Tensor  # [N]: the target's place among them; 0 where another rank's or none
    owned: paddle.Tensor  # [N]: 1 where this rank has the target, else 0
    rows: paddle.Tensor  # [n]: the rows whose target this rank has
    entries: paddle.Tensor  # [n]: where their logits are in an array [C, N], flat


def find_targets(labels: np.ndarray, shard: Shard, sampled: np.ndarray | None) -> Targets:
    """Return where the targets are, given the classes in use, sorted, which have all targets of the shard; None for all classes.

    labels: int64 [N] of all ranks' rows, negative for none. sampled: int64 [C].
    """
    owned = (labels >= shard.start) & (labels < shard.stop)
    classes = np.where(owned, labels - shard.start, 0)
    place = classes if sampled is None else np.where(owned, np.searchsorted(sampled, classes), 0)
    (rows,) = np.nonzero(owned)
    parts = [place, owned, rows, place[rows] * len(labels) + rows, *([] if sampled is None else [sampled])]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    values = to_device(np.concatenate(parts, dtype=np.int64))
    place, owned, rows, entries, *rest = (values[end - len(part) : end] for part, end in zip(parts, ends, strict=True))
    return Targets(rest[0] if rest else None, place, owned, rows, entries)
