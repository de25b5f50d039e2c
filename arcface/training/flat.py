"""Flat: tensors as views of one vector, so that an operation on all of them is one kernel call instead of hundreds."""

from collections.abc import Iterable

import paddle

ALIGNMENT = 64  # values, 256 bytes: where Paddle's allocator, cuDNN and vectorised kernels expect a tensor to begin


class Flat:
    """Named float32 tensors of any shapes, one after the other in `vector`, float32 [P]; what changes one changes the other.

    Where a size is no multiple of ALIGNMENT, zeros fill the gap. Without tensors, the vector is empty.
    """

    @paddle.no_grad()
    def __init__(self, tensors: dict[str, paddle.Tensor]):
        self.tensors = tensors
        self._gaps = [paddle.zeros([-tensor.size % ALIGNMENT]) for tensor in tensors.values()]
        self.vector = self.gather(tensors.values())
        for tensor, view in zip(tensors.values(), self.parts(self.vector).values(), strict=True):
            # Not public: Tensor.set_ is new in Paddle 3. paddle.nn.utils.vector_to_parameters does the same with copies.
            view._share_underline_tensor_to(tensor)

    @paddle.no_grad()
    def gather(self, tensors: Iterable[paddle.Tensor]) -> paddle.Tensor:
        """Return a new vector with the values of other tensors, of the same shapes in the same order, such as gradients."""
        pieces = [paddle.zeros([0])]
        for tensor, gap in zip(tensors, self._gaps, strict=True):
            pieces.append(tensor if tensor.ndim == 1 else tensor.reshape([-1]))
            if gap.size:
                pieces.append(gap)
        return paddle.concat(pieces)

    def parts(self, vector: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Return views of a vector in the shapes of the tensors, by name."""
        parts, start = {}, 0
        for (name, tensor), gap in zip(self.tensors.items(), self._gaps, strict=True):
            parts[name] = vector[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size + gap.size
        return parts

    def is_shared(self) -> bool:
        """Whether the tensors still are views of the vector."""
        return all(
            tensor.data_ptr() == view.data_ptr()
            for tensor, view in zip(self.tensors.values(), self.parts(self.vector).values(), strict=True)
        )
