"""Batch norm folded into the convolution or linear layer before it: in evaluation both are one affine map of the same input."""

import numpy as np
import paddle
from paddle import nn

from arcface.io.images import SIZE


def fold_batch_norm(backbone: nn.Layer) -> None:
    """Fold, in place, each batch norm that directly follows a convolution or linear layer; others stay.

    The backbone must be in evaluation mode, and cannot be trained afterwards. Which layer comes before which is seen in a forward
    pass. (Jacob et al. 2018, arXiv:1712.05877, section 3.2, for the formula.)
    """
    for norm, layer in _followers(backbone):
        _fold(norm, layer)
        _replace(backbone, norm, nn.Identity())


def _followers(backbone: nn.Layer) -> list[tuple[nn.Layer, nn.Layer]]:
    """Return each batch norm whose input, maybe reshaped, is the output of a convolution or linear layer called just before."""
    calls: list[tuple[nn.Layer, np.ndarray, np.ndarray]] = []  # of the layers without sub-layers, in order: input and output

    def note(layer, inputs, output):
        calls.append((layer, inputs[0].numpy().ravel(), output.numpy().ravel()))
        del calls[:-2]
        if len(calls) == 2 and isinstance(layer, nn.BatchNorm2D):
            (before, _, out), (_, values, _) = calls
            if isinstance(before, nn.Conv2D | nn.Linear) and np.array_equal(out, values):
                pairs.append((layer, before))

    pairs: list[tuple[nn.Layer, nn.Layer]] = []
    hooks = [layer.register_forward_post_hook(note) for layer in backbone.sublayers() if not layer.sublayers()]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
    with paddle.no_grad():
        backbone(paddle.to_tensor(image))
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(norm: nn.Layer, layer: nn.Layer) -> None:
    per_channel = [-1, 1, 1, 1] if layer.weight.ndim == 4 else [1, -1]  # of a weight [out, in, h, w], or [in, out]
    channels = layer.weight.shape[per_channel.index(-1)]
    factor, shift = _affine(norm, channels)
    bias = 0.0 if layer.bias is None else layer.bias.numpy()
    if layer.bias is None:
        layer.bias = layer.create_parameter([channels], is_bias=True)
    layer.weight.set_value((layer.weight.numpy() * factor.reshape(per_channel)).astype(np.float32))
    layer.bias.set_value((bias * factor + shift).astype(np.float32))


def _affine(norm: nn.Layer, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and shift of each channel, float64 [channels], with which the layer maps x to factor * x + shift."""
    far = 2.0**20  # its image is exact to a float's precision, whatever the shift
    with paddle.no_grad():
        low, shift, high = (
            norm(paddle.full([1, channels, 1, 1], value)).numpy().astype(np.float64).ravel() for value in (-far, 0.0, far)
        )
    return (high - low) / (2 * far), shift


def _replace(backbone: nn.Layer, old: nn.Layer, new: nn.Layer) -> None:
    for parent in backbone.sublayers(include_self=True):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
