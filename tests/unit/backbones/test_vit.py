"""Vision transformers: arcface_torch's names, sizes and embeddings, its initial values, and what its definition says of inputs."""

import json
import zlib

import numpy as np
import paddle
import pytest
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.batch_norm import AllReduceBatchNorm2D, batch_norm_layer
from arcface.backbones.layers import batch_norm_rows
from arcface.backbones.vit import HEADS, MLP, Attention
from arcface.weights.torch import in_our_layout, torch_name

OTHERS = [pytest.param(name, marks=pytest.mark.exhaustive) for name in ("vit_s", "vit_b")]
PARAMETERS = {"vit_t": 19_137_792, "vit_s": 76_023_296, "vit_b": 113_833_472}  # of embeddings of 512; vit_s is vit_b less 12 blocks
DEPTHS = {"vit_t": 12, "vit_s": 12, "vit_b": 24}


def is_statistic(name: str) -> bool:
    return name.endswith(("._mean", "._variance"))


def value(name: str, shape: list[int]) -> np.ndarray:
    """A tensor of PyTorch's state dict by the rule of known_backbones.json."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.2 * drawn)
    if len(shape) > 1:
        return 0.5 * drawn * np.sqrt(1 / np.prod(shape[1:]))
    if name.endswith(("running_mean", "bias")):
        return 0.1 * drawn
    return 1 + 0.1 * drawn


@pytest.mark.parametrize("name", ["vit_t", pytest.param("vit_b", marks=pytest.mark.exhaustive)])
def test_names_shapes_order_and_embeddings_are_arcface_torch_s(name, real_data):
    known = json.loads((real_data / "known_backbones.json").read_text())[name]
    backbone = create_backbone(name, 512)
    state = backbone.state_dict()
    shapes = {torch_name(key): tensor.shape[::-1] if len(tensor.shape) == 2 else tensor.shape for key, tensor in state.items()}
    assert list(shapes.items()) == list(known["names"].items())
    assert sum(tensor.size for key, tensor in state.items() if not is_statistic(key)) == known["parameters"]

    for key, tensor in state.items():
        array = in_our_layout(value(torch_name(key), known["names"][torch_name(key)]), tuple(tensor.shape))
        tensor.set_value(np.ascontiguousarray(array, np.float32))
    images = np.random.default_rng(7).integers(0, 256, (2, 3, 112, 112), np.uint8)
    backbone.eval()
    with paddle.no_grad():
        embeddings = backbone(paddle.to_tensor(((images - 127.5) / 127.5).astype(np.float32))).numpy().astype(np.float64)
    norms = np.linalg.norm(embeddings, axis=1)
    tolerance = 1e-4 * np.array(known["norm"])
    assert (np.abs(embeddings[:, :16] - known["embedding_first16"]) <= tolerance[:, None]).all()
    assert (np.abs(norms - known["norm"]) <= tolerance).all()
    assert (np.abs(embeddings.sum(1) - known["sum"]) <= tolerance).all()


@pytest.mark.parametrize("name", ["vit_t", *OTHERS])
def test_size_and_depth_are_arcface_torch_s(name):
    state = create_backbone(name, 512).state_dict()
    assert sum(tensor.size for key, tensor in state.items() if not is_statistic(key)) == PARAMETERS[name]
    assert {key.split(".")[1] for key in state if key.startswith("blocks.")} == {str(block) for block in range(DEPTHS[name])}


@pytest.mark.parametrize("name", ["vit_t", *OTHERS])
def test_all_that_is_trained_gets_a_gradient_and_two_passes_give_the_same(name):
    backbone = create_backbone(name, 32)
    images, upstream = paddle.rand([3, 3, 112, 112]), paddle.rand([3, 32])
    gradients = []
    for _ in range(2):
        (backbone(images) * upstream).sum().backward()
        gradients.append({key: tensor.grad.numpy() for key, tensor in backbone.named_parameters() if not tensor.stop_gradient})
        backbone.clear_gradients()
    assert all(gradient.any() for gradient in gradients[0].values())
    assert all(np.array_equal(gradient, gradients[1][key]) for key, gradient in gradients[0].items())
    state = backbone.state_dict()
    assert {key for key in state if key not in gradients[0] and not is_statistic(key)} == {"mask_token"}


def test_attention_is_the_softmax_of_scaled_products_in_each_head():
    """Against a loop in float64: Vaswani et al. 2017, arXiv:1706.03762, equation 1."""
    paddle.seed(0)
    dim, size = 64, 64 // HEADS
    attention = Attention(dim)
    attention.qkv.weight.set_value(paddle.randn([dim, 3 * dim]) * 0.3)
    x = paddle.randn([2, 144, dim])
    qkv = x.numpy().astype(np.float64) @ attention.qkv.weight.numpy()
    expected = np.empty((2, 144, dim))
    for head in range(HEADS):
        query, key, values = (qkv[..., start : start + size] for start in range(head * size, 3 * dim, dim))
        weights = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(size))
        expected[..., head * size : (head + 1) * size] = weights / weights.sum(-1, keepdims=True) @ values
    expected = expected @ attention.proj.weight.numpy() + attention.proj.bias.numpy()
    assert np.abs(attention(x).numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_initial_values_are_arcface_torch_s():
    """Linear layers and the embedding of positions: normal, 0.02; patches: PyTorch's default of convolutions; norms: 1 and 0."""
    paddle.seed(0)
    backbone = create_backbone("vit_t", 512)
    bound = (3 * 9 * 9) ** -0.5
    stds = {"pos_embed": 0.02, "mask_token": 0.02, "patch_embed.proj.weight": bound / np.sqrt(3)}
    for key, layer in backbone.named_sublayers():
        if isinstance(layer, nn.Linear):
            stds[f"{key}.weight"] = 0.02
    for key, tensor in backbone.state_dict().items():
        values = tensor.numpy().astype(np.float64)
        if key in stds:
            assert abs(values.std() / stds[key] - 1) < 4 / np.sqrt(2 * values.size), key
            assert abs(values.mean()) < 4 * stds[key] / np.sqrt(values.size), key
        elif key == "patch_embed.proj.bias":
            assert 0.9 * bound < np.abs(values).max() <= bound
        else:
            assert (values == (1 if key.endswith(("weight", "_variance")) else 0)).all(), key
    assert backbone.patch_embed.proj.weight.abs().max().item() <= bound


