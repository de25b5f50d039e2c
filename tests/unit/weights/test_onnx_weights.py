"""ONNX graphs of iresnet and mbf become our networks with the embeddings that ONNX Runtime computes; others are refused."""

import pickle
import random
import sys
from functools import partial

import numpy as np
import paddle
import pytest

from arcface.backbones import BACKBONES, create_backbone, iresnet
from arcface.backbones.mbf import MobileFaceNet
from arcface.errors import UserError
from arcface.weights.convert import convert, main
from arcface.weights.onnx import fit_onnx
from arcface.weights.onnx_graph import Graph
from arcface.weights.published import backbone_shapes
from arcface.weights.run_directory import read_backbone, trained_backbone

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it comes with paddle2onnx")
onnx_graphs = pytest.importorskip("onnx_graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SIZE = 16
SMALL = {
    "small_iresnet": partial(iresnet.IResNet, (2, 1, 1, 1)),
    "small_mbf": partial(MobileFaceNet, (1, 1, 1, 1), 128),
    "small_mbf_large": partial(MobileFaceNet, (2, 1, 1, 1), 64),
}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Registers the small backbones; iresnets have few channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iresnet, "STAGE_CHANNELS", (4, 4, 8, 8))
        for name, create in SMALL.items():
            patch.setitem(BACKBONES, name, create)
        yield


@pytest.fixture(scope="module")
def states():
    """A state dict of each small backbone, every number of it random."""
    draw = np.random.default_rng(2)
    states = {}
    for name in SMALL:
        state = {ours: tensor.numpy() for ours, tensor in create_backbone(name, SIZE).state_dict().items()}
        for ours, array in state.items():
            if array.ndim == 1:
                low = 0.5 if ours.endswith(("_variance", "weight")) else -0.5
                state[ours] = draw.uniform(low, low + 1, array.shape).astype("f4")
        states[name] = state
    return states


@pytest.fixture
def graph(states):
    """Returns a function that returns the ONNX model of a small backbone, exported in some way."""
    return lambda name, **how: onnx_graphs.model(states[name], onnx_graphs.Export(**how))


def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, 3, 112, 112)).astype("f4")


WAYS = [
    ("small_iresnet", {}),
    ("small_iresnet", {"fold_last": True, "linear": "Gemm transposed", "flatten": "Reshape", "constants": True}),
    ("small_iresnet", {"fold": False, "linear": "MatMul", "epsilon": 1e-3, "normalise": (("Sub", 127.5), ("Mul", 1 / 128))}),
    ("small_mbf", {"linear": "MatMul", "normalise": (("Div", 127.5), ("Add", -1.0))}),
    ("small_mbf", {"fold_last": True, "flatten": "Reshape"}),
    ("small_mbf_large", {"fold": False, "constants": True}),
]


@pytest.mark.parametrize("name, how", WAYS)
def test_embeddings_are_those_of_the_graph(graph, tmp_path, name, how):
    onnx.save(graph(name, **how), str(tmp_path / "w600k.onnx"))
    images = pixels() if "normalise" in how else (pixels() - 127.5) / 127.5
    session = onnxruntime.InferenceSession(str(tmp_path / "w600k.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input.1": images})
    main([str(tmp_path / "w600k.onnx"), str(tmp_path / f"{name}.pdparams")])
    backbone = trained_backbone(tmp_path, name, SIZE)
    backbone.eval()
    with paddle.no_grad():
        embeddings = backbone(paddle.to_tensor((pixels() - 127.5) / np.float32(127.5))).numpy()
    norm = np.linalg.norm(expected, axis=1, keepdims=True)
    assert expected.std() > 0.1 and (np.abs(embeddings - expected) <= 1e-4 * norm).all()


def test_what_is_not_folded_stays_and_a_folded_batch_norm_changes_nothing_but_adds_its_bias(graph, states, tmp_path):
    onnx.save(graph("small_iresnet"), str(tmp_path / "a.onnx"))
    state, own = convert(tmp_path / "a.onnx", "small_iresnet", None), states["small_iresnet"]
    for name in ("layer2.0.bn1._variance", "layer1.1.prelu._weight", "bn2._mean", "fc.weight", "fc.bias", "features.weight"):
        assert np.array_equal(state[name], own[name])
    folded = [state[f"layer1.0.bn3.{part}"] for part in ("weight", "_mean", "_variance")]
    assert (folded[0] == 1).all() and (folded[1] == 0).all() and (folded[2] + np.float32(1e-5) == 1).all()
    factor = own["layer1.0.bn3.weight"] / np.sqrt(own["layer1.0.bn3._variance"] + 1e-5)
    bias = own["layer1.0.bn3.bias"] - factor * own["layer1.0.bn3._mean"]
    np.testing.assert_allclose(state["layer1.0.bn3.bias"], bias, rtol=1e-5, atol=1e-6)


