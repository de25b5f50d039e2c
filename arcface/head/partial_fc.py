"""Partial FC: a margin softmax over class centres that are sharded over the ranks (An et al. 2021, arXiv:2010.05222).

The loss of embedding x_i with label y_i over all classes j, with cos_ij = <x_i, w_j> / (|x_i| |w_j|):

    logit_ij = scale * margin(cos_ij)  if j = y_i,  else  scale * cos_ij
    loss     = mean over i of  log(sum_j exp(logit_ij)) - logit_i,y_i

Each rank holds the rows j of its shard, for the whole batch. The ranks exchange the embeddings and one sum of N rows;
centres and their gradients stay where they are.

An entry of the true class is one of N; the others are N * C. So the true class is computed apart, and the others in
blocks of classes that fit into a processor's cache. Their exponentials are kept for the update, which makes the centres'
gradient of them, again block by block: no array of all classes is there but centres, momentum and exponentials. With
others_i the sum of exp(logit_ij) over j != y_i:

    loss_i                = log(1 + others_i / exp(logit_i,y_i))
    d loss_i / d logit_ij = exp(logit_ij) / total_i  if j != y_i,  else  -others_i / total_i
    total_i               = others_i + exp(logit_i,y_i)
"""

from collections.abc import Callable, Iterator
from ctypes import CDLL
from typing import NamedTuple

import numpy as np
import paddle
from paddle.autograd import PyLayer
from paddle.nn.functional import softplus

from arcface.distributed.process_group import all_gather, all_reduce_max, all_reduce_sum, rank, world_size
from arcface.errors import UserError
from arcface.head.margins import Margin, apply_margin
from arcface.head.shards import shard_of
from arcface.ops import cpu_kernels
from arcface.rng import Stream, rng

CENTRES_PER_KEY = 1024  # class centres are drawn in blocks of so many, each block by its own key
CLASSES_PER_BLOCK = {"cpu": 4096}  # by device: a cache's fill here; on the others, few and large operations:
CLASSES_PER_BLOCK_ELSEWHERE = 65536
SMALLEST_NORM = 1e-12
LARGEST_PLAIN_SCALE = 64  # float32 holds exp(-64) and a sum of exp(64) over any number of classes
SMALLEST_TOTAL = 1e-30  # below what one other class gives, exp(-64)


