"""Published weights become ours with the embeddings they had; files of anything else are refused by a line."""

import ast
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.config import ValidConfig, parse
from arcface.data.bin_file import read_bin
from arcface.errors import UserError
from arcface.io.images import decode, normalise
from arcface.verification.checkpoint import verify_checkpoint
from arcface.weights.convert import convert, main, write
from arcface.weights.mxnet import read_params
from arcface.weights.run_directory import read_backbone
from arcface.weights.state_dict import load_backbone, read_state_dict, safetensors_bytes, state_dict_bytes

NETWORK = "MobileFaceNet_128"


@pytest.fixture
def source(tmp_path, pack):
    """Returns a function that writes parameters as model-0000.params, and returns its path."""

    def write_params(params):
        (tmp_path / "model-0000.params").write_bytes(pack(params))
        return tmp_path / "model-0000.params"

    return write_params


@paddle.no_grad()
def embed(directory, images):
    backbone = create_backbone(NETWORK, 128)
    load_backbone(backbone, read_backbone(directory, NETWORK), "")
    backbone.eval()
    return backbone(normalise(paddle.to_tensor(images))).numpy()


def test_every_y1_parameter_gets_its_place_and_the_differences_are_folded_in(source, y1_params):
    state = convert(source(y1_params), NETWORK, 128)
    own = create_backbone(NETWORK, 128).state_dict()
    assert list(state) == list(own)
    assert all(array.dtype == np.float32 and list(array.shape) == list(own[name].shape) for name, array in state.items())
    unchanged = {
        "conv1.bn.weight": "arg:conv_1_batchnorm_gamma",
        "conv1.prelu._weight": "arg:conv_1_relu_gamma",
        "dw_conv1.conv.weight": "arg:conv_2_dw_conv2d_weight",
        "blocks.0.conv.0.weight": "arg:dconv_23_conv_sep_conv2d_weight",
        "blocks.1.conv.1.bias": "arg:res_3_block0_conv_sep_batchnorm_beta",
        "blocks.4.conv.2._weight": "arg:res_3_block3_conv_sep_relu_gamma",
        "blocks.5.conv.3.weight": "arg:dconv_34_conv_dw_conv2d_weight",
        "blocks.11.conv.4._mean": "aux:res_4_block5_conv_dw_batchnorm_moving_mean",
        "blocks.12.conv.5._weight": "arg:dconv_45_conv_dw_relu_gamma",
        "blocks.13.conv.6.weight": "arg:res_5_block0_conv_proj_conv2d_weight",
        "blocks.14.conv.7.weight": "arg:res_5_block1_conv_proj_batchnorm_gamma",
        "conv2.conv.weight": "arg:conv_6sep_conv2d_weight",
        "linear7.bn._mean": "aux:conv_6dw7_7_batchnorm_moving_mean",
        "linear1.bn.bias": "arg:fc1_beta",
    }
    for ours, theirs in unchanged.items():
        assert np.array_equal(state[ours], y1_params[theirs])
    folded = {
        "conv1.conv.weight": y1_params["arg:conv_1_conv2d_weight"] * 127.5 / 128,
        "conv1.bn._variance": y1_params["aux:conv_1_batchnorm_moving_var"] + (1e-3 - 1e-5),
        "linear7.bn._variance": y1_params["aux:conv_6dw7_7_batchnorm_moving_var"] + (1e-3 - 1e-5),
        "linear1.bn._variance": y1_params["aux:fc1_moving_var"] + (2e-5 - 1e-5),
        "linear1.bn._mean": y1_params["aux:fc1_moving_mean"] - y1_params["arg:pre_fc1_bias"],
        "linear1.bn.weight": np.ones(128),
        "linear1.conv.weight": y1_params["arg:fc1_weight"].reshape(128, 512, 1, 1),
    }
    for name, expected in folded.items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-6, atol=1e-8)


def test_other_precisions_become_float32(source, y1_params):
    y1_params["arg:conv_2_dw_conv2d_weight"] = y1_params["arg:conv_2_dw_conv2d_weight"].astype("<f8") / 3
    y1_params["arg:conv_6sep_relu_gamma"] = y1_params["arg:conv_6sep_relu_gamma"].astype("<f2")
    state = convert(source(y1_params), NETWORK, 128)
    assert {str(array.dtype) for array in state.values()} == {"float32"}
    assert np.array_equal(state["dw_conv1.conv.weight"], y1_params["arg:conv_2_dw_conv2d_weight"].astype(np.float32))
    assert np.array_equal(state["conv2.prelu._weight"], y1_params["arg:conv_6sep_relu_gamma"].astype(np.float32))


