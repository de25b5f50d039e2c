"""PyTorch's files are read without PyTorch; files of other contents, damaged ones and pickles that act are refused."""

import functools
import pickle
import random
import struct
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest
import torch_files
from torch_files import Call, Storage, save, save_legacy, state_dict, tensor

from arcface.backbones import BACKBONES, create_backbone
from arcface.errors import UserError
from arcface.weights.convert import convert
from arcface.weights.published import backbone_shapes, find_network
from arcface.weights.torch import in_our_layout, read_torch, torch_name

NETWORK = "MobileFaceNet_128"
draw = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": draw.normal(size=(4, 3, 2, 2)).astype("f4"),
    "bn.running_var": np.ones(4, "f4"),
    "fc.bias": np.zeros(1, "f4"),
}


def bfloat16(array: np.ndarray) -> np.ndarray:
    return (array.view("u4") >> 16).astype("u2")


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
    return message


# ---- what is read


TRAINING = {  # what arcface_torch's checkpoints contain besides
    "epoch": 3,
    "global_step": 2**40,
    "state_dict_softmax_fc": {"weight": tensor(np.ones((9, 4), "f4"))},
    "state_optimizer": {
        "state": {0: {"momentum_buffer": tensor(np.ones(4, "f4"))}},
        "param_groups": [{"lr": 0.1, "foreach": None}],
    },
    "state_lr_scheduler": {"base_lrs": [0.1], "last_epoch": 7},
}


@pytest.mark.parametrize(
    "wrap",
    [
        state_dict,
        lambda arrays: state_dict(arrays, "module."),
        lambda arrays: {**TRAINING, "state_dict_backbone": state_dict(arrays)},
        lambda arrays: {"state_dict": state_dict(arrays, "module."), "arch": "r50"},
        lambda arrays: {
            name: Call("torch._utils _rebuild_parameter", tensor(array), True, OrderedDict()) for name, array in arrays.items()
        },
    ],
)
@pytest.mark.parametrize("write", [save, save_legacy])
def test_a_backbone_is_read_from_state_dicts_and_checkpoints(tmp_path, wrap, write):
    write(wrap(WEIGHTS), tmp_path / "model.pt")
    read = read_torch(tmp_path / "model.pt")
    assert list(read) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)


def test_views_and_shared_storages_are_read(tmp_path):
    whole = draw.normal(size=24).astype("f4")
    storage = Storage(whole)
    views = {
        "a": Call("torch._utils _rebuild_tensor_v2", storage, 5, (3, 2), (4, 1), False, OrderedDict()),
        "b": Call("torch._utils _rebuild_tensor", storage, 23, (1,), (1,)),
        "c": tensor(np.asfortranarray(whole.reshape(4, 6))),
    }
    save(views, tmp_path / "model.pt")
    read = read_torch(tmp_path / "model.pt")
    assert np.array_equal(read["a"], whole[[[5, 6], [9, 10], [13, 14]]]) and np.array_equal(read["b"], whole[23:])
    assert np.array_equal(read["c"], whole.reshape(4, 6))


# ---- layers in order under other names


@functools.cache
def port() -> dict[str, np.ndarray]:
    """MobileFaceNet_128 as PyTorch ports have it: numbered layers, the last a Linear and a BatchNorm1d. Every number is random."""
    arrays, layers = {}, {}
    for ours, value in create_backbone(NETWORK, 128).state_dict().items():
        layer, parameter = torch_name(ours).rsplit(".", 1)
        array = draw.uniform(0.5, 1, value.shape).astype("f4")
        arrays[f"{layers.setdefault(layer, len(layers))}.{parameter}"] = (
            array[:, :, 0, 0] if ours == "linear1.conv.weight" else array
        )
    return arrays


def test_layers_in_order_are_converted_under_any_names_and_in_any_precision(tmp_path):
    arrays = port()
    stored = arrays | {
        "0.weight": bfloat16(arrays["0.weight"]),
        "1.bias": arrays["1.bias"].astype("f2"),
        "1.weight": arrays["1.weight"].astype("f8"),
    }
    save(state_dict(stored), tmp_path / "model.pt")
    state = convert(tmp_path / "model.pt", NETWORK, None)
    expected = dict(zip(state, arrays.values()))
    expected["conv1.conv.weight"] = (stored["0.weight"].astype("u4") << 16).view("f4")
    expected["conv1.bn.bias"] = stored["1.bias"].astype("f4")
    assert list(state) == list(create_backbone(NETWORK, 128).state_dict())
    for name, array in expected.items():
        assert state[name].dtype == np.float32 and np.array_equal(state[name], array.reshape(state[name].shape))