class PartialFC:
    """The rank's shard of the class centres, their momentum, the loss and the update.

    weight, momentum: float32 [classes of this rank, embedding_size]. A centre's first value depends on seed and class
    only, so that any number of ranks starts from the same centres. With sample_rate < 1 each step uses the classes of
    the batch and random others up to about that share of all classes, the same on any number of ranks (but for a shard
    without any, which gets one); only their rows are read, updated and decayed. With `library`, the CPU kernels make the
    passes over a block of classes.
    """

    library: CDLL | None = None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: Margin = Margin(),
        scale: float = 64.0,
        sample_rate: float = 1.0,
        seed: int = 0,
    ):
        if not paddle.get_flags("FLAGS_use_stride_kernel")["FLAGS_use_stride_kernel"]:
            raise UserError("FLAGS_use_stride_kernel=0: slices would be copies, and class centres would not be trained; unset it")
        self.shard = shard_of(num_classes, rank(), world_size())
        self.num_classes, self.margin, self.scale, self.sample_rate, self.seed = num_classes, margin, scale, sample_rate, seed
        # The rows that the last step used: int64, sorted, counted from the shard's start; None for all.
        self.rows: paddle.Tensor | None = None
        self.weight = paddle.empty([self.shard.size, embedding_size])
        for block in _blocks(self.shard.size):  # the memory of a whole copy would not be given back to the system
            first = self.shard.start
            self.weight[block] = paddle.to_tensor(first_centres(first + block.start, first + block.stop, embedding_size, seed))
        self.momentum = paddle.zeros_like(self.weight)
        self._kept: _Kept | None = None  # of the last `loss`, for `update`

    def loss(self, embeddings: paddle.Tensor, labels: paddle.Tensor, step: int) -> paddle.Tensor:
        """Return the mean loss over all ranks' rows, a scalar; its backward gives the embeddings' gradient.

        embeddings: float32 [n, embedding_size], not normalised; labels: int64 [n], below num_classes, where
        a negative one leaves its row out of the loss; every rank passes the same n. `step` keys the sampling. What the
        centres' gradient is made of is kept for `update`.
        """

        def compute(local_embeddings):
            all_labels = all_gather(labels)
            self.rows = self._sample(all_labels.numpy(), step) if self.sample_rate < 1 else None
            return self._loss_and_gradient(local_embeddings, all_labels)

        return _WithKnownGradient.apply(embeddings, compute)

    @paddle.no_grad()
    def _loss_and_gradient(self, embeddings: paddle.Tensor, labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return the loss and its gradient by the embeddings [n, D] of this rank; labels int64 [N] are those of all."""
        self._kept = None  # frees what a step without an update has left
        x, x_inverse = _normalise(embeddings)
        x_all = all_gather(x)
        columns = self._columns(labels)
        mine = (columns >= 0).unsqueeze(1)

        true_rows = paddle.where(columns >= 0, labels - self.shard.start, paddle.zeros_like(labels))
        true, true_inverse = _normalise(paddle.gather(self.weight, true_rows))
        with_margin, slope = apply_margin((x_all * true).sum(1, keepdim=True), self.margin)

        scaled = (x_all * self.scale).t().contiguous()
        weight = self.weight if self.rows is None else paddle.gather(self.weight, self.rows)
        shift = paddle.zeros([1, len(labels)])
        if self.scale > LARGEST_PLAIN_SCALE:
            shift = _highest(weight, scaled, columns, self.scale)
        logits, inverses = paddle.matmul(weight, scaled), paddle.empty([len(weight), 1])
        others: paddle.Tensor = 0  # sum of exponentials
        pull: paddle.Tensor = 0  # sum of exponential * unit centre
        for block in _blocks(len(weight)):
            inverses[block], sums = self._exponentials(weight[block], logits[block], columns - block.start, shift)
            others += sums
            pull += paddle.matmul(logits[block], weight[block], transpose_x=True)

        of_mine = paddle.concat([with_margin * self.scale, slope * true], 1)
        shared = paddle.concat([others.t(), pull, paddle.where(mine, of_mine, paddle.zeros_like(of_mine))], 1)
        size = x.shape[1]
        others, pull, target_logit, true_pull = all_reduce_sum(shared).split([1, size, 1, size], 1)

        counted = (labels >= 0).astype(x.dtype).unsqueeze(1)
        counted /= counted.sum().clip(min=1)
        target_logit -= shift.t()
        loss = (softplus(others.log() - target_logit) * counted).sum()

        row_factor = counted * self.scale / (others + target_logit.exp()).clip(min=SMALLEST_TOTAL)
        x_gradient = (pull - others * true_pull) * row_factor
        true_gradient = _through_normalise(-others * row_factor * slope * x_all, true, true_inverse)
        true_gradient = paddle.where(mine, true_gradient, paddle.zeros_like(true_gradient))
        self._kept = _Kept(weight, inverses, logits, x_all * row_factor, true_rows, true_gradient)
        n = embeddings.shape[0]
        return loss, _through_normalise(x_gradient[rank() * n : (rank() + 1) * n], x, x_inverse)

    def _exponentials(
        self,
        weight: paddle.Tensor,
        logits: paddle.Tensor,
        columns: paddle.Tensor,
        shift: paddle.Tensor,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Turn products with centres [rows, N] in place into exponentials by the centres' lengths, 0 for the true classes.

        Returns one by the lengths [rows, 1], and the sums of the exponentials [1, N].
        """
        if self.library:
            return cpu_kernels.exponentials(self.library, weight, logits, columns, shift, SMALLEST_NORM)
        inverse = _inverse_lengths(weight)
        e = _hide(logits.multiply_(inverse), columns)
        e = (e.subtract_(shift) if self.scale > LARGEST_PLAIN_SCALE else e).exp_()
        sums = paddle.matmul(paddle.ones([1, len(e)]), e)
        e.multiply_(inverse)
        return inverse, sums

    @paddle.no_grad()
    def update(self, lr: float, momentum: float, weight_decay: float) -> None:
        """Momentum SGD on the rows of the last `loss`: m = momentum * m + g + weight_decay * w;  w = w - lr * m."""
        kept, self._kept = self._kept, None
        assert kept, "an update follows a loss"
        for block in _blocks(len(kept.weight)):
            gradient = paddle.matmul(kept.factors[block], kept.x_factor)
            if self.library:
                rows = paddle.arange(block.start, block.stop) if self.rows is None else self.rows[block]
                cpu_kernels.update(
                    self.library, self.weight, self.momentum, rows, gradient, kept.inverses[block], lr, momentum, weight_decay
                )
                continue
            weight, rows = kept.weight[block], None if self.rows is None else self.rows[block]
            velocity = self.momentum[block] if rows is None else paddle.gather(self.momentum, rows)
            # The part along the centre would change its length, which changes nothing.
            along = _row_sums(gradient * weight) * kept.inverses[block].square()
            velocity.scale_(momentum).add_(gradient).add_(weight * (weight_decay - along))
            weight.subtract_(velocity * lr)
            if rows is not None:
                self.weight.scatter_(rows, weight)
                self.momentum.scatter_(rows, velocity)
        self.momentum.index_add_(kept.true_rows, 0, kept.true_gradient)
        self.weight.index_add_(kept.true_rows, 0, kept.true_gradient * -lr)

    def _sample(self, labels: np.ndarray, step: int) -> paddle.Tensor:
        """Return the rows of this step, int64, sorted: the batch's classes, and random others."""
        start, stop = self.shard
        positive = np.unique(labels[labels >= 0])
        others = self.num_classes - len(positive)
        share = max(0.0, self.sample_rate * self.num_classes - len(positive)) / others if others else 0.0
        # A number for each class by (seed, step), so that which are drawn does not depend on the number of ranks.
        chance = rng(Stream.NEGATIVE_CLASSES, self.seed, step).random(stop, np.float32)
        chance[positive[positive < stop]] = -1
        rows = np.flatnonzero(chance[start:] < share)
        return paddle.to_tensor(rows if rows.size else [chance[start:].argmin()], "int64")

    def _columns(self, labels: paddle.Tensor) -> paddle.Tensor:
        """Return each label's column among this step's rows; -1 for another rank's class and for none."""
        start, stop = self.shard
        columns = labels - start
        if self.rows is not None:
            columns = paddle.searchsorted(self.rows, columns)  # the batch's own classes are all in rows
        mine = paddle.logical_and(labels >= start, labels < stop)
        return paddle.where(mine, columns, paddle.full_like(columns, -1))


class _Kept(NamedTuple):
    """What the gradient by the centres is made of."""

    weight: paddle.Tensor  # [rows, D]: all centres themselves, or a copy of the sampled ones
    inverses: paddle.Tensor  # [rows, 1]: one by the centres' lengths
    factors: paddle.Tensor  # [rows, N]: exponentials by the centres' lengths, 0 for the true classes
    x_factor: paddle.Tensor  # [N, D]: factors @ x_factor is the gradient by the centres, for the other classes' part
    true_rows: paddle.Tensor  # int64 [N]: the true classes' rows in the shard; 0 where another rank's
    true_gradient: paddle.Tensor  # [N, D]: what they get for being it; 0 where another rank's


def first_centres(start: int, stop: int, embedding_size: int, seed: int) -> np.ndarray:
    """Return the first values of the classes start .. stop - 1, float32 [classes, embedding_size], normal, std 0.01."""
    centres = np.empty((stop - start, embedding_size), np.float32)
    for block in range(start // CENTRES_PER_KEY, -(-stop // CENTRES_PER_KEY)):
        first = block * CENTRES_PER_KEY
        draw = rng(Stream.CLASS_CENTRES, seed, block)
        values = draw.standard_normal((CENTRES_PER_KEY, embedding_size), np.float32) * np.float32(0.01)
        low, high = max(start, first), min(stop, first + CENTRES_PER_KEY)
        centres[low - start : high - start] = values[low - first : high - first]
    return centres


def _blocks(rows: int) -> Iterator[slice]:
    size = CLASSES_PER_BLOCK.get(paddle.get_device(), CLASSES_PER_BLOCK_ELSEWHERE)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _highest(weight: paddle.Tensor, x: paddle.Tensor, columns: paddle.Tensor, scale: float) -> paddle.Tensor:
    """Return each row's highest logit of the other classes on all ranks, [1, N], for scales at which exp overflows."""
    highest = []
    for block in _blocks(len(weight)):
        logits = paddle.matmul(weight[block], x).multiply_(_inverse_lengths(weight[block]))
        highest.append(_hide(logits, columns - block.start).max(0, keepdim=True))
    return all_reduce_max(paddle.concat(highest).max(0, keepdim=True).clip(min=-scale))


def _hide(logits: paddle.Tensor, columns: paddle.Tensor) -> paddle.Tensor:
    """Set the true classes' logits [rows, N] to -inf, in place; columns int64 [N]: their rows, if of these at all."""
    here = paddle.logical_and(columns >= 0, columns < len(logits))
    rows = paddle.where(here, columns, paddle.zeros_like(columns))
    values = paddle.where(here, paddle.full_like(logits[0], -np.inf), logits[0])  # who is not here writes what is there
    return logits.put_along_axis_(rows.unsqueeze(0), values.unsqueeze(0), 0)


def _row_sums(x: paddle.Tensor) -> paddle.Tensor:
    """Return [n, 1]. Paddle's sum along rows takes twice as long on CPU, its norm fourteen times."""
    return paddle.matmul(x, paddle.ones([x.shape[1], 1]))


def _inverse_lengths(x: paddle.Tensor) -> paddle.Tensor:
    """Return one by the lengths of the rows of x [n, D], [n, 1]."""
    return _row_sums(x.square()).sqrt_().clip_(min=SMALLEST_NORM).reciprocal_()


def _normalise(x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the rows of x [n, D] at unit length, and one by their lengths [n, 1]."""
    inverse = _inverse_lengths(x)
    return x * inverse, inverse


def _through_normalise(gradient: paddle.Tensor, unit: paddle.Tensor, inverse: paddle.Tensor) -> paddle.Tensor:
    """Turn the gradient by the unit rows into the gradient by the rows: only the part across them counts."""
    return (gradient - _row_sums(gradient * unit) * unit) * inverse


class _WithKnownGradient(PyLayer):
    """A scalar function of a tensor that computes value and gradient together."""

    @staticmethod
    def forward(ctx, x: paddle.Tensor, function: Callable) -> paddle.Tensor:
        value, gradient = function(x)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, upstream: paddle.Tensor) -> paddle.Tensor:
        (gradient,) = ctx.saved_tensor()
        return gradient * upstream