@pytest.mark.parametrize(
    "change, detail",
    [
        (lambda params: params.pop("arg:pre_fc1_bias"), "1 names missing, such as arg:pre_fc1_bias"),
        (lambda params: params.pop("aux:conv_1_batchnorm_moving_var"), "1 names missing, such as aux:conv_1_batchnorm_moving_var"),
        (lambda params: params.update({"arg:fc7_weight": np.ones(2, "<f4")}), "1 names unknown, such as arg:fc7_weight"),
        (
            lambda params: params.update({"arg:fc1_weight": np.ones([256, 512], "<f4")}),
            "'arg:fc1_weight' has shape [256, 512], linear1.conv.weight of this network has [128, 512, 1, 1]",
        ),
        (lambda params: params.update({"arg:fc1_weight": np.ones([512, 128], "<f4")}), "'arg:fc1_weight' has shape [512, 128]"),
        (lambda params: params.update({"arg:pre_fc1_bias": np.ones(64, "<f4")}), "'arg:pre_fc1_bias' has shape [64]"),
        (lambda params: params.update({"arg:conv_1_relu_gamma": np.ones(1, "<f4")}), "'arg:conv_1_relu_gamma' has shape [1]"),
        (
            lambda params: params["arg:conv_1_conv2d_weight"].put(5, np.nan),
            "'arg:conv_1_conv2d_weight' contains values that",
        ),
        (lambda params: params["arg:pre_fc1_bias"].put(5, np.inf), "'arg:pre_fc1_bias' contains values that are not finite"),
        (lambda params: params.update({"arg:fc1_beta": np.full(128, 1e39)}), "'arg:fc1_beta' contains values that are not finite"),
        (
            lambda params: params["aux:fc1_moving_var"].put(5, -1e-6),
            "'aux:fc1_moving_var' contains variances that are not positive",
        ),
        (lambda params: params["aux:fc1_moving_var"].fill(0), "'aux:fc1_moving_var' contains variances that are not positive"),
    ],
)
def test_parameters_that_are_not_y1s_are_refused_by_name(source, y1_params, tmp_path, refused, change, detail):
    change(y1_params)
    path = source(y1_params)
    error = refused(lambda: main([str(path), str(tmp_path / "new" / f"{NETWORK}.pdparams")]))
    assert detail in error and str(path) in error
    assert not (tmp_path / "new").exists()


def test_another_network_or_size_is_refused(source, y1_params):
    path = source(y1_params)
    with pytest.raises(UserError, match="'arg:fc1_weight' has shape .128, 512., linear1.conv.weight of this network has .64, 512,"):
        convert(path, NETWORK, 64)
    with pytest.raises(UserError, match="no such backbone"):
        convert(path, "no_net", 128)
    with pytest.raises(UserError, match="--network iresnet18: a .params file becomes a MobileFaceNet"):
        convert(path, "iresnet18", 128)


# ---- state dicts of ours


@pytest.fixture
def state():
    return {name: tensor.numpy() for name, tensor in create_backbone(NETWORK, 128).state_dict().items()}


