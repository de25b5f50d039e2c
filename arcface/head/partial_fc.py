"""Partial FC: a margin softmax over class centres that are sharded over the ranks (An et al. 2021, arXiv:2010.05222).

Row i of the batch has the embedding x_i and the label y_i; class j has the centre w_j:

    cos_ij = <x_i, w_j> / (|x_i| |w_j|)
    z_ij   = scale * margin(cos_ij)  for the target, j = y_i;  scale * cos_ij  for the negatives, all other j
    loss   = mean_i  log(sum_j e^z_ij) - z_i,y_i

Each rank has the whole batch and the classes of its shard. A row has one target, computed apart in [N, D], and very many
negatives, computed a block of classes at a time (block_softmax.py), of which two sums remain:

    S_i = sum_{j != y_i} e^z_ij                [N, 1]
    W_i = sum_{j != y_i} e^z_ij w_j / |w_j|    [N, D], the weighted centres

With the target's logit z_i, its unit centre t_i and T_i = margin'(cos_i) t_i, that is all of loss and gradients:

    loss                = mean_i  log(1 + S_i / e^z_i)
    d loss / d cos_ij   = p_i e^z_ij (negatives),  -p_i S_i margin'(cos_i) (target);    p_i = scale / (S_i + e^z_i) / rows
    d loss / d unit x_i = p_i (W_i - S_i T_i)

The gradient of the centres is one product for negatives and targets: of p_i x_i / |x_i| with the array of the e^z_ij, in which
-S_i margin'(cos_i) then takes the target's place.

Means are over the rows with a label. The ranks exchange embeddings and labels (all_gather), and S, W, z and T (one all_reduce).
Centres and their gradients never leave their rank. No row depends on another, so a step may be computed in parts, whose losses and
gradients add up; the number of rows with a label and the classes in use are the whole step's. docs/head.md says where each line of
InsightFace's Partial FC is here.
"""

from collections.abc import Callable, Sequence
from ctypes import CDLL
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer
from paddle.nn.functional import softplus

from arcface.distributed.process_group import all_gather, all_reduce_sum, rank, world_size
from arcface.errors import UserError
from arcface.head.block_softmax import BlockSoftmax, CentreGradient, blocks
from arcface.head.centres import initial_centres
from arcface.head.margins import Margin, apply_margin
from arcface.head.sampling import sample_classes
from arcface.head.shards import shard_of
from arcface.head.targets import find_targets
from arcface.head.unit import row_sums, unit, unit_backward

SMALLEST_TOTAL = 1e-30  # below what one negative gives, exp(-64)


