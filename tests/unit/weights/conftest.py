"""A writer of MXNet parameter files, and parameters such as those of InsightFace's MobileFaceNet y1."""

import struct

import numpy as np
import pytest

TYPE_FLAGS = {np.dtype("<f4"): 0, np.dtype("<f8"): 1, np.dtype("<f2"): 2}


def packed_array(array: np.ndarray, version: int) -> bytes:
    storage = b"" if version == 1 else struct.pack("<i", 0)
    shape = struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
    device = struct.pack("<ii", 2, 7)  # the eighth GPU
    return (
        struct.pack("<I", 0xF993FAC7 + version)
        + storage
        + shape
        + device
        + struct.pack("<i", TYPE_FLAGS[array.dtype])
        + array.tobytes()
    )


@pytest.fixture(scope="session")
def pack():
    """Returns a function that returns an MXNet parameter file's content: named arrays, as MXNet's version 1, 2 or 3."""

    def pack_list(arrays: dict[str, np.ndarray], version: int = 2, names: list[str] | None = None) -> bytes:
        names = list(arrays) if names is None else names
        parts = [struct.pack("<QQQ", 0x112, 0, len(arrays)), *(packed_array(array, version) for array in arrays.values())]
        parts.append(struct.pack("<Q", len(names)))
        parts += [struct.pack("<Q", len(name)) + name.encode() for name in names]
        return b"".join(parts)

    return pack_list


def y1_layers():
    """Yield name, weight shape and whether a PReLU follows of each convolution of y1."""
    yield "conv_1", (64, 3, 3, 3), True
    yield "conv_2_dw", (64, 1, 3, 3), True
    stages = [
        ("dconv_23", 1, 64, 128, 64),
        ("res_3", 4, 64, 128, 64),
        ("dconv_34", 1, 64, 256, 128),
        ("res_4", 6, 128, 256, 128),
        ("dconv_45", 1, 128, 512, 128),
        ("res_5", 2, 128, 256, 128),
    ]
    for stage, repeats, channels_in, inner, channels_out in stages:
        for repeat in range(repeats):
            block = f"{stage}_block{repeat}" if stage.startswith("res") else stage
            yield f"{block}_conv_sep", (inner, channels_in, 1, 1), True
            yield f"{block}_conv_dw", (inner, 1, 3, 3), True
            yield f"{block}_conv_proj", (channels_out, inner, 1, 1), False
    yield "conv_6sep", (512, 128, 1, 1), True
    yield "conv_6dw7_7", (512, 1, 7, 7), False


def batch_norm(name: str, channels: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        f"arg:{name}_gamma": draw.uniform(0.5, 1.5, channels),
        f"arg:{name}_beta": draw.normal(0, 0.3, channels),
        f"aux:{name}_moving_mean": draw.normal(0, 0.3, channels),
        f"aux:{name}_moving_var": draw.uniform(1e-4, 2e-3, channels),  # the size of eps, so that it matters
    }


@pytest.fixture
def y1_params() -> dict[str, np.ndarray]:
    """Random parameters of y1, float32, with a gamma (that is to be ignored), eps and bias that would show."""
    draw, params = np.random.default_rng(1), {}
    for name, shape, has_prelu in y1_layers():
        params[f"arg:{name}_conv2d_weight"] = draw.normal(0, 0.03 / np.prod(shape[1:]) ** 0.5, shape)
        params |= batch_norm(f"{name}_batchnorm", shape[0], draw)
        if has_prelu:
            params[f"arg:{name}_relu_gamma"] = draw.uniform(0.1, 0.4, shape[0])
    params |= {"arg:fc1_weight": draw.normal(0, 0.03 / 512**0.5, (128, 512)), "arg:pre_fc1_bias": draw.normal(0, 1, 128)}
    params |= batch_norm("fc1", 128, draw)
    names = list(params)
    draw.shuffle(names)  # MXNet writes them in the order of a hash
    return {name: params[name].astype("<f4") for name in names}