def test_a_state_dict_goes_to_safetensors_and_back_bit_for_bit(tmp_path, state):
    state["conv1.bn.bias"][:3] = [-0.0, 1e-45, 1 / 3]
    directories = [tmp_path / name for name in ("ours", "shared", "back")]
    files = [directory / f"{NETWORK}.{ending}" for directory, ending in zip(directories, ("pdparams", "safetensors", "pdparams"))]
    directories[0].mkdir()
    files[0].write_bytes(state_dict_bytes(state))
    main([str(files[0]), str(files[1])])
    main([str(files[1]), str(files[2])])
    for file in files:
        read = read_state_dict(file)
        assert read.keys() == state.keys()
        for name, array in state.items():
            assert (read[name].dtype, read[name].shape, read[name].tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert set(paddle.load(str(files[2]))) == set(state)


@pytest.mark.parametrize("to_bytes, ending", [(state_dict_bytes, ".pdparams"), (safetensors_bytes, ".safetensors")])
def test_state_dicts_of_other_precisions_become_float32(tmp_path, state, to_bytes, ending):
    state |= {"conv1.bn.bias": np.full(64, 0.1, np.float16), "conv1.bn.weight": np.full(64, 0.1)}
    (tmp_path / f"x{ending}").write_bytes(to_bytes(state))
    converted = convert(tmp_path / f"x{ending}", NETWORK, 128)
    assert list(converted) == list(create_backbone(NETWORK, 128).state_dict())
    for name, array in state.items():
        assert converted[name].dtype == np.float32 and np.array_equal(converted[name], array.astype(np.float32))


@pytest.mark.parametrize("to_bytes, ending", [(state_dict_bytes, ".pdparams"), (safetensors_bytes, ".safetensors")])
@pytest.mark.parametrize(
    "change, detail",
    [
        (lambda state: state.pop("conv1.bn.bias"), "1 names missing, such as conv1.bn.bias"),
        (lambda state: state.update({"fc.weight": np.ones((2, 3), np.float32)}), "1 names unknown, such as 'fc.weight'"),
        (lambda state: state.update({"conv1.bn.bias": np.ones(32, np.float32)}), "conv1.bn.bias has shape [32]"),
        (lambda state: state["conv1.bn.bias"].put(5, np.nan), "'conv1.bn.bias' contains values that are not finite"),
        (lambda state: state["conv1.bn._variance"].put(5, -1), "'conv1.bn._variance' contains variances that are not positive"),
    ],
)
def test_state_dicts_that_do_not_fit_are_refused_by_name(tmp_path, state, refused, to_bytes, ending, change, detail):
    change(state)
    (tmp_path / f"x{ending}").write_bytes(to_bytes(state))
    error = refused(lambda: main([str(tmp_path / f"x{ending}"), str(tmp_path / "new" / f"{NETWORK}.safetensors")]))
    assert f"{tmp_path}/x{ending}: " in error and detail in error
    assert not (tmp_path / "new").exists()


def test_the_verification_names_the_file_that_it_took(tmp_path, state):
    config = ValidConfig(checkpoint=str(tmp_path), embedding_size=64, device="cpu", engine="paddle")
    (tmp_path / f"{NETWORK}.safetensors").write_bytes(safetensors_bytes(state))
    with pytest.raises(UserError, match=rf"{tmp_path}/{NETWORK}.safetensors: linear1.conv.weight has shape \[128"):
        verify_checkpoint(config)
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(state_dict_bytes(state))
    with pytest.raises(UserError, match=rf"{tmp_path}/{NETWORK}.pdparams: linear1.conv.weight has shape \[128"):
        verify_checkpoint(config)


# ---- the command


@pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
def test_the_command_writes_what_its_own_advice_reads(source, y1_params, tmp_path, capsys, ending):
    path = source(y1_params)
    main([str(path), str(tmp_path / "my weights" / f"{NETWORK}.{ending}")])
    written, advice = capsys.readouterr().out.splitlines()
    assert written == f"{tmp_path}/my weights/{NETWORK}.{ending}: 283 tensors with 1022720 values, from {path}"
    python, script, *options = shlex.split(advice.removeprefix("verify them: "))
    assert (python, script) == ("python", "valid.py")
    config = parse(ValidConfig, options)
    assert (config.network, config.embedding_size) == (NETWORK, 128)
    loaded, expected = read_backbone(tmp_path / "my weights", config.network), convert(path, NETWORK, 128)
    assert config.checkpoint == str(tmp_path / "my weights")
    assert loaded.keys() == expected.keys() and all(np.array_equal(loaded[name], expected[name]) for name in expected)
    assert os.listdir(tmp_path / "my weights") == [f"{NETWORK}.{ending}"]


def test_weights_beside_others_that_come_first_are_not_called_verified(tmp_path, state, capsys):
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(state_dict_bytes(state))
    main([str(tmp_path / f"{NETWORK}.pdparams"), str(tmp_path / f"{NETWORK}.safetensors")])
    _, advice = capsys.readouterr().out.splitlines()
    assert advice == f"valid.py reads {NETWORK}.pdparams, which is beside it; to verify this file, move it to another directory"


def test_a_file_that_is_there_is_replaced_only_when_told_and_only_as_a_whole(source, y1_params, tmp_path, refused, monkeypatch):
    path, destination = source(y1_params), tmp_path / f"{NETWORK}.pdparams"
    destination.write_bytes(b"precious")
    assert "exists already" in refused(lambda: main([str(path), str(destination)]))

    def full(*_):
        raise OSError(28, "No space left on device")

    for operation in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, full)
            assert "cannot be written (No space left" in refused(lambda: main([str(path), str(destination), "--overwrite"]))
        assert destination.read_bytes() == b"precious"
        assert sorted(os.listdir(tmp_path)) == [f"{NETWORK}.pdparams", "model-0000.params"]
    main([str(path), str(destination), "--overwrite"])
    assert len(read_backbone(tmp_path, NETWORK)) == 283
    assert sorted(os.listdir(tmp_path)) == [f"{NETWORK}.pdparams", "model-0000.params"]