def swapped(arrays):
    names = list(arrays)
    names[1], names[2] = names[2], names[1]
    return {name: arrays[name] for name in names}


@pytest.mark.parametrize(
    "change, detail",
    [
        (
            lambda arrays: dict(list(arrays.items())[:-2]) | {"extra.weight": np.ones(128, "f4")},
            "'extra.weight' is where MobileFaceNet_128 has linear1.bn._mean",
        ),
        (lambda arrays: arrays | {"extra.weight": np.ones(3, "f4")}, "284 tensors, MobileFaceNet_128 has 283"),
        (lambda arrays: dict(list(arrays.items())[:-9]), "274 tensors, MobileFaceNet_128 has 283"),
        (swapped, "'1.bias' is where MobileFaceNet_128 has conv1.bn.weight"),
        (
            lambda arrays: arrays | {"0.weight": np.ones((64, 3, 5, 5), "f4"), "1.weight": np.ones(32, "f4")},
            "'0.weight' has shape [64, 3, 5, 5], conv1.conv.weight of this network has [64, 3, 3, 3], and 1 more differ; pass",
        ),
        (
            lambda arrays: arrays | {"2.weight": np.ones(1, "f4")},
            "'2.weight' has shape [1], conv1.prelu._weight of this network has [64]; pass the --network",
        ),
        (lambda arrays: arrays | {"1.running_var": -np.ones(64, "f4")}, "'1.running_var' contains variances that are not positive"),
        (lambda arrays: arrays | {"1.bias": np.full(64, np.nan, "f4")}, "'1.bias' contains values that are not finite as float32"),
        (lambda arrays: arrays | {"1.bias": np.ones(64, "i8")}, "'1.bias' is of type int64, not floating point"),
        (lambda arrays: arrays | {"1.bias": np.ones(64, "c8")}, "refused, because it asks for torch.ComplexFloatStorage"),
    ],
)
def test_other_tensors_are_refused_by_name(tmp_path, change, detail):
    save(state_dict(change(port())), tmp_path / "model.pt")
    with pytest.raises(UserError) as caught:
        convert(tmp_path / "model.pt", NETWORK, 128)
    assert detail in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/model.pt: ")


def test_another_network_under_arcface_torch_s_names_is_refused_by_what_differs(tmp_path):
    shapes = {name: tensor.shape for name, tensor in create_backbone("mbf", 64).state_dict().items()}
    arrays = {torch_name(name): in_our_layout(np.ones(shape, "f4"), shape) for name, shape in shapes.items()}
    save(state_dict(arrays), tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"238 names missing, such as layers.1.layers.0.layers.0.layers.0.weight; pass its --network"
    ):
        convert(tmp_path / "model.pt", "mbf_large", None)
    with pytest.raises(UserError, match=r"'features.layers.2.weight' has shape .512, 64.,.* has .512, 512., and 4 more differ"):
        convert(tmp_path / "model.pt", "mbf", 512)
    del arrays["conv_sep.layers.1.bias"]
    save(state_dict(arrays), tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"1 names missing, such as conv_sep.layers.1.bias; .*nearest of the backbones here: mbf\)$"
    ):
        convert(tmp_path / "model.pt", None, None)


# ---- the network that a file fits


OTHERS = [pytest.param(*case, marks=pytest.mark.exhaustive) for case in (("vit_s", 96), ("mbf_large", 512), (NETWORK, 128))]


@pytest.mark.parametrize("name, size", [("iresnet50", 512), *OTHERS])
def test_network_and_embedding_size_are_found_from_shapes(name, size):
    shapes = [shape[::-1] for shape in backbone_shapes(name, size).values()]
    random.Random(1).shuffle(shapes)
    assert find_network(shapes, [name for name in BACKBONES if name != "Tiny"]) == (name, size)


# ---- what is refused


