"""In which type each layer of a backbone gets its input and parameters, and what it hands on; how a CPU emulates that."""

import re

import numpy as np
import paddle
import pytest
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones import precision as precision_module
from arcface.backbones.batch_norm import AllReduceBatchNorm2D
from arcface.backbones.layers import Conv2D
from arcface.backbones.precision import cast, check_precision, emulated_cast, rounded, use_casts, use_precision
from arcface.backbones.recompute import recomputable_blocks
from arcface.backbones.stages import freeze, stages_named
from arcface.errors import UserError
from arcface.weights.state_dict import as_arrays

# Input, parameters ("-": none) and output of each kind of layer.
BY_KIND = {
    "Conv2D": "low low low",
    "depthwise Conv2D": "float32 float32 low",
    "BatchNorm2D": "low float32 low",
    "PReLU": "low low low",
    "Add": "low - low",
    "Linear": "low low low",
    "LayerNorm": "float32 float32 float32",
    "ReLU6": "low - low",
    "Softmax": "low - low",
    "Product": "low - low",
}
# And where a network differs: the last layers, and a transformer's sums.
FLOAT32 = "float32 float32 float32"
EXCEPTIONS = {
    "iresnet18": {"fc|features": FLOAT32},
    "mbf": {"features.*": FLOAT32},
    "MobileFaceNet_128": {"linear[17].*": FLOAT32},
    "vit_t": {"feature.*": FLOAT32, "(.*[.])?add": "float32 - float32"},
}


def exhaustive(network: str):
    return pytest.param(network, marks=pytest.mark.exhaustive)


def expected_table(network: str, backbone: nn.Layer) -> dict[str, str]:
    table = {}
    for name, layer in leaves(backbone):
        kind = type(layer).__name__
        if kind == "Conv2D" and layer.weight.shape[1] == 1:
            kind = "depthwise Conv2D"
        exceptions = [row for pattern, row in EXCEPTIONS[network].items() if re.fullmatch(pattern, name)]
        table[name] = exceptions[0] if exceptions else BY_KIND[kind]
    return table


def leaves(backbone: nn.Layer) -> list[tuple[str, nn.Layer]]:
    return [(name, layer) for name, layer in backbone.named_sublayers() if not layer.sublayers()]


def wrap(backbone: nn.Layer, seen: dict) -> None:
    """Note what each layer computes with, what it returns to the next, and the gradient of that."""
    for name, layer in leaves(backbone):

        def forward(*inputs, name=name, layer=layer, real=layer.forward):
            names = [parameter for parameter, _ in layer.named_parameters(include_sublayers=False)]
            seen[name] = [list(inputs), [getattr(layer, parameter) for parameter in names]]
            return real(*inputs)

        layer.forward = forward
        layer.register_forward_post_hook(lambda layer, inputs, output, name=name: seen[name].append([output]))


def kinds(tensors: list[paddle.Tensor], kind) -> str:
    return "+".join(dict.fromkeys(map(kind, tensors))) or "-"


def with_noise(backbone: nn.Layer) -> nn.Layer:
    """Initial values such as 0.25 are in every type."""
    for parameter in backbone.parameters():
        parameter.set_value(parameter + 0.01 * paddle.rand(parameter.shape))
    return backbone


def computed(network: str, how) -> tuple[nn.Layer, dict, paddle.Tensor]:
    backbone, seen = with_noise(create_backbone(network, 32)), {}
    how(backbone)
    wrap(backbone, seen)
    embeddings = backbone(paddle.rand([2, 3, 112, 112]))
    (embeddings * paddle.rand([2, 32])).sum().backward()
    return backbone, seen, embeddings


@pytest.mark.parametrize("network, frozen", [*((network, "") for network in EXCEPTIONS), ("MobileFaceNet_128", "stage2")])
def test_each_layer_has_the_types_of_the_table(network, frozen):
    """With real casts, as on a GPU: float64 is what a CPU has kernels for. Batch norm's take no parameters of another type."""

    def with_float64(backbone):
        for layer in backbone.sublayers():
            if isinstance(layer, nn.BatchNorm2D) and not getattr(layer, "keeps_float32", False):
                layer.forward = lambda x, real=layer.forward: real(x.astype("float32")).astype(x.dtype)
        use_casts(backbone, "float64", cast)
        freeze(backbone, stages_named(frozen, backbone))

    def kind(tensor) -> str:
        return {paddle.float64: "low", paddle.float32: "float32"}[tensor.dtype]

    backbone, seen, embeddings = computed(network, with_float64)
    found = {name: " ".join(kinds(part, kind) for part in parts) for name, parts in seen.items()}
    expected = expected_table(network, backbone)
    assert {name: row for name, row in found.items() if expected.get(name) != row} == {}
    assert found.keys() == expected.keys()
    assert embeddings.dtype == paddle.float32
    trained = [parameter for parameter in backbone.parameters() if not parameter.stop_gradient]
    assert all(parameter.dtype == parameter.grad.dtype == paddle.float32 for parameter in trained)