class PartialFC:
    """The class centres of this rank's shard with their velocity, the loss, and the update by momentum SGD.

    weight, velocity: float32 [classes of this rank, embedding_size]. With sample_rate < 1 each step uses the classes of the
    batch and random negatives, about that share of all classes (sampling.py); only these are read, updated and decayed.
    With `library`, the CPU kernels make the passes over a block of classes.

    Raises UserError for fewer classes than ranks.
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
        self.weight = paddle.empty([self.shard.size, embedding_size])
        for block in blocks(self.shard.size):  # the process would keep the memory of a whole copy
            start, stop = self.shard.start + block.start, self.shard.start + block.stop
            centres = paddle.to_tensor(initial_centres(start, stop, embedding_size, seed))
            paddle.assign(centres, self.weight[block])  # Paddle 2.6 assigns to a slice by way of zeros as large as the whole
        self.velocity = paddle.zeros_like(self.weight)
        # The classes that the last step used: int64, sorted, counted from the shard's start; None for all.
        self.sampled: paddle.Tensor | None = None
        self._parts: list[tuple[BlockSoftmax, paddle.Tensor]] = []  # of the step, those whose loss is still to be asked for
        self._gradients: list[CentreGradient] = []  # of the others, for `update`

    def loss(
        self,
        embeddings: paddle.Tensor,
        labels: paddle.Tensor,
        step: int,
        listed: np.ndarray | None = None,
        part: int = 0,
        parts: int = 1,
    ) -> paddle.Tensor:
        """Return the mean loss over all ranks' rows, a scalar; its backward gives the embeddings' gradient.

        embeddings: float32 [n, embedding_size], not normalised; labels: int64 [n], below num_classes, where a negative one
        leaves its row out of the loss; every rank passes the same n. `step` keys the sampling. What makes up the centres'
        gradient is kept for `update`.

        listed: int64 [N], the labels of all ranks' rows, rank by rank, if the host knows them: then it does not wait for the
        device to read them. A row with a label in `listed` and a negative one in `labels` is left out of the loss, but its class is
        in use.

        A step in several parts calls this for each in turn, with the same labels and the embeddings of its rows only, the rows
        part * n / parts and on of each rank. The parts' losses add up to the mean over all rows.
        """
        if part == 0:
            self._begin(all_gather(labels), step, listed, parts)
        softmax, mean = self._parts.pop(0)
        return _KnownGradient.apply(embeddings, lambda x: self._loss_and_gradient(x, softmax, mean))

    @paddle.no_grad()
    def _begin(self, labels: paddle.Tensor, step: int, listed: np.ndarray | None, parts: int) -> None:
        """Find out what the parts of a step share: the classes in use, and each row's share of the mean; labels: int64 [N]."""
        self._gradients = []  # frees what a step without an update has left
        listed = labels.numpy() if listed is None else listed
        sampled = self._sample(listed, step)
        targets = [find_targets(rows, self.shard, sampled) for rows in _rows_of_parts(listed, parts)]
        self.sampled = targets[0].sampled
        in_use = self.weight if self.sampled is None else paddle.gather(self.weight, self.sampled)
        softmaxes = [BlockSoftmax(in_use, rows, self.scale, self.library) for rows in targets]
        valid = (labels >= 0).astype(self.weight.dtype).unsqueeze(1)
        self._parts = list(zip(softmaxes, _rows_of_parts(valid / valid.sum().clip(min=1), parts), strict=True))

    @paddle.no_grad()
    def _loss_and_gradient(
        self, embeddings: paddle.Tensor, softmax: BlockSoftmax, mean: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return a part's loss and its gradient with respect to this rank's embeddings [n, D].

        mean: [N, 1], what each of all ranks' rows counts for in the mean.
        """
        x, x_inv_norm = unit(embeddings)
        X = all_gather(x)  # [N, D], all ranks' rows
        S, W = softmax.sums(self.scale * X)

        t, t_inv_norm = softmax.target_centres()  # [N, D], [N, 1]
        cos, dcos = apply_margin(row_sums(X * t), self.margin)
        owned = softmax.targets.owned.astype(x.dtype).unsqueeze(1)
        S, W, z, T = _all_reduce_sum(S, W, self.scale * owned * cos, owned * dcos * t)
        if softmax.shift is not None:
            z -= softmax.shift

        loss = (mean * softplus(S.log() - z)).sum()

        p = mean * self.scale / (S + z.exp()).clip(min=SMALLEST_TOTAL)
        softmax.set_targets(-S * dcos * t_inv_norm)
        self._gradients.append(CentreGradient(softmax, p * X))
        n = len(x)
        own = slice(rank() * n, (rank() + 1) * n)
        return loss, unit_backward((p * (W - S * T))[own], x, x_inv_norm)

    @paddle.no_grad()
    def update(self, lr: float, momentum: float, weight_decay: float, finite: paddle.Tensor | None = None) -> None:
        """Take a step after `loss`: v = momentum * v + gradient + weight_decay * w;  w = w - lr * v.

        finite: bool [1] on the device, False for a step that has to leave w and v as they are.
        """
        assert self._gradients, "an update follows a loss"
        (softmax, p_x), *others = self._gradients
        self._gradients = []
        softmax.update(p_x, self.weight, self.velocity, lr, momentum, weight_decay, finite, others)

    def _sample(self, labels: np.ndarray, step: int) -> np.ndarray | None:
        if self.sample_rate >= 1:
            return None
        return sample_classes(labels, self.num_classes, self.shard, self.sample_rate, self.seed, step)


def _rows_of_parts(rows: Any, parts: int) -> list[Any]:
    """Return the rows [N] or [N, 1] of each part, an array's or a tensor's: of each rank's rows in turn, the part's share."""
    if parts == 1:
        return [rows]
    shape = list(rows.shape)
    by_rank = rows.reshape([world_size(), parts, -1])
    return [by_rank[:, part].reshape([-1, *shape[1:]]) for part in range(parts)]


def _all_reduce_sum(*parts: paddle.Tensor) -> Sequence[paddle.Tensor]:
    """Return the sums over the ranks of tensors [N, any], in one call."""
    if world_size() == 1:
        return parts
    return all_reduce_sum(paddle.concat(parts, 1)).split([part.shape[1] for part in parts], 1)


class _KnownGradient(PyLayer):
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