def test_weights_beside_the_model_are_read(graph, tmp_path):
    onnx.save(graph("small_mbf"), str(tmp_path / "one.onnx"))
    onnx.save(
        graph("small_mbf"), str(tmp_path / "two.onnx"), save_as_external_data=True, location="two.onnx.data", size_threshold=0
    )
    states = [convert(tmp_path / name, "small_mbf", None) for name in ("one.onnx", "two.onnx")]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    content = (tmp_path / "two.onnx.data").read_bytes()
    (tmp_path / "two.onnx.data").write_bytes(content[:-100])
    assert "weights larger than their file" in refusal(tmp_path / "two.onnx", "small_mbf")
    (tmp_path / "two.onnx.data").unlink()
    message = refusal(tmp_path / "two.onnx", "small_mbf")
    assert message == f"{tmp_path}/two.onnx.data: cannot be read (No such file or directory); put it where two.onnx expects it"


def test_converted_weights_are_verified_and_trained_on_as_they_are(make_data_set, run_ranks, repository, tmp_path):
    state = {name: tensor.numpy() for name, tensor in create_backbone("mbf", SIZE).state_dict().items()}
    onnx.save(onnx_graphs.model(state, onnx_graphs.Export()), str(tmp_path / "w600k_mbf.onnx"))
    converted = tmp_path / "converted"
    main([str(tmp_path / "w600k_mbf.onnx"), f"{converted}/"])
    assert [path.name for path in converted.iterdir()] == ["mbf.pdparams"]

    data = make_data_set(4, 2)
    images = [(data / f"images/{number:08d}.jpg").read_bytes() for number in range(4)]
    (data / "tiny.bin").write_bytes(pickle.dumps((images * 10, [True, False] * 10)))
    common = [f"--data_dir={data}", "--network=mbf", f"--embedding_size={SIZE}", "--device=cpu", "--engine=paddle"]
    verified = run_ranks(1, repository / "valid.py", *common, f"--checkpoint={converted}", "--val_targets=tiny")
    assert "[tiny][0]Accuracy-Flip: " in verified.stdout + verified.stderr

    output = tmp_path / "tuned"
    how = ["--max_steps=1", "--batch_size=2", "--lr=0", "--batch_norm=frozen", "--num_workers=1", "--val_targets="]
    places = [f"--init_from={converted / 'mbf.pdparams'}", f"--output={output}", f"--logdir={output / 'log'}"]
    run_ranks(1, repository / "train.py", *common, *how, *places)
    given, tuned = read_backbone(converted, "mbf"), read_backbone(output, "mbf")
    assert given.keys() == tuned.keys() and all(np.array_equal(given[name], tuned[name]) for name in given)


# ---- refusals


def refusal(path, network, size=None) -> str:
    with pytest.raises(UserError) as caught:
        convert(path, network, size)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def node(model, operator, number=0):
    return [node for node in model.graph.node if node.op_type == operator][number]


def set_attribute(node, name, value):
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def leave_out(model, operator, number=0):
    """Take a node out of the graph; what took its output takes its first input."""
    gone = node(model, operator, number)
    for other in model.graph.node:
        other.input[:] = [gone.input[0] if value == gone.output[0] else value for value in other.input]
    model.graph.node.remove(gone)


def add_another(model, number):
    """Add the output of the first PReLU in place of what is added."""
    node(model, "Add", number).input[1] = node(model, "PRelu").output[0]


