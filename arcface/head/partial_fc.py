"""Partial FC: a margin softmax over class centres that are sharded over the ranks (An et al. 2021, arXiv:2010.05222).

The loss of embedding x_i with label y_i over all classes j, with cos_ij = <x_i, w_j> / (|x_i| |w_j|):

    logit_ij = scale * margin(cos_ij)  if j = y_i,  else  scale * cos_ij
    loss     = mean over i of  log(sum_j exp(logit_ij)) - logit_i,y_i

Each rank holds the columns j of its shard, for the whole batch. The ranks exchange the embeddings, one maximum and
two sums per row, and the embeddings' gradient; centres and their gradients stay where they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
from paddle.autograd import PyLayer

from arcface.head.margins import Margin, apply_margin
from arcface.head.shards import shard_of
from arcface.keyed_random import Purpose, generator
from arcface.runtime.distributed import all_gather, all_reduce_max, all_reduce_sum, rank, world_size

CENTRES_PER_KEY = 1024  # class centres are drawn in blocks of so many, each block by its own key
SMALLEST_NORM = 1e-12


class PartialFC:
    """The rank's shard of the class centres, their momentum, the loss and the update.

    weight, momentum: float32 [classes of this rank, embedding_size]. A centre's first value depends on seed and class
    only, so that any number of ranks starts from the same centres. With sample_rate < 1 each step uses the classes of
    the batch and random others up to about that share of all classes, the same on any number of ranks (but for a shard
    without any, which gets one); only their rows are read, updated and decayed.
    """

    def __init__(self, num_classes: int, embedding_size: int, margin: Margin = Margin(), scale: float = 64.0,
                 sample_rate: float = 1.0, seed: int = 0):  # fmt: skip
        self.shard = shard_of(num_classes, rank(), world_size())
        self.num_classes, self.margin, self.scale, self.sample_rate, self.seed = num_classes, margin, scale, sample_rate, seed
        self.weight = paddle.to_tensor(first_centres(*self.shard, embedding_size, seed))
        self.momentum = paddle.zeros_like(self.weight)
        self.rows = None  # that the last step used: int64, sorted, counted from the shard's start; None for all
        self._gradient = None  # of the last step: of the mean loss by those rows

    def loss(self, embeddings: paddle.Tensor, labels: paddle.Tensor, step: int) -> paddle.Tensor:
        """Return the mean loss over all ranks' rows, a scalar; its backward gives the embeddings' gradient.

        embeddings: float32 [n, embedding_size], not normalised; labels: int64 [n], below num_classes, where
        a negative one leaves its row out of the loss; every rank passes the same n. `step` keys the sampling. The
        centres' gradient is kept for `update`.
        """

        def compute(local_embeddings):
            all_labels = all_gather(labels)
            self.rows = self._sample(all_labels.numpy(), step) if self.sample_rate < 1 else None
            weight = self.weight if self.rows is None else self.weight.index_select(self.rows)
            result = margin_softmax(local_embeddings, all_labels, weight, self._columns(all_labels), self.margin, self.scale)
            self._gradient = result.weight_gradient
            return result.loss, result.embedding_gradient

        return _WithKnownGradient.apply(embeddings, compute)

    @paddle.no_grad()
    def update(self, lr: float, momentum: float, weight_decay: float) -> None:
        """Momentum SGD on the rows of the last `loss`: m = momentum * m + g + weight_decay * w;  w = w - lr * m."""
        everything = self.rows is None
        weight = self.weight if everything else self.weight.index_select(self.rows)
        velocity = self.momentum if everything else self.momentum.index_select(self.rows)
        velocity.scale_(momentum).add_(self._gradient)
        velocity.add_(weight * weight_decay)
        weight.subtract_(velocity * lr)
        if not everything:
            self.weight.scatter_(self.rows, weight)
            self.momentum.scatter_(self.rows, velocity)
        self._gradient = None

    def _sample(self, labels: np.ndarray, step: int) -> paddle.Tensor:
        """Return the rows of this step, int64, sorted: the batch's classes, and random others."""
        start, stop = self.shard
        positive = np.unique(labels[labels >= 0])
        others = self.num_classes - len(positive)
        share = max(0.0, self.sample_rate * self.num_classes - len(positive)) / others if others else 0.0
        # A number for each class by (seed, step), so that which are drawn does not depend on the number of ranks.
        chance = generator(Purpose.NEGATIVE_CLASSES, self.seed, step).random(stop, np.float32)
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


