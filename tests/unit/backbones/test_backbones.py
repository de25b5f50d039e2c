"""What every registered backbone promises."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from backbone_params import backbones, families

from arcface.backbones import create_backbone
from arcface.backbones.batch_norm import AllReduceBatchNorm2D
from arcface.errors import UserError
from arcface.weights.state_dict import load_backbone, read_state_dict, state_dict_bytes

HELPERS = Path(__file__).parents[2] / "helpers"


@pytest.fixture(params=backbones())
def name(request):
    return request.param


def trainable(backbone):
    return {key: tensor for key, tensor in backbone.named_parameters() if not tensor.stop_gradient}


def test_embeddings_have_the_asked_length_and_depend_on_the_image(name):
    backbone = create_backbone(name, embedding_size=64)
    backbone.eval()
    embeddings = backbone(paddle.rand([2, 3, 112, 112]))
    assert embeddings.shape == [2, 64] and embeddings.dtype == paddle.float32
    assert not np.allclose(embeddings[0].numpy(), embeddings[1].numpy())


def test_what_is_saved_and_loaded_embeds_alike_in_batches_of_1_and_7(name, tmp_path):
    saved, loaded = create_backbone(name, 64), create_backbone(name, 64)
    file = tmp_path / f"{name}.pdparams"
    file.write_bytes(state_dict_bytes({key: tensor.numpy() for key, tensor in saved.state_dict().items()}))
    load_backbone(loaded, read_state_dict(file), str(file))
    saved.eval()
    loaded.eval()
    images = paddle.rand([7, 3, 112, 112])
    with paddle.no_grad():
        expected, seven, one = saved(images).numpy(), loaded(images).numpy(), loaded(images[:1]).numpy()
    assert seven.shape == (7, 64) and np.array_equal(seven, expected)
    assert one.shape == (1, 64) and np.allclose(one, expected[:1], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_parameter_gets_a_gradient(name):
    backbone = create_backbone(name, embedding_size=32)
    (backbone(paddle.rand([4, 3, 112, 112])) * paddle.rand([4, 32])).sum().backward()
    for parameter_name, parameter in trainable(backbone).items():
        assert parameter.grad is not None and (parameter.grad.numpy() != 0).any(), parameter_name


@pytest.mark.parametrize("batch_norm", ["sync", "frozen"])
def test_every_kind_of_batch_norm_has_the_same_state_and_evaluates_alike(name, batch_norm):
    local, other = create_backbone(name, 32), create_backbone(name, 32, batch_norm)
    states = [{key: tensor.shape for key, tensor in backbone.state_dict().items()} for backbone in (local, other)]
    assert states[0] == states[1]
    other.set_state_dict(local.state_dict())
    local.eval()
    other.eval()
    images = paddle.rand([2, 3, 112, 112])
    with paddle.no_grad():
        expected, found = local(images).numpy(), other(images).numpy()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(name):
    backbone = create_backbone(name, 32, "frozen")
    before = {key: tensor.numpy().copy() for key, tensor in backbone.state_dict().items()}
    backbone(paddle.rand([2, 3, 112, 112])).sum().backward()
    learned = trainable(backbone)
    assert all(np.array_equal(before[key], tensor.numpy()) for key, tensor in backbone.state_dict().items())
    assert all(parameter.grad is not None for parameter in learned.values())
    assert learned.keys() == trainable(create_backbone(name, 32)).keys()


@pytest.mark.parametrize("name", [param for param in backbones() if not param.values[0].startswith("vit_")])  # see test_vit.py
def test_every_layer_starts_from_he_s_values_with_the_fan_that_it_has(name):
    """He et al. 2015: sqrt(2 / fan_in), within four standard errors; in a depthwise layer, fan_in is k * k."""
    first = {}
    for seed in (0, 1):
        paddle.seed(seed)
        backbone = create_backbone(name, 128)
        for key, layer in backbone.named_sublayers():
            if isinstance(layer, (paddle.nn.Conv2D, paddle.nn.Linear)):
                weight = layer.weight.numpy()
                fan_in = weight.shape[0] if weight.ndim == 2 else np.prod(weight.shape[1:])
                expected = np.sqrt(2 / fan_in)
                assert abs(weight.std(dtype=np.float64) / expected - 1) < 4 / np.sqrt(2 * weight.size), key
                assert abs(weight.mean(dtype=np.float64)) < 4 * expected / np.sqrt(weight.size), key
                some = weight.ravel()[:8]
                assert not np.array_equal(first.setdefault(key, some), some) or seed == 0
                assert layer.bias is None or not layer.bias.numpy().any()
            elif isinstance(layer, paddle.nn.PReLU):
                assert (layer.parameters()[0].numpy() == 0.25).all(), key
            elif isinstance(layer, paddle.nn.BatchNorm2D):
                values = [layer.state_dict()[part].numpy() for part in ("weight", "bias", "_mean", "_variance")]
                assert [set(value) for value in values] == [{1.0}, {0.0}, {0.0}, {1.0}], key
            else:
                assert not layer.parameters(include_sublayers=False), f"{key}: its initial values are not tested"


def test_mobilefacenet_128_has_the_published_size_and_the_2021_toolkit_s_names():
    state = create_backbone("MobileFaceNet_128", 128).state_dict()
    assert sum(int(np.prod(tensor.shape)) for tensor in state.values()) == 1_022_720
    norm = ["weight", "bias", "_mean", "_variance"]
    expected = set()
    for block in ("conv1", "dw_conv1", "conv2", "linear7", "linear1"):
        expected |= {f"{block}.conv.weight", *(f"{block}.bn.{part}" for part in norm)}
        if not block.startswith("linear"):
            expected.add(f"{block}.prelu._weight")
    for block in range(15):
        expected |= {f"blocks.{block}.conv.{part}.weight" for part in (0, 3, 6)}
        expected |= {f"blocks.{block}.conv.{part}.{value}" for part in (1, 4, 7) for value in norm}
        expected |= {f"blocks.{block}.conv.{part}._weight" for part in (2, 5)}
    assert state.keys() == expected


def test_arcface_torch_s_names_mean_the_same_networks():
    assert create_backbone("r18", 32).state_dict().keys() == create_backbone("iresnet18", 32).state_dict().keys()


def test_an_unknown_backbone_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="MobileFacenet128: no such backbone; did you mean MobileFaceNet_128"):
        create_backbone("MobileFacenet128", 128)


def test_all_reduce_batch_norm_equals_paddle_s_on_one_rank():
    paddle.seed(0)
    layers = [paddle.nn.BatchNorm2D(5), AllReduceBatchNorm2D(5)]
    results = []
    for layer in layers:
        layer.weight.set_value(paddle.linspace(0.5, 2, 5))
        layer.bias.set_value(paddle.linspace(-1, 1, 5))
        x = paddle.to_tensor(np.random.default_rng(0).normal(3, 2, (6, 5, 7, 4)).astype(np.float32), stop_gradient=False)
        y = layer(x)
        (y * paddle.to_tensor(np.random.default_rng(1).normal(size=(6, 5, 7, 4)).astype(np.float32))).sum().backward()
        results.append([y, x.grad, layer.weight.grad, layer.bias.grad, *layer.state_dict().values()])
    for paddle_s, ours in zip(*results):
        assert np.allclose(paddle_s.numpy(), ours.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", families())
def test_two_ranks_with_sync_batch_norm_have_the_outputs_and_gradients_of_one(name, run_ranks, tmp_path):
    for ranks in (1, 2):
        run_ranks(ranks, HELPERS / "sync_worker.py", name, tmp_path / f"{ranks}.npz")
    one, two = (np.load(tmp_path / f"{ranks}.npz") for ranks in (1, 2))
    assert set(one) == set(two) and len(one) > 100
    largest = max(np.abs(one[name]).max() for name in one if name.endswith("weight"))
    for name in one:
        assert np.abs(two[name] - one[name]).max() <= 1e-9 * max(np.abs(one[name]).max(), largest / 1000), name