REFUSALS = [
    ("small_iresnet", {}, lambda model: add_another(model, 1), "the sum of layer1.1 with its input where the file has Add 'Add_"),
    (
        "small_iresnet",
        {},
        lambda model: set_attribute(node(model, "Conv", 2), "strides", [1, 1]),
        "conv2 with strides [2, 2] where",
    ),
    (
        "small_iresnet",
        {},
        lambda model: set_attribute(node(model, "Conv"), "pads", [0, 0, 1, 1]),
        "conv1 with pads [1, 1, 1, 1] wh",
    ),
    (
        "small_iresnet",
        {},
        lambda model: set_attribute(node(model, "Conv"), "dilations", [2, 2]),
        "conv1 with dilations [1, 1] where",
    ),
    ("small_mbf", {}, lambda model: set_attribute(node(model, "Conv", 1), "group", 128), "layers.1.layers.0 with group 64 where"),
    ("small_iresnet", {}, lambda model: leave_out(model, "PRelu", 1), "has layer1.0.prelu (PRelu) where the file has Conv 'Conv_"),
    ("small_iresnet", {}, lambda model: leave_out(model, "Add", 1), "has the sum of layer1.1 (Add) where the file has Conv 'Conv_"),
    (
        "small_mbf",
        {},
        lambda model: leave_out(model, "Add"),
        "layers.0 (Conv) where the file has Conv 'Conv_9' and Conv 'Conv_15'; pass",
    ),
    ("small_iresnet", {}, lambda model: set_attribute(node(model, "Gemm"), "alpha", 2.0), "with a scale; pass"),
    ("small_iresnet", {"after": "Sigmoid"}, lambda model: None, "after the embeddings of small_iresnet comes Sigmoid 'Sigmoid_"),
    ("small_iresnet", {"normalise": (("Sub", 100.0),)}, lambda model: None, "normalises images as 1 * x -100, not around 127.5"),
    (
        "small_iresnet",
        {"normalise": (("Div", 0.0),)},
        lambda model: None,
        "not an ONNX model, or a damaged one (float division by zero",
    ),
    ("small_mbf", {}, lambda model: model.graph.input.add(name="mask"), "2 inputs and 1 outputs, a recogniser has one of each"),
    ("small_mbf", {}, lambda model: model.graph.node.append(model.graph.node[3]), "are not in order"),
    ("small_mbf", {}, lambda model: model.graph.node.insert(0, model.graph.node.pop()), "are not in order"),
    ("small_mbf", {}, lambda model: node(model, "Conv").input.pop(1), "has shape [128], layers.0.layers.0.weight of this"),
    ("small_mbf", {}, lambda model: model.graph.initializer[0].dims.append(7), "not an ONNX model, or a damaged one"),
]


@pytest.mark.parametrize("name, how, change, detail", REFUSALS)
def test_other_graphs_are_refused_by_what_differs(graph, tmp_path, name, how, change, detail):
    changed = graph(name, **how)
    change(changed)
    onnx.save(changed, str(tmp_path / "a.onnx"))
    assert detail in refusal(tmp_path / "a.onnx", name)


def test_other_networks_sizes_and_files_are_refused(graph, tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    onnx.save(graph("small_iresnet"), str(path))
    assert "iresnet34 has layer1.2.conv2 with strides [1, 1] where the file has Conv 'Conv_1" in refusal(path, "iresnet34")
    assert "iresnet18 has layer2.1.conv2 with strides [1, 1] where the file has Conv 'Conv_" in refusal(path, "iresnet18")
    assert "small_mbf has layers.0.layers.0 with strides [2, 2] where the file has Conv" in refusal(path, "small_mbf")
    assert "has shape [392, 16], fc.weight of this network has [392, 32], and 5 more differ; pass" in refusal(
        path, "small_iresnet", 32
    )
    assert "--network vit_t: an ONNX file becomes an iresnet, mbf or mbf_large" in refusal(path, "vit_t")
    assert "nowhere.onnx: cannot be read (No such file or directory)" in refusal(tmp_path / "nowhere.onnx", "mbf")
    path.write_bytes(b"\x08\x07garbage")
    assert "a.onnx: not an ONNX model, or a damaged one (" in refusal(path, "small_mbf")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "onnx, which reads this file, is not installed; run: pip install onnx" in refusal(path, "small_mbf")


def test_mutated_models_are_read_or_refused(graph, tmp_path):
    whole, shapes = graph("small_iresnet"), backbone_shapes("small_iresnet", SIZE)
    for tensor in whole.graph.initializer:  # what is mutated are nodes and names, not numbers
        tensor.raw_data = bytes(len(tensor.raw_data)) if len(tensor.raw_data) < 100 else b""
    content = whole.SerializeToString()
    chosen = random.Random(4)
    for _ in range(300):
        mutated = bytearray(content)
        for _ in range(chosen.randint(1, 3)):
            mutated[chosen.randrange(len(content))] = chosen.randrange(256)
        (tmp_path / "a.onnx").write_bytes(mutated)
        with pytest.raises(UserError) as caught:
            fit_onnx(Graph(tmp_path / "a.onnx"), "small_iresnet", shapes)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