def test_an_mlp_s_activation_is_between_0_and_6():
    mlp = MLP(8)
    mlp.fc1.bias.set_value(paddle.concat([paddle.full([16], 9.0), paddle.full([16], -9.0)]))
    mlp.fc2.weight.set_value(paddle.ones([32, 8]))
    assert (mlp(paddle.zeros([1, 144, 8])).numpy() == 6 * 16).all()


@pytest.mark.parametrize("last", [1, 3])
def test_the_epsilon_of_the_norms_behind_the_patches_is_arcface_torch_s(last):
    """A variance of 0 in place of 1 multiplies the output, whatever it is, by sqrt((1 + epsilon) / epsilon)."""
    norm = create_backbone("vit_t", 32).feature[last]
    norm.eval()
    x = paddle.ones([1, norm.weight.shape[0]])
    before = batch_norm_rows(norm, x)
    norm._variance.set_value(paddle.zeros_like(norm._variance))
    assert np.allclose((batch_norm_rows(norm, x) / before).numpy(), np.sqrt((1 + 2e-5) / 2e-5), rtol=1e-4)


@pytest.mark.parametrize("kind", ["local", "sync", "frozen"])
def test_each_kind_of_batch_norm_has_the_epsilon_asked_for_on_rows(kind):
    """On rows whose variance is about the epsilon, so that a wrong one shows, in training and in evaluation."""
    norm = batch_norm_layer(kind)(5, 2e-5)
    rows = np.random.default_rng(0).normal(1, 0.005, (8, 5)).astype(np.float32)
    in_training = batch_norm_rows(norm, paddle.to_tensor(rows)).numpy()
    if kind != "frozen":
        assert isinstance(norm, AllReduceBatchNorm2D) == (kind == "sync")
        expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 2e-5)
        assert np.allclose(in_training, expected, atol=1e-3)
    norm._mean.set_value(rows.mean(0))
    norm._variance.set_value(rows.var(0))
    norm.eval()
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 2e-5)
    assert np.allclose(batch_norm_rows(norm, paddle.to_tensor(rows)).numpy(), expected, atol=1e-3)
