"""The softmax's sums over negatives and the update of their centres, a block of classes at a time.

Of a block that fits into a processor's cache, all passes but the first cost little. The only arrays over all classes are
centres, velocity and exponentials, which are kept for the update: they make up the centres' gradient.
"""

from collections.abc import Iterator
from ctypes import CDLL

import numpy as np
import paddle

from arcface.distributed.process_group import all_reduce_max
from arcface.head.unit import SMALLEST_NORM, inv_norms, row_sums
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
    """The exponentials e^z_ij of one step, for N images and the negatives among this rank's classes.

    weight: float32 [classes of this rank, D], the centres. sampled: int64 [C], the classes in use, None for all. target:
    int64 [N], the place among the classes in use of each image's own class, which is no negative; -1 where it is not
    there. With a library, the CPU kernels make the passes over a block, else Paddle's operations do.

    Where float32 does not hold e^scale, all exponentials are divided by e^shift, with one shift for each image; shift is
    [N, 1], 0 for usual scales.
    """

    def __init__(
        self, weight: paddle.Tensor, sampled: paddle.Tensor | None, target: paddle.Tensor, scale: float, library: CDLL | None
    ):
        self._weight = weight if sampled is None else paddle.gather(weight, sampled)  # [C, D]
        self._sampled, self._target, self._scale, self._library = sampled, target, scale, library
        self.shift = paddle.zeros([len(target), 1])

    def sums(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return S_i = sum_j e^z_ij, [N, 1], and the weighted centres W_i = sum_j e^z_ij w_j / |w_j|, [N, D].

        x: float32 [N, D], scale times the unit embeddings: z_ij = <x_i, w_j> / |w_j|.
        """
        x = x.t().contiguous()  # classes first: such products are faster, and a block is one piece of memory
        if self._scale > LARGEST_PLAIN_SCALE:
            self.shift = self._highest(x).t()
        z, self._inv_norm = paddle.matmul(self._weight, x), paddle.empty([len(self._weight), 1])
        S: paddle.Tensor = 0
        W: paddle.Tensor = 0
        for block in blocks(len(z)):
            self._inv_norm[block], block_sums = self._exponentials(self._weight[block], z[block], self._target - block.start)
            S += block_sums
            W += paddle.matmul(z[block], self._weight[block], transpose_x=True)
        self._e_inv_norm = z  # [C, N]: no longer z but e^z / |w|
        return S.t(), W

    def update(
        self,
        p_x: paddle.Tensor,
        weight: paddle.Tensor,
        velocity: paddle.Tensor,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        """Take a step of momentum SGD in place on the classes in use, after `sums`.

        p_x: float32 [N, D], such that the gradient with respect to w_j / |w_j| is sum_i e^z_ij p_x_i. weight, velocity:
        float32 [classes of this rank, D].
        """
        for block in blocks(len(self._weight)):
            gradient = paddle.matmul(self._e_inv_norm[block], p_x)
            classes = None if self._sampled is None else self._sampled[block]
            if self._library:
                places = paddle.arange(block.start, block.stop) if classes is None else classes
                inv_norm = self._inv_norm[block]
                softmax.update(self._library, weight, velocity, places, gradient, inv_norm, lr, momentum, weight_decay)
                continue
            w = self._weight[block]
            v = velocity[block] if classes is None else paddle.gather(velocity, classes)
            along = row_sums(gradient * w) * self._inv_norm[block].square()  # would change the length of w, which means nothing
            v.scale_(momentum).add_(gradient).add_(w * (weight_decay - along))
            w.subtract_(v * lr)
            if classes is not None:
                weight.scatter_(classes, w)
                velocity.scatter_(classes, v)

    def _exponentials(self, weight: paddle.Tensor, z: paddle.Tensor, target: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Turn a block's products with the centres, z [c, N], in place into e^(z / |w| - shift) / |w|, 0 for the targets.

        Returns 1 / |w| [c, 1], and the sums of the exponentials [1, N].
        """
        shift = self.shift.t()
        if self._library:
            return softmax.exponentials(self._library, weight, z, target, shift, SMALLEST_NORM)
        inv_norm = inv_norms(weight)
        e = _without_targets(z.multiply_(inv_norm), target)
        e = (e.subtract_(shift) if self._scale > LARGEST_PLAIN_SCALE else e).exp_()
        sums = paddle.matmul(paddle.ones([1, len(e)]), e)
        e.multiply_(inv_norm)
        return inv_norm, sums

    def _highest(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the highest logit of each image's negatives on all ranks, [1, N]; x: [D, N], scaled."""
        highest = []
        for block in blocks(len(self._weight)):
            weight = self._weight[block]
            z = paddle.matmul(weight, x).multiply_(inv_norms(weight))
            highest.append(_without_targets(z, self._target - block.start).max(0, keepdim=True))
        return all_reduce_max(paddle.concat(highest).max(0, keepdim=True).clip(min=-self._scale))


def _without_targets(z: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """Set the targets' logits in z [c, N] to -inf, in place; target: int64 [N], below 0 or from c on where not among these."""
    present = paddle.logical_and(target >= 0, target < len(z))
    place = paddle.where(present, target, paddle.zeros_like(target))
    values = paddle.where(present, paddle.full_like(z[0], -np.inf), z[0])  # an absent target writes what class 0 has
    return z.put_along_axis_(place.unsqueeze(0), values.unsqueeze(0), 0)
