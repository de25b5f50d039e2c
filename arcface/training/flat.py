"""Flat: tensors as views of one vector, so that an operation on all of them is one kernel call instead of hundreds."""

from itertools import groupby

import paddle

ALIGNMENT = 64  # values, 256 bytes: where Paddle's allocator, cuDNN and vectorised kernels expect a tensor to begin


class Flat:
    """Named float32 tensors of any shapes as parts of `vector`, float32 [P]: what changes one changes the other.

    Their order in the vector puts shapes together that differ in the first dimension only: these are gathered in one call. Tensors
    of other sizes than multiples of ALIGNMENT come last. Without tensors, the vector is one 0, in no tensor: not every kernel and
    every backend of collectives takes an empty one.
    """

    @paddle.no_grad()
    def __init__(self, tensors: dict[str, paddle.Tensor]):
        self.tensors = tensors
        self._order = sorted(tensors, key=lambda name: _kind(tensors[name]))
        self.vector = self.gather(tensors)
        for name, view in self.parts(self.vector).items():
            # Not public: Tensor.set_ is new in Paddle 3. paddle.nn.utils.vector_to_parameters does the same with copies.
            view._share_underline_tensor_to(tensors[name])

    @paddle.no_grad()
    def gather(self, tensors: dict[str, paddle.Tensor]) -> paddle.Tensor:
        """Return a new vector with the values of other tensors of the same names and shapes, such as gradients."""
        if not tensors:
            return paddle.zeros([1])
        groups = groupby((tensors[name] for name in self._order), _kind)
        return paddle.concat([paddle.concat(list(group)).reshape([-1]) for _, group in groups])

    def parts(self, vector: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Return views of a vector in the shapes of the tensors, by name, in the order of the tensors."""
        parts, start = {}, 0
        for name in self._order:
            stop = start + self.tensors[name].size
            parts[name] = vector[start:stop].reshape(self.tensors[name].shape)
            start = stop
        return {name: parts[name] for name in self.tensors}

    def is_shared(self) -> bool:
        """Whether the tensors still are parts of the vector."""
        parts = self.parts(self.vector)
        return all(tensor.data_ptr() == parts[name].data_ptr() for name, tensor in self.tensors.items())


def _kind(tensor: paddle.Tensor) -> tuple:
    shape = list(tensor.shape)
    return tensor.size % ALIGNMENT != 0, len(shape), shape[1:]