@pytest.mark.parametrize("network", [n if n == "MobileFaceNet_128" else exhaustive(n) for n in EXCEPTIONS])
def test_an_emulated_backbone_has_the_values_of_the_table(network):
    def is_bfloat16(tensor) -> bool:
        return not (tensor.numpy().view(np.uint32) & 0xFFFF).any()

    backbone, seen, _ = computed(network, lambda backbone: use_precision(backbone, "bf16"))
    expected, layers = expected_table(network, backbone), dict(leaves(backbone))
    wrong = []
    for name, (inputs, parameters, output) in seen.items():
        of_inputs, of_parameters, of_output = expected[name].split()
        gradients = [layers[name].state_dict()[key].grad for key, _ in layers[name].named_parameters(include_sublayers=False)]
        gradients = [gradient for gradient in gradients if gradient is not None]
        rows = [("output", output, of_output), ("parameters", parameters, of_parameters), ("gradients", gradients, of_parameters)]
        if "low" in of_inputs:
            rows.append(("inputs", inputs, "low"))
        wrong += [(name, what) for what, tensors, kind in rows if tensors and all(map(is_bfloat16, tensors)) != ("low" in kind)]
    assert wrong == [] and seen.keys() == expected.keys()


@pytest.mark.parametrize("network", ["Tiny", exhaustive("vit_t")])
def test_parameters_and_evaluation_stay_float32(network, tiny):
    backbone = with_noise(create_backbone(network, 32))
    before, images = as_arrays(backbone.state_dict()), paddle.rand([2, 3, 112, 112])
    backbone.eval()
    expected = backbone(images).numpy()
    use_precision(backbone, "bf16")
    assert np.array_equal(backbone(images).numpy(), expected)
    backbone.train()
    assert not np.array_equal(backbone(images).numpy(), expected)
    backbone.eval()
    other = create_backbone(network, 32)
    other.set_state_dict(backbone.state_dict())
    other.eval()
    assert np.array_equal(backbone(images).numpy(), other(images).numpy())  # nothing low is left of the training
    after = as_arrays(backbone.state_dict())
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before if not name.endswith(("_mean", "_variance")))


def test_recomputed_blocks_have_the_same_bits():
    ends = []
    for recompute in (False, True):
        paddle.seed(0)
        backbone = create_backbone("MobileFaceNet_128", 32)
        use_precision(backbone, "bf16")
        for block in recomputable_blocks(backbone):
            block.recompute = recompute
        images = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 112, 112)), "float32")
        backbone(images).square().sum().backward()
        ends.append([parameter.grad.numpy() for parameter in backbone.parameters() if not parameter.stop_gradient])
    assert all(map(np.array_equal, *ends)) and len(ends[0]) > 100


def test_bfloat16_rounds_to_the_nearest_and_to_even():
    x = np.concatenate([np.random.default_rng(0).normal(size=10_000), [0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1e-30]])
    x = np.concatenate([x, (1 + np.arange(256) / 256) * 2.0**-70]).astype(np.float32)  # half of these are ties
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    assert np.array_equal(rounded(paddle.to_tensor(x), "bfloat16").numpy(), expected)
    assert not rounded(paddle.to_tensor([np.inf, np.nan]), "bfloat16").isfinite().any()


def test_float16_has_an_end_and_a_smallest_value():
    given = [1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -70000, 2**-24, 2**-25, np.inf]
    expected = [1, 1 + 2**-9, 65504, np.inf, -np.inf, 2**-24, 0, np.inf]
    assert rounded(paddle.to_tensor(given, "float32"), "float16").tolist() == expected


@pytest.mark.parametrize("dtype, expected", [("bfloat16", 3.0), ("float16", 3.001953125), ("float32", 3.0017)])
def test_an_emulated_cast_rounds_the_gradient_too(dtype, expected):
    x = paddle.to_tensor([1.0], stop_gradient=False)
    (emulated_cast(x, dtype) * 3.0017).backward()
    assert x.grad.item() == pytest.approx(expected, rel=1e-7)


def test_a_cast_to_the_type_that_a_tensor_has_costs_nothing():
    x = paddle.ones([2])
    assert cast(x, "float32") is x and cast(cast(x, "float64"), "float32").dtype == paddle.float32


def test_every_kind_of_batch_norm_hands_on_the_low_type():
    for kind in (nn.BatchNorm2D, nn.SyncBatchNorm, AllReduceBatchNorm2D):
        assert precision_module.rule_of(kind(3)) == precision_module.Rule("low", None, "low")
    assert precision_module.rule_of(Conv2D(4, 4, 3, groups=2)) == precision_module.Rule("low", "low", "low")


def test_a_device_that_does_not_compute_in_a_precision_is_refused(monkeypatch):
    check_precision("float32", False, "cpu")
    check_precision("bf16", True, "cpu")
    check_precision("fp16", False, "gpu:0")
    with pytest.raises(UserError, match="--precision fp16: a CPU trains in float32; .* --precision_emulation 1"):
        check_precision("fp16", False, "cpu")
    with pytest.raises(UserError, match="--precision_emulation 1: only a CPU emulates"):
        check_precision("bf16", True, "gpu:0")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda: False)
    with pytest.raises(UserError, match="--precision bf16: gpu:0 does not compute in it"):
        use_precision(nn.Linear(1, 1), "bf16")