@pytest.mark.parametrize(
    "value, detail",
    [
        (lambda: [1, 2], "not a PyTorch state dict; write it with torch.save"),
        (lambda: {}, "not a PyTorch state dict"),
        (lambda: {1: tensor(np.ones(1, "f4"))}, "not a PyTorch state dict"),
        (lambda: {"epoch": 3}, "'epoch' is of type int, not floating point"),
        (
            lambda: Call("torch.nn.modules.container Sequential"),
            "asks for torch.nn.modules.container.Sequential; only",
        ),
        (lambda: {"a": Call("posix mkdir", "attacked")}, "asks for posix.mkdir; only tensors and plain data"),
        (lambda: {"a": Call("torch.hub load", "attacked")}, "asks for torch.hub.load; only tensors and plain data"),
        (lambda: {"a": Call("torch FloatStorage", 2**40)}, "asks for a call of torch.FloatStorage"),
        (lambda: {"a": Call("torch._utils _rebuild_tensor_v2", 5, 0, (1,), (1,))}, "damaged or not a pickle (an unusual tensor)"),
        (lambda: {"a": Call("torch._utils _rebuild_parameter", "x", True, {})}, "damaged or not a pickle (an unusual parameter)"),
        (lambda: {"a": tensor(np.ones(4, "f4"), shape=(5,))}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), shape=(2**20, 2**20), strides=(0, 0))}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), offset=1)}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), shape=(2,), strides=(4,))}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), strides=(-1,))}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), offset=-1)}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), strides=(1, 1))}, "a tensor larger than its storage"),
        (lambda: {"a": tensor(np.ones(4, "f4"), shape=("4",))}, "an invalid shape"),
    ],
)
@pytest.mark.parametrize("write", [save, save_legacy])
def test_other_contents_are_refused_and_nothing_runs(tmp_path, monkeypatch, value, detail, write):
    monkeypatch.chdir(tmp_path)
    write(value(), tmp_path / "model.pth")
    assert detail in refusal(tmp_path / "model.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_archives_that_could_fill_the_memory_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    zeros = np.zeros(2**22, "f4")
    save({"a": tensor(zeros)}, path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17 and "compressed or overlapping entries" in refusal(path)
    save({"a": tensor(np.frombuffer(draw.bytes(2**16), "f4"))}, path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size > 2**16 and "compressed or overlapping entries" in refusal(path)
    save({"a": tensor(zeros)}, path, **{"data/0": bytes(16)})
    assert "buffer is smaller than requested size" in refusal(path)
    save({"a": tensor(zeros), "b": tensor(zeros + 1)}, path, **{"data/1": None})
    assert "not a PyTorch file, or a damaged one ('data/1')" in refusal(path).replace("\\", "")
    path.write_bytes(nested(torch_files.dumped([tensor(np.zeros(2**14, "f4")) for _ in range(8)])[0]))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and len(archive.read("model/data/0")) > 2**16
    assert "not a PyTorch state dict" in refusal(path)
    path.write_bytes(nested(torch_files.dumped({str(number): tensor(np.zeros(2**14, "f4")) for number in range(8)})[0]))
    assert "compressed or overlapping entries" in refusal(path)


def nested(pickled: bytes) -> bytes:
    """An archive of eight storages, each of which contains the entry of the next: as large together as eight of them."""
    names = [b"model/data.pkl", *(b"model/data/%d" % number for number in range(8))]
    entries, content = [], bytes(2**16)
    for name in reversed(names[1:]):
        entries.append((name, content))
        content = header(name, content) + content
    content = header(names[0], pickled) + pickled + content
    entries.append((names[0], pickled))
    directory = b""
    for name, inside in entries:
        offset = 0 if name == names[0] else len(content) - len(inside) - len(header(name, inside))
        directory += b"PK\1\2\24\0" + header(name, inside)[4:30] + struct.pack("<3H2I", 0, 0, 0, 0, offset) + name
    return content + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, len(directory), len(content), 0)


def header(name: bytes, content: bytes) -> bytes:
    sizes = zlib.crc32(content), len(content), len(content), len(name), 0
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, *sizes) + name


def test_other_byte_orders_and_kinds_of_archives_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    save(state_dict(WEIGHTS), path, byteorder=b"big")
    assert "its numbers are big-endian" in refusal(path)
    save(state_dict(WEIGHTS), path, byteorder=None)
    assert read_torch(path).keys() == WEIGHTS.keys()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/1.jpg", b"")
    assert "not a PyTorch file, or a damaged one" in refusal(path)
    path.write_bytes(b"\x80\x02damaged")
    assert "damaged" in refusal(path)
    path.write_bytes(pickle.dumps({"weight": 1}) * 2)
    assert "its first bytes are another format's" in refusal(path)
    assert "cannot be read (No such file" in refusal(tmp_path / "absent.pth")


@pytest.mark.parametrize("write", [save, save_legacy])
def test_truncated_and_mutated_files_are_one_line(tmp_path, write):
    path = tmp_path / "model.pt"
    write({"state_dict_backbone": state_dict(WEIGHTS), "epoch": 3}, path)
    content = path.read_bytes()
    chosen = random.Random(5)
    for length in range(0, len(content) - 1, 23):
        path.write_bytes(content[:length])
        refusal(path)
    refused = 0
    for _ in range(200):
        mutated = bytearray(content)
        for _ in range(chosen.randint(1, 4)):
            mutated[chosen.randrange(len(content))] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
        path.write_bytes(mutated)
        try:
            read_torch(path)
        except UserError:
            refused += 1
            refusal(path)
    assert refused > 50
