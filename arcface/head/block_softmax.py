"""The softmax's sums over negatives and the update of the centres, a block of classes at a time.

Of a block that fits into a processor's cache, all passes but the first cost little. The only arrays over all classes are
centres, velocity and exponentials, which are kept for the update: they make up the centres' gradient.
"""

from collections.abc import Iterator, Sequence
from ctypes import CDLL
from functools import reduce
from typing import NamedTuple

import numpy as np
import paddle

from arcface.distributed.process_group import all_reduce_max
from arcface.head.targets import Targets
from arcface.head.unit import SMALLEST_NORM, column_sums, inv_norms, row_sums
from arcface.ops import softmax

CLASSES_PER_BLOCK = {"cpu": 4096}  # by device: on a CPU what its cache holds, elsewhere few and large operations
CLASSES_PER_BLOCK_ELSEWHERE = 65536
LARGEST_PLAIN_SCALE = 64  # float32 holds exp(-64) and a sum of exp(64) over any number of classes


def classes_per_block(device: str) -> int:
    """Return how many classes are worked on at a time on "cpu" or "gpu:0"..."""
    return CLASSES_PER_BLOCK.get(device, CLASSES_PER_BLOCK_ELSEWHERE)


def blocks(classes: int) -> Iterator[slice]:
    """Yield slices of so many classes, block by block."""
    size = classes_per_block(paddle.get_device())
    return (slice(start, min(start + size, classes)) for start in range(0, classes, size))


class BlockSoftmax:
    """The exponentials e^z_ij of one step or a part of it, for N images and the negatives among this rank's classes.

    weight: float32 [C, D], the centres of the classes in use. targets: which classes these are, and where each image's own class
    is among them, which is no negative. With a library, the CPU kernels make the passes over a block, else Paddle's operations do.

    Where float32 does not hold e^scale, all exponentials are divided by e^shift, with one shift for each image; shift is
    [N, 1] then, None for usual scales.
    """

    def __init__(self, weight: paddle.Tensor, targets: Targets, scale: float, library: CDLL | None):
        self._weight, self._scale, self._library = weight, scale, library
        self.targets = targets
        self.shift: paddle.Tensor | None = None

    def sums(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return S_i = sum_j e^z_ij, [N, 1], and the weighted centres W_i = sum_j e^z_ij w_j / |w_j|, [N, D].

        x: float32 [N, D], scale times the unit embeddings: z_ij = <x_i, w_j> / |w_j|.
        """
        # Classes first: such products are faster, and a block is one piece of memory.
        self._e = z = paddle.matmul(self._weight, x.t().contiguous())  # [C, N]; what is z now is e^z / |w| in the end
        self.set_targets(paddle.full([len(x), 1], -np.inf))
        if self._scale > LARGEST_PLAIN_SCALE:
            self.shift = self._highest(z).t()
        inv_norms_of_blocks = []

        def sums_of(block: slice) -> list[paddle.Tensor]:
            inv_norm, sums = self._exponentials(self._weight[block], z[block])
            inv_norms_of_blocks.append(inv_norm)
            return [sums, paddle.matmul(z[block], self._weight[block], transpose_x=True)]

        S, W = reduce(_add, map(sums_of, blocks(len(z))))
        self._inv_norm = paddle.concat(inv_norms_of_blocks)
        return S.t(), W

    def target_centres(self) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return the images' own centres at unit length [N, D], and one by their lengths [N, 1], after `sums`."""
        inv_norm = paddle.gather(self._inv_norm, self.targets.place)
        return paddle.gather(self._weight, self.targets.place) * inv_norm, inv_norm

    def set_targets(self, values: paddle.Tensor) -> None:
        """Let values [N, 1] take the place of e^z / |w|, 0 until then, of the images' own classes; no other entry is touched."""
        if len(self.targets.rows):
            self._e.reshape([-1, 1]).scatter_(self.targets.entries, paddle.gather(values, self.targets.rows))

    def update(
        self,
        p_x: paddle.Tensor,
        weight: paddle.Tensor,
        velocity: paddle.Tensor,
        lr: float,
        momentum: float,
        weight_decay: float,
        finite: paddle.Tensor | None = None,
        others: "Sequence[CentreGradient]" = (),
    ) -> None:
        """Take a step of momentum SGD in place on the classes in use, after `sums`.

        p_x: float32 [N, D], such that the gradient with respect to w_j / |w_j| is sum_i e^z_ij p_x_i, for targets by the values
        of `set_targets`. weight, velocity: float32 [classes of this rank, D]. finite: bool [1], of which False leaves both as they
        are; not with the CPU kernels. others: the step's other parts, whose gradients are added.
        """
        assert not (self._library and finite is not None)
        for block in blocks(len(self._weight)):
            gradient = paddle.matmul(self._e[block], p_x)
            for part in others:
                gradient.add_(paddle.matmul(part.softmax._e[block], part.p_x))
            classes = None if self.targets.sampled is None else self.targets.sampled[block]
            if self._library:
                places = paddle.arange(block.start, block.stop) if classes is None else classes
                inv_norm = self._inv_norm[block]
                softmax.update(self._library, weight, velocity, places, gradient, inv_norm, lr, momentum, weight_decay)
                continue
            w = self._weight[block]
            v = velocity[block] if classes is None else paddle.gather(velocity, classes)
            along = row_sums(gradient * w) * self._inv_norm[block].square()  # would change the length of w, which means nothing
            new_v = (v * momentum).add_(gradient).add_(w * (weight_decay - along))
            new_w = w - new_v * lr
            if finite is not None:  # by selection: a product with 0 would keep NaN
                kept = finite.expand_as(w)
                new_w, new_v = paddle.where(kept, new_w, w), paddle.where(kept, new_v, v)
            if classes is None:
                paddle.assign(new_w, w)
                paddle.assign(new_v, v)
            else:
                weight.scatter_(classes, new_w)
                velocity.scatter_(classes, new_v)

    def _exponentials(self, weight: paddle.Tensor, z: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Turn a block's products with the centres, z [c, N], in place into e^(z / |w| - shift) / |w|.

        Returns 1 / |w| [c, 1], and the sums of the exponentials [1, N].
        """
        if self._library:
            return softmax.exponentials(self._library, weight, z, self.shift, SMALLEST_NORM)
        inv_norm = inv_norms(weight)
        e = z.multiply_(inv_norm)
        e = (e if self.shift is None else e.subtract_(self.shift.t())).exp_()
        sums = column_sums(e)
        e.multiply_(inv_norm)
        return inv_norm, sums

    def _highest(self, z: paddle.Tensor) -> paddle.Tensor:
        """Return the highest logit of each image's negatives on all ranks, [1, N]; z: [C, N], products with the centres."""
        highest = [(z[block] * inv_norms(self._weight[block])).max(0, keepdim=True) for block in blocks(len(z))]
        return all_reduce_max(paddle.concat(highest).max(0, keepdim=True).clip(min=-self._scale))


class CentreGradient(NamedTuple):
    """What makes up the gradient with respect to the centres, of a step or a part of it."""

    softmax: BlockSoftmax
    p_x: paddle.Tensor  # [N, D]: the softmax's entries times this are the gradient


def _add(totals: list[paddle.Tensor], more: list[paddle.Tensor]) -> list[paddle.Tensor]:
    return [total.add_(part) for total, part in zip(totals, more, strict=True)]