def test_wrong_arguments_are_one_line(tmp_path, refused):
    good = f"{tmp_path}/{NETWORK}.pdparams"
    for ending in "pdparams", "safetensors", "params":
        assert f"name it {tmp_path}/{NETWORK}.pdparams or {NETWORK}.safetensors" in refused(
            lambda: main(["y1.params", f"{tmp_path}/y1.{ending}"])
        )
    assert "pass one of these" in refused(lambda: main(["y1.h5", good]))
    assert "y1.params: cannot be read (No such file" in refused(lambda: main(["y1.params", good]))
    assert "DESTINATION: required; see --help" in refused(lambda: main(["y1.params"]))
    assert "--embedding_size: must be a whole number from 1" in refused(lambda: main(["y1.params", good, "--embedding_size", "0"]))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write({}, tmp_path / "file" / f"{NETWORK}.pdparams")


def test_help_teaches_and_does_not_wait_for_paddle(repository):
    code = (
        "import sys, arcface.weights.convert as weights\ntry:\n    weights.main(['--help'])\n"
        "except SystemExit:\n    print('paddle' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, timeout=120)
    assert "python -m arcface.weights insightface_y1/model-0000.params" in done.stdout
    assert done.stdout.endswith("\nFalse\n")


# ---- the real model


def convolve(x, weight, stride, pad, groups):
    (top, left), (down, right) = pad, stride
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::down, ::right]
    if groups == 1:
        return np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    assert groups == len(weight) == x.shape[1]
    return np.einsum("nchwij,cij->nchw", windows, weight[:, 0])


def per_channel(values, x):
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def run_symbol(symbol: dict, params: dict, images: np.ndarray) -> np.ndarray:
    """Compute an MXNet symbol as it is written, with MXNet's defaults, in NumPy float64: slow and independent."""
    outputs = []
    for node in symbol["nodes"]:
        inputs = [outputs[index] for index, *_ in node["inputs"]]
        attributes = {
            key: value if value.isidentifier() and value not in ("True", "False") else ast.literal_eval(value)
            for key, value in node.get("attrs", {}).items()
            if node["op"] != "null"
        }
        match node["op"]:
            case "null" if node["name"] == "data":
                output = images.astype(np.float64)
            case "null":
                (key,) = {f"arg:{node['name']}", f"aux:{node['name']}"} & params.keys()
                output = params[key].astype(np.float64)
            case "_minus_scalar":
                output = inputs[0] - attributes["scalar"]
            case "_mul_scalar":
                output = inputs[0] * attributes["scalar"]
            case "Convolution":
                assert attributes["no_bias"] and attributes["kernel"] == inputs[1].shape[2:]
                output = convolve(*inputs, attributes["stride"], attributes["pad"], attributes["num_group"])
            case "BatchNorm":
                x, (gamma, beta, mean, variance) = inputs[0], (per_channel(values, inputs[0]) for values in inputs[1:])
                gamma = 1 if attributes.get("fix_gamma", True) else gamma
                output = gamma * (x - mean) / np.sqrt(variance + attributes.get("eps", 1e-3)) + beta
            case "LeakyReLU":
                assert attributes["act_type"] == "prelu"
                output = np.where(inputs[0] > 0, inputs[0], inputs[0] * per_channel(inputs[1], inputs[0]))
            case "elemwise_add":
                output = inputs[0] + inputs[1]
            case "FullyConnected":
                output = inputs[0].reshape(len(inputs[0]), -1) @ inputs[1].T + inputs[2]
            case other:
                raise NotImplementedError(other)
        outputs.append(output)
    (head,) = symbol["heads"]
    return outputs[head[0]]


def lfw_images(real_data, number: int) -> np.ndarray:
    return np.stack([decode(image, "lfw") for image in read_bin(real_data / "lfw.bin").images[:number]])


@pytest.mark.parametrize("kind", ["published", "random"])
def test_embeddings_are_those_of_the_published_symbol(real_data, source, y1_params, tmp_path, kind):
    symbol = json.loads((real_data / "insightface_y1" / "model-symbol.json").read_text())
    if kind == "published":  # its bias is about 1e-9 and its fixed gamma 1, so that the random ones are needed too
        path = real_data / "insightface_y1" / "model-0000.params"
        params = read_params(path)
    else:
        path, params = source(y1_params), y1_params
    main([str(path), str(tmp_path / f"{NETWORK}.pdparams")])
    images = lfw_images(real_data, 4)
    expected = run_symbol(symbol, params, images)
    assert expected.shape == (4, 128) and expected.std() > 0.1
    np.testing.assert_allclose(embed(tmp_path, images), expected, rtol=0, atol=1e-4)