class LossAndGradients(NamedTuple):
    """What margin_softmax computes, for the mean loss over the whole batch."""

    loss: paddle.Tensor  # scalar
    embedding_gradient: paddle.Tensor  # [n, D], by this rank's embeddings
    weight_gradient: paddle.Tensor  # [columns, D], by this rank's centres


@paddle.no_grad()
def margin_softmax(embeddings: paddle.Tensor, labels: paddle.Tensor, weight: paddle.Tensor, columns: paddle.Tensor,
                   margin: Margin, scale: float) -> LossAndGradients:  # fmt: skip
    """Compute the module's formula and its gradients, with one [N, columns] buffer that is reused for each stage.

    embeddings [n, D] of this rank; labels int64 [N] of all ranks (for which rows count); weight [columns, D] of this
    rank; columns int64 [N]: where in weight each row's true class is, -1 if elsewhere.
    """
    x, x_norm = _normalise(embeddings)
    w, w_norm = _normalise(weight)
    x_all = all_gather(x)
    counted = (labels >= 0).astype(x.dtype).unsqueeze(1)
    mine = (columns >= 0).unsqueeze(1)
    target = columns.clip(min=0).unsqueeze(1)

    logits = paddle.matmul(x_all * scale, w, transpose_y=True)
    plain = logits.take_along_axis(target, 1)
    with_margin, slope = apply_margin(plain / scale, margin)
    target_logit = paddle.where(mine, with_margin * scale, plain)
    logits.put_along_axis_(target, target_logit, 1)

    highest = all_reduce_max(logits.max(1, keepdim=True))
    exponentials = logits.subtract_(highest).exp_()
    total_and_target = paddle.concat([
        exponentials.sum(1, keepdim=True),
        paddle.where(mine, target_logit - highest, paddle.zeros_like(highest)),
    ], 1)  # fmt: skip
    total, target_logit = all_reduce_sum(total_and_target).split(2, 1)
    count = counted.sum().clip(min=1)
    loss = ((total.log() - target_logit) * counted).sum() / count

    # softmax = exponentials / total. The division is left to the small factors of the two products below, so the
    # buffer itself becomes the gradient by the cosines but for that row factor: on the target, softmax - 1.
    row_factor = counted * scale / (total * count)
    at_target = exponentials.take_along_axis(target, 1)
    exponentials.put_along_axis_(target, paddle.where(mine, (at_target - total) * slope, at_target), 1)
    x_gradient = all_reduce_sum(paddle.matmul(exponentials, w) * row_factor)
    w_gradient = paddle.matmul(exponentials, x_all * row_factor, transpose_x=True)

    n = embeddings.shape[0]
    own_rows = x_gradient[rank() * n : (rank() + 1) * n]
    return LossAndGradients(loss, _through_normalise(own_rows, x, x_norm), _through_normalise(w_gradient, w, w_norm))


def first_centres(start: int, stop: int, embedding_size: int, seed: int) -> np.ndarray:
    """Return the first values of the classes start .. stop - 1, float32 [classes, embedding_size], normal, std 0.01."""
    centres = np.empty((stop - start, embedding_size), np.float32)
    for block in range(start // CENTRES_PER_KEY, -(-stop // CENTRES_PER_KEY)):
        first = block * CENTRES_PER_KEY
        draw = generator(Purpose.CLASS_CENTRES, seed, block)
        values = draw.standard_normal((CENTRES_PER_KEY, embedding_size), np.float32) * np.float32(0.01)
        low, high = max(start, first), min(stop, first + CENTRES_PER_KEY)
        centres[low - start : high - start] = values[low - first : high - first]
    return centres


def _normalise(x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the rows of x [n, D] at unit length, and their lengths [n, 1]."""
    norm = x.norm(axis=1, keepdim=True).clip(min=SMALLEST_NORM)
    return x / norm, norm


def _through_normalise(gradient: paddle.Tensor, unit: paddle.Tensor, norm: paddle.Tensor) -> paddle.Tensor:
    """Turn the gradient by the unit rows into the gradient by the rows: only the part across them counts."""
    return (gradient - (gradient * unit).sum(1, keepdim=True) * unit) / norm


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
