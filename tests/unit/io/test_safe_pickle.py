"""The restricted unpickler reads what honest tools write, and runs nothing that a dishonest file asks for."""

import ast
import base64
import collections
import copyreg
import functools
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.errors import UserError
from arcface.io import safe_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


def refusal(payload: bytes, name: str = "some.bin") -> str:
    """Load what must not load; return the message, which is one line that names the file."""
    with pytest.raises(UserError) as caught:
        safe_pickle.load(payload, name)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{name}: ") and len(message) < 400
    return message


def same(first, second) -> bool:
    """Equal in type and value, down to the dtype, bits and memory order of arrays."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and first.flags.f_contiguous == second.flags.f_contiguous
            and first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# ---- what must load


@settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_of_every_protocol_loads_as_it_was(data, protocol):
    assert same(safe_pickle.load(pickle.dumps(data, protocol), "x"), data)


def test_shared_and_cyclic_references_stay_shared():
    shared = ["once"]
    cycle = [shared, shared]
    cycle.append(cycle)
    loaded = safe_pickle.load(pickle.dumps(cycle), "x")
    assert loaded[0] is loaded[1] and loaded[2] is loaded


def test_a_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"header" + pickle.dumps([1, 2]))
    stream.seek(6)
    assert safe_pickle.load(stream, "x") == [1, 2]


ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big-endian": np.arange(300, dtype=">f8"),
    "float16": np.array([0.5, -1], np.float16),
    "bool": np.array([True, False]),
    "uint8": np.arange(256, dtype=np.uint8),
    "complex": np.array([1 + 2j], np.complex64),
    "0-d": np.array(7),
    "empty": np.zeros((0, 3)),
    "Fortran order": np.arange(6.0).reshape(2, 3).T,
    "permuted axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "not contiguous": np.arange(10)[::3],
    "bytes": np.array([b"\xff\xd8", b"x"]),
    "objects": np.array([b"\xff\xd8", "text", None, 1.5, [1]], dtype=object),
    "arrays as objects": np.array([np.arange(2), None, np.arange(3.0)], dtype=object)[::2],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_load_equal(kind, protocol):
    array = ARRAYS[kind]
    loaded = safe_pickle.load(pickle.dumps({"array": array}, protocol), "x")["array"]
    if array.dtype == object:
        assert loaded.dtype == object and same(list(loaded), list(array))
    else:
        # NumPy itself makes big-endian native in protocols 0 to 4: compare with its own result.
        assert same(loaded, pickle.loads(pickle.dumps(array, protocol))) and np.array_equal(loaded, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_and_dtypes_load_equal(protocol):
    scalars = [np.float32(1.5), np.int64(-3), np.bool_(True), np.bytes_(b"\xff")]
    data = scalars + [np.dtype(">i2"), np.dtype("S3"), np.dtype(bool)]
    assert same(safe_pickle.load(pickle.dumps(data, protocol), "x"), data)


def test_loaded_arrays_can_be_written_to():
    for protocol in PROTOCOLS:
        array = safe_pickle.load(pickle.dumps(np.zeros(100, np.float32), protocol), "x")
        array += 1
        assert array.sum() == 100


# base85 of pickle.dumps((np.array([[1, 2], [3, 4]], np.int16), np.float32(0.5)), protocol)
WRITTEN_ELSEWHERE = (
    (
        "numpy 1.26.4, protocol 2",
        (
            "fC6J~b!~8YE@N+UWiD-XY;<X1a&lpL3SV+%V{dMAbaHiLbP90*V{UbAaCr)DWMOi0VR;I10ZRadaROssV{c?-V{-"
            "~+Zewp`WeRZvSOEY40Ag_jSOx$90Bm7&X>Kub1%`13QgH`|aR^dz2`EbeO9D#*hH(mGZgp*Nc?x87d2nS4aSK=i0001KGI0!"
            "vh=*|vQgIF_O9NN|0000yaSu*TPD=m(|Nlz=|Ns9>0CaH>Vu@%2SO@?B0096300RI70C5p$1%`1FQgIV>aTH=>Zgp*Nc`jpb"
            "a%C=Ub!>ELVRCX|c?xr5VQgV?3UL)^3s?dG003q*aTbY)hjABDaTq8|185IUPEJby|Ns9=|NsC0O8|6n8DeMySOfq700000K"
            "XDpp1%`1OQgIxHaUD`|9)@urE&"
        ),
    ),
    (
        "numpy 1.26.4, protocol 4",
        (
            "fCQD$000000001t6>fEHaCt6cZ*pZWZFOvPX<>45VR@8{3}13(V{dMAbaHiLbd-"
            "~nj0J9WZE$&%j0bLHVRCX|d6bisO8|wGLjhuxhm=y3C`$oL0!sphlxPEt1!Q!2aAlN}l#BvtGL(skhm=y3C`$v30X&pWPEJb"
            "y|Ns9=|NsC0O8|6~Vu?ct0RRF30{{d7lysD0XaI}`b7Ns_VRDp{lxPf$0%kOniHL`kQj{o5185LVPEJby|Ns9=|NsC0O8|6~"
            "VnYM~002LfhLlp2hLkP"
        ),
    ),
    (
        "numpy 1.26.4, protocol 5",
        (
            "fCZJ&000000001t5^i;EaCt6cZ*pZWZgp*Ca%p3fj0<08a&K*7b!KK|a+H&lD3%BS00000000310ssR51OSwb1#We1aCwxB1"
            "!Q!2aAlN}l#BvtGL(skhm=y3C`$v30X&pWPEJby|Ns9=|NsC0O8|6~VoL%`0)~`~0Yj8@lv0$86>fEHaCt6cZ*pZWZFOvPX<"
            ">45VR@8{26JO!Y+-Vglay!%i~?pfl!=Iklv0!^O9N;MPEJlr|NsC0O8@`=|4RULlwv~!0000#l!la2l!lZp"
        ),
    ),
    (
        "numpy 2.4.6, protocol 2",
        (
            "fC6J~b!~8YE?;ABa%C=Ub!>ELVRCX|c?w^0Wn*t{b98cbV{{5}0Ap@-"
            "ZE$%CZe(F{a$$K2aREyJg>eF7Ut@1%Wn*&+Wo~0{WMv9*16Tn7003ff1Xu<D003-"
            "ZbZKreaRr8P22ybchj9o}aS13(0ZRf)0)}x4V{UbAaCr)3ba`-"
            "P3ULcq0ssI2X)<vPiHL`B4N`FqC`$ua0RR91JaG?BPEJby|Ns9=|NsC0O8|6n5MqgF16T+E000310ssR51ORanXa$CG5>jy!"
            "ba517V{UbAaCt6YV{dY0E^T#ebZKF7a$$K2b7Ns_VR8y_6=(}s0ssI2W;AgYiHL`B7gBK;C`$uq4^B=_O8@`=|4RS=|Nlz>b"
            "a5GCXaiUT00000002L68fXQEaT`)`9ENcnQgI%JaUU)"
        ),
    ),
    (
        "numpy 2.4.6, protocol 4",
        (
            "fCQD%000000001t7H)NIaCt6YV{dY0E^T#ebZKF7a$$Ltj0|6LWn*t{b98cbV|0|0l#B&#b!~8Yl#B;%WMOi0VR@93luH1Gl"
            "tTexl!ug3lqgF9O9D#*hLmUnj0I$Ld2nTvla!1CX)=_Fh=-"
            "I?lqgFBi~&59PEJlr|NsC0O8@`=|4RULlwyfP2mt^B00RI70F-o;VrT%226JO!Y+-Vglay!-"
            "i~?pfl!=Iklv0!^O9N;SPEJlr|NsC0O8@`=|4RULlwv~!0000#l!la2l!lZp"
        ),
    ),
    (
        "numpy 2.4.6, protocol 5",
        (
            "fCZJ)000000001t6K-{FaCt6YV{dY0E^c*gWpZg_l#B~sW^!+BVs&O_Wpb30lqi-"
            "6000000000100IC500aP(j0J9WZE$&%j0I$Ld2nTvla!1CX)=_Fh=-"
            "I?lqgFBi~&59PEJlr|NsC0O8@`=|4RULlwwN)O9F<Ji~&QGbd*w*j23QnZE$%mUt@1_WiD-"
            "XY;<X1a&lpLl#B**V_|Gza+H&lXa<Y|W;B$Eh=-I?lqgFBXbMhFPD=m(|Nlz=|Ns9>0CbdMLj(W-06&z5lv0$2lr8"
        ),
    ),
)


@pytest.mark.parametrize("written_by, encoded", WRITTEN_ELSEWHERE)
def test_arrays_of_numpy_1_and_2_load_under_either(written_by, encoded):
    array, scalar = safe_pickle.load(base64.b85decode(encoded), written_by)
    assert same(array, np.array([[1, 2], [3, 4]], np.int16)) and same(scalar, np.float32(0.5))


def test_python_2_strings_load_as_bytes_in_every_form():
    jpeg = b"\xff\xd8\xff'\"\\\n\x00 end"
    protocol_0 = b"(lp0\nS'\\xff\\xd8\\xff\\'\"\\\\\\n\\x00 end'\np1\naI01\na."
    assert safe_pickle.load(protocol_0, "x") == [jpeg, True]
    for form in (b"U" + struct.pack("<B", len(jpeg)), b"T" + struct.pack("<I", len(jpeg))):
        assert safe_pickle.load(b"\x80\x02" + form + jpeg + b".", "x") == jpeg


def test_python_2_arrays_load():
    payload = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b"
        b"\x87Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\xff\xd8tb."
    )
    assert same(safe_pickle.load(payload, "x"), np.array([0xFF, 0xD8], np.uint8))
    assert same(safe_pickle.load(payload, "x"), pickle.loads(payload, encoding="bytes"))


def as_paddle_returns(loaded):
    """Without the internal names of tensors: outside of plain state dicts, Paddle pickles a tensor as (name, array)."""
    if isinstance(loaded, dict):
        return type(loaded)((key, as_paddle_returns(value)) for key, value in loaded.items())
    if type(loaded) is tuple and len(loaded) == 2 and type(loaded[0]) is str and isinstance(loaded[1], np.ndarray):
        return loaded[1]
    return type(loaded)(map(as_paddle_returns, loaded)) if isinstance(loaded, (list, tuple)) else loaded


def trained(paddle, optimizer: str) -> dict:
    """State dict of an optimizer with a rate that falls, after a step."""
    linear = paddle.nn.Linear(3, 2)
    rate = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.StepDecay(0.1, 5), 10, 0.0, 0.1)
    optimizer = getattr(paddle.optimizer, optimizer)(rate, parameters=linear.parameters())
    linear(paddle.ones([4, 3])).sum().backward()
    optimizer.step()
    rate.step()
    return optimizer.state_dict()


DTYPES = "float16 uint16 float32 float64 int8 int16 int32 int64 uint8 bool complex64 complex128".split()  # uint16: bfloat16


def of_every_dtype(paddle) -> dict:
    """Tensors of random bits, NaNs and infinities among them."""
    draw = np.random.default_rng(0)
    bits = {dtype: draw.integers(0, 2 if dtype == "bool" else 256, 4800, np.uint8).view(dtype) for dtype in DTYPES}
    state = {dtype: paddle.to_tensor(array) for dtype, array in bits.items()}
    assert state["uint16"].dtype == paddle.bfloat16
    return state


def of_every_shape(paddle) -> dict:
    tensor = paddle.arange(24, dtype="float32").reshape([2, 3, 4])
    return {
        "0-D": paddle.to_tensor(7.0),
        "one": paddle.ones([1]),
        "empty": paddle.zeros([0, 3]),
        "plain": tensor,
        "permuted": tensor.transpose([2, 0, 1]),
        "transposed": tensor[0].t(),
        "strided": tensor[:, ::2, 1:],
    }


SAVED = {
    "layers": lambda paddle: paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.PReLU(4), paddle.nn.Linear(4, 300)
    ).state_dict(),
    "every dtype": of_every_dtype,
    "every shape": of_every_shape,
    "Momentum": lambda paddle: trained(paddle, "Momentum"),
    "Adam": lambda paddle: trained(paddle, "Adam"),
    "Adam with master weights": lambda paddle: {**trained(paddle, "Adam"), "master_weights": of_every_dtype(paddle)},
    "training state": lambda paddle: {
        "model": of_every_shape(paddle),
        "optimizer": trained(paddle, "Adam"),
        "epoch": 3,
        "best": 0.5,
        "history": [paddle.ones([2]), None, "text", (1, paddle.zeros([3]))],
    },
    "ordered": lambda paddle: collections.OrderedDict(b=paddle.ones([2]), a=[paddle.zeros([2])]),
    "list": lambda paddle: list(of_every_dtype(paddle).values()),
    "tensor": lambda paddle: paddle.ones([2, 2]),
    "array": lambda paddle: {"array": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(1), "list": [np.zeros(2)]},
    "no tensor": lambda paddle: {"epoch": 3, 5: [1.5, True, None, "text"]},
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", SAVED)
def test_what_paddle_saves_loads_as_paddle_loads_it(kind, protocol, tmp_path):
    paddle = pytest.importorskip("paddle")
    path = str(tmp_path / "saved")
    paddle.save(SAVED[kind](paddle), path, protocol=protocol)
    with open(path, "rb") as file:
        loaded = safe_pickle.load(file, path)
    assert same(as_paddle_returns(loaded), paddle.load(path, return_numpy=True, keep_name_table=True))


# base85 of what paddle 2.6.2 and numpy 1.26.4 write by
# w = paddle.to_tensor([[1.5, -2], [0, 3]])
# paddle.save({"w": w, "half": w.astype("bfloat16"), "step": paddle.to_tensor(7)}, path, protocol)
# paddle.save([w, {"epoch": 3}], path, protocol)
WRITTEN_BY_PADDLE_2 = (
    (
        "state",
        2,
        (
            "fC7DS04P`i0001YaRFm)b!~8YE@N+UWiD-XY;<X1a&lpL3SV+%V{dMAbaHiLbP90-V{UbAaCr)DWMOi0VR;I114{sfaRg&uV{c?-"
            "V{-~+Zewp`WeRZxSOEY40Ag_lSOx$90Bm7&X>Kub2ZnJ7QgI1~aSBp#3n)tgO9D#*hH(sIZgp*Nc?x87d2nS4aSd1k0001HG;t1z"
            "h=*|xQgIL{O9NN|0000yaS={VPD=m(|Nlz=|Ns9>0CaH@Vu@%4SP}pL0002PfIk2L0K<R)0000006;)-6KDs9aTHQ<6?AbHVps$K"
            "003xVY-Vv6XaZ;hO8|v&7-$KHaT!u^8YoKvO9D#*hH)Ec4OjvI004C|aU6+=hjATJaULj3185OWPEJby|Ns9=|NsC0O8|6nA7Y7U"
            "1y~9I006^)KLEpk002NhaUf_1hH)WMaUyhaBVt$t0001UbY*aHBxnL?14{sfaV2O8hjAuSaVIEC0V!w=SONe50BJaJD2a%NaVb)9"
            "Dkw_>Xc10MPD=m(|Nlz=|Ns9>0CaIHVu@%4SO@?B00#g7000000C6m62ZnJiQgJSHaW7(68vp<RQ*?55V{~<LWn@%uP+@XmZDn+2"
            "a!z4wWk5i2Fnw_`C};s#5&!@IXJu|>a$$63WM6b;ZgX#PUodepXct%u0001GVP|D>UvzD7UodeqXe3w?0001IWo~71VRU6=Uvy<|"
            "b8m8AF>y3?buI"
        ),
    ),
    (
        "state",
        4,
        (
            "fCQDF0RR910001elqie=ca)43Zgp*Nc`jpba%C=Ub!>ELVRCX|d6bL{Uvgz*Z*FsRa&=>Ll#`T<1#We1aCwxB2X16xa&lpLl#`T8"
            "0ELu80b-Pglv0!^O94v)O9F<JXa$S~WOR9OWt5YYi~?pfl!=Iklv0!^O9PAnJd{pOPD=m(|Nlz=|Ns9>0CbdMi9-+o0Kh*0006)M"
            "0000006;*Lbd+L@1ZZJwW|U|IXa`FGg_LLshm=y3C`$oL0!sphlxPl&0(CN!iHL`kQj{o5185RXPEJby|Ns9=|NsC0O8|6~Vu?ct"
            "z&`-M002NhlysD0j0AIZWpI>e1ZW3K0ELuj35S$YlqgF9DQFIi0%<suiHL`kQj{o5185RXPEJby|Ns9=|NsC0O8|6~Vu?ct2LJ#7"
            "00000lysD0j2lyQa&=>Lb#i57RBupWa$#*{bY*f*VQpnVK$LxyC};tU5@%&@WpZJ3Wn^D;Wo~nCa$hi%XcmkMWnpJ!a$j_9a9=Q#"
            "Xd#ReXJu|>a$$63WM6b;ZgX#PUon(*buI"
        ),
    ),
    (
        "nested",
        2,
        (
            "fC61{04QT$Ut)D>Y;<XEUtbDzb#QED3UL8g5&!@IXJu|>a$$63WM6b;ZgX#PUode3V{UbAaCt6cZ*pZWZFOvPX<>45VR;H)a%E$0"
            "ZgX^Ubz^i2aRXy+b!~8Y3T|X!a&lpL3ULHW0EKY{V_#!$WMyM>3T19%Z)9Z(aRyic0001DaR*oi0001NVRUJ3F>wfnaS2j!3WsqE"
            "QgI9@O94v)O9F;*4P$O~ZE$%CWOR9OWeRZ)SONe50A@6C4~d9}aS&2*5hzOoSOEY406cLLPEJlr|NsC0O8@`=|4RULaT8*RXa-mk"
            "000000K<Sk0002PfB*mh0000$Kyegk2!?SLQgIe^aTj8SaTtYh8B%c?eQ_ID1poj5WpHm}XmK1%19N3A"
        ),
    ),
    (
        "nested",
        4,
        (
            "fCQD>0000000018lqie{Vs&Y3bZKsLl#B&*b#QEDl#`T<5@%&@WpZJ3Wn^D;Wo~nCa$hi%j1_KmZE$%mV{dY0E^T#ebZKF7a$$Lt"
            "j0|6LWn*t{b98cbV|0|0l#B&#b!~8Yl#B;%WMOi0VR@93luH1GltTexl!ug3lqgF9O9D#*hLmUsj0I$Ld2nTvla!1CW;B$Eh=-I?"
            "lqgFBi~&59PEJlr|NsC0O8@`=|4RULlwyfP5C8zcKL7v#zyJUM0000$K$LWpVuqB3lv0#^l#B&saBpL1luHA1Wi9"
        ),
    ),
)


@pytest.mark.parametrize("kind, protocol, encoded", WRITTEN_BY_PADDLE_2)
def test_what_paddle_2_saved_loads_under_either(kind, protocol, encoded):
    paddle = pytest.importorskip("paddle")
    content, w = base64.b85decode(encoded), np.array([[1.5, -2], [0, 3]], np.float32)
    loaded = as_paddle_returns(safe_pickle.load(content, "x"))
    assert same(loaded, paddle.load(io.BytesIO(content), return_numpy=True, keep_name_table=True))
    if kind == "state":
        half = np.array([[0x3FC0, 0xC000], [0, 0x4040]], np.uint16)
        del loaded["StructuredToParameterName@@"]
        assert same(loaded, {"w": w, "half": half, "step": np.array(7)})
    else:
        assert same(loaded, [w, {"epoch": 3}])


# ---- what must not run


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def piece(value) -> bytes:
    """The instructions that push a value, to be put between others."""
    return pickle.dumps(value, 3)[2:-1]


def calls_that_make(marker: str, array_file: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that make the directory `marker` if `pickle` opens them, and what their refusal must name."""
    mkdir, path = f"{os.mkdir.__module__}.mkdir", piece(marker)
    code = f"__import__('os').mkdir({marker!r})"
    return {
        "os.system": (pickle.dumps(Call(os.system, f"mkdir '{marker}'")), f"{os.system.__module__}.system"),
        "eval": (pickle.dumps(Call(eval, code)), "builtins.eval"),
        "exec, protocol 0": (pickle.dumps(Call(exec, code), 0), "__builtin__.exec"),
        "getattr": (
            b"c__builtin__\ngetattr\nc__builtin__\n__import__\n"
            + piece("os")
            + b"\x85R"
            + piece("mkdir")
            + b"\x86R"
            + path
            + b"\x85R.",
            "__builtin__.getattr",
        ),
        "dotted name": (b"\x80\x04" + piece("pathlib") + piece("os.mkdir") + b"\x93" + path + b"\x85R.", "pathlib.os.mkdir"),
        "functools.partial": (pickle.dumps(Call(functools.partial(os.mkdir, marker))), "functools.partial"),
        "copyreg": (
            b"\x80\x02ccopyreg\n_reconstructor\ncsubprocess\nPopen\n\x32" + piece(["mkdir", marker]) + b"\x87R.",
            "copyreg._reconstructor",
        ),
        "NEWOBJ": (
            b"\x80\x02cbuiltins\nbytes\ncbuiltins\nmap\ncos\nmkdir\n" + piece([marker]) + b"\x86\x81\x85\x81.",
            "builtins.map",
        ),
        "INST": (b"(" + path + b"ios\nmkdir\n.", "os.mkdir"),
        "OBJ": (b"(cos\nmkdir\n" + path + b"o.", "os.mkdir"),
        "numpy.load": (b"cnumpy\nload\n" + piece((array_file, None, True)) + b"R.", "numpy.load"),
        "in an object array": (pickle.dumps(np.array([Call(os.mkdir, marker)], dtype=object)), mkdir),
        "in a dict of arrays": (pickle.dumps([np.zeros(2), {"key": Call(os.mkdir, marker)}]), mkdir),
        "in place of a dtype": (b"cnumpy.core.multiarray\nscalar\n" + piece(Call(os.mkdir, marker)), mkdir),
    }


@pytest.mark.parametrize("attack", calls_that_make("", ""))
def test_no_call_runs_and_the_refusal_names_it(attack, tmp_path):
    marker = tmp_path / "it ran"
    array_file = str(tmp_path / "hidden.npy")
    np.save(array_file, np.array([Call(os.mkdir, str(marker))], dtype=object), allow_pickle=True)
    payload, named = calls_that_make(str(marker), array_file)[attack]
    assert f"asks for {named};" in refusal(payload)
    assert not marker.exists()
    try:  # The attack is real: the standard unpickler runs it.
        pickle.loads(payload)
    except Exception:
        pass
    deadline = time.monotonic() + 10  # copyreg's attack starts a process
    while not marker.exists():
        assert time.monotonic() < deadline, "this attack does nothing, so it proves nothing"
        time.sleep(0.01)


def test_registered_extensions_do_not_run(tmp_path):
    marker = tmp_path / "it ran"
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 240)
    try:
        assert "EXT1" in refusal(b"\x80\x02\x82\xf0" + piece(str(marker)) + b"\x85R.")
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 240)
    assert not marker.exists()


@pytest.mark.parametrize(
    "module, attribute",
    [
        ("numpy.core.multiarray", "os"),
        ("numpy.core.multiarray", "scalar.__self__"),
        ("", ""),
        ("numpy", "ndarray.__reduce__"),
        ("numpy.f2py", "compile"),
        ("numpy.f2py.crackfortran", "myeval"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("_codecs", "lookup"),
        ("_codecs", "encode.__self__"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "namedtuple"),
        ("builtins", "bytearray"),
        ("arcface.io.safe_pickle", "_Interpreter"),
        ("builtins", "list"),
        ("builtins", "tuple.__new__"),
    ],
)
def test_neighbours_of_admitted_names_are_refused(module, attribute):
    for payload in f"c{module}\n{attribute}\n.".encode(), piece(module) + piece(attribute) + b"\x93.":
        assert f"asks for {module}.{attribute};" in refusal(payload)


def test_names_that_would_break_the_message_do_not():
    assert "asks for os\\nsystem.a;" in refusal(b"\x80\x04" + piece("os\nsystem") + piece("a") + b"\x93.")
    refusal(b"\x80\x04" + piece("x" * 1_000_000) + piece("\x1b[31m\u202e") + b"\x93.")


EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def dtype(code, state=None) -> bytes:
    build = b"" if state is None else piece(state) + b"b"
    return b"cnumpy\ndtype\n" + piece((code, False, True)) + b"R" + build


def array(shape, dtype_piece: bytes, content) -> bytes:
    return EMPTY_ARRAY + b"(K\x01" + piece(shape) + dtype_piece + b"\x89" + piece(content) + b"tb"


def call(name: str, *argument_pieces: bytes) -> bytes:
    module, attribute = name.rsplit(".", 1)
    return f"c{module}\n{attribute}\n".encode() + b"(" + b"".join(argument_pieces) + b"tR"


NO_FLAGS = (3, "|", None, None, None, -1, -1, 0)
FIELDS = (3, "<", None, ("a",), {"a": (np.dtype("f8"), 1000)}, 8, 1, 0)
RECONSTRUCT, SCALAR, FROM_BUFFER = (
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
)
MISUSE = {  # by what the message says
    "the content of an array does not fit its shape": {
        "object array of raw pointers": array((1,), dtype("O8", NO_FLAGS), bytes(8)),
        "shape larger than the content": array((2**40,), dtype("f4"), bytes(8)),
        "objects fewer than the shape": array((3,), dtype("O8"), [1]),
        "a buffer too small": call(FROM_BUFFER, piece(bytes(4)), dtype("f4"), piece((9,)), piece("C")),
        "scalar that is too short": call(SCALAR, dtype("f8"), piece(bytes(4))),
    },
    "an array whose content is not bytes": {
        "scalar object from a pointer": call(SCALAR, dtype("O8"), piece(bytes(8))),
        "buffer of pointers": call(FROM_BUFFER, piece(bytes(8)), dtype("O8"), piece((1,)), piece("C")),
        "another array as dtype": array((1,), EMPTY_ARRAY, bytes(4)),
        "text as content": array((1,), dtype("f4"), "four"),
    },
    "an invalid shape": {
        "shape that overflows": array((2**62, 4), dtype("f4"), b""),
        "empty shape that overflows": array((2**62, 2**62, 0), dtype("f4"), b""),
        "negative shape": array((-1,), dtype("f4"), bytes(4)),
        "shape of text": array(("1",), dtype("f4"), bytes(4)),
    },
    "an array of 100 dimensions": {
        "more dimensions than NumPy has": array((1,) * 100, dtype("f4"), bytes(4)),
    },
    "an object array in an object array": {  # freeing a deep nest of these overflows the C stack
        "directly": array((1,), dtype("O8"), [np.array([None])]),
        "in one that is filled first": EMPTY_ARRAY + b"q\x50" + array((1,), dtype("O8"), "h").replace(piece("h"), b"]h\x50a"),
    },
    "asks for a NumPy array of dtype ": {
        "field outside its item": array((1,), dtype("V8", FIELDS), bytes(8)),
        "dtype by a comma string": dtype("f4," * 1000 + "f4"),
        "dtype of an unheard-of size": dtype("S999999999999"),
        "dates": dtype("M8"),
        "text, whose code points may not exist": dtype("U3"),
    },
    "asks for an unusual kind of NumPy dtype": {
        "field put on a number": array((1,), dtype("f8", FIELDS), bytes(8)),
        "silly byte order": dtype("f4", (3, "!", None, None, None, -1, -1, 0)),
    },
    "asks for an unusual kind of NumPy array": {
        "_reconstruct of a huge shape": call(RECONSTRUCT, b"cnumpy\nndarray\n", piece((2**40,)), piece(b"b")),
        "_reconstruct of another class": call(RECONSTRUCT, b"cnumpy\ndtype\n", piece((0,)), piece(b"b")),
        "_reconstruct of objects": call(RECONSTRUCT, b"cnumpy\nndarray\n", piece((0,)), piece(b"O")),
    },
    "asks for a call of numpy.ndarray": {"REDUCE": call("numpy.ndarray", piece((2**40,)))},
    "asks for the pickle instruction ": {
        "NEWOBJ": b"cnumpy\nndarray\n" + piece((2**40,)) + b"\x85\x81",
        "EMPTY_SET": b"\x80\x04\x8f",
        "NEXT_BUFFER": b"\x80\x05\x97",
    },
    "asks for a change to the state of a value that is not an array": {
        "a function": b"cnumpy\ndtype\n" + piece({"__defaults__": (1,)}) + b"b",
        "an OrderedDict": call("collections.OrderedDict") + piece({"items": 1}) + b"b",
        "a complete array": array((1,), dtype("f4"), bytes(4)) + piece((1, (1,), None, False, b"")) + b"b",
    },
    "asks for _codecs.encode with an encoding that is not latin1": {
        "rot13": call("_codecs.encode", piece("x"), piece("rot13")),
        "no text": call("_codecs.encode", piece("x"), piece([1])),
    },
    "asks for a dict key of type ": {"list": b"}]K\x01s", "tuple": b"})K\x01s"},
    "asks for an object outside the file, by a persistent id": {"text": b"Psecret\n", "binary": b"K\x01Q"},
    "a call of a value that is not a function": {"a number": b"K\x01)R", "no tuple": b"cnumpy\ndtype\nK\x01R"},
    "an item for a value that is not a list": {"a number": b"K\x01K\x02a"},
    "a key for a value that is not a dict": {"a list": b"]K\x01K\x02s"},
    "pickle protocol 6": {"PROTO": b"\x80\x06N"},
    "truncated, damaged or not a pickle": {
        "structured dtype": dtype([("a", "O")]),
        "dtype by a dict": dtype({"names": ["a"], "formats": ["O"]}),
        "dtype with a number as state": dtype("f4", 7),
        "array with a dict as state": EMPTY_ARRAY + piece({"shape": 1}) + b"b",
        "array without order": call(FROM_BUFFER, piece(bytes(4)), dtype("f4"), piece((1,)), piece("wrong")),
        "_reconstruct without arguments": call(RECONSTRUCT),
        "encode beyond latin1": call("_codecs.encode", piece("\u20ac"), piece("latin1")),
        "bytes of a huge size": call("builtins.bytes", piece(2**40)),
        "tuple of a huge size": call("builtins.tuple", piece(bytes(9))),
        "tuple of nothing": call("builtins.tuple"),
        "OrderedDict of a number": call("collections.OrderedDict", piece(5)),
        "a memo that is not there": b"h\x07",
        "a mark that is not there": b"t",
        "a value without a key": b"}(K\x01u",
        "bytes to encode": call("_codecs.encode", piece(b"x"), piece("latin1")),
        "a global named by numbers": b"K\x01K\x02\x93",
    },
}


@pytest.mark.parametrize("reason, misuse", [(reason, key) for reason in MISUSE for key in MISUSE[reason]])
def test_misuse_of_what_is_admitted_is_refused(reason, misuse):
    assert reason in refusal(MISUSE[reason][misuse] + b".")


def test_a_dtype_keeps_its_size_and_flags_whatever_its_state_says():
    """With a false size NumPy would read beyond an array; with false flags it would not count references."""
    for code, false_state in (("S3", (3, "|", None, None, None, 4_000, 1, 0)), ("O8", NO_FLAGS)):
        loaded = safe_pickle.load(dtype(code, false_state) + b".", "x")
        assert (loaded.itemsize, loaded.alignment, loaded.flags) == (
            np.dtype(code).itemsize,
            np.dtype(code).alignment,
            np.dtype(code).flags,
        )


def test_the_pointer_attack_is_real():
    """A null pointer, which NumPy reads as None, stands in for the pointers that would crash it."""
    attack = MISUSE["the content of an array does not fit its shape"]["object array of raw pointers"] + b"."
    assert pickle.loads(attack).tolist() == [None]


def tuple_tower(height: int) -> bytes:
    """As a dict key, a tuple of twice the same tuple of twice ..., whose hash takes 2 ** height steps."""
    return b"}" + b"N" + b"q\x00h\x00\x86" * height + b"Ns"


def copying_loop(copies: int) -> bytes:
    """Asks for the same copy of 100 kB again and again, in eight bytes each."""
    return (
        b"(c_codecs\nencode\nq\x50"
        + piece("x" * 100_000)
        + b"q\x51"
        + piece("latin1")
        + b"q\x52"
        + b"h\x50h\x51h\x52\x86R" * copies
        + b"l."
    )


def byteswapping_loop(copies: int) -> bytes:
    """Asks for the same array again and again, which NumPy copies because it is not in native byte order."""
    big_endian = dtype("f4", (3, ">", None, None, None, -1, -1, 0))
    return (
        b"("
        + big_endian
        + b"q\x50"
        + piece(bytes(100_000))
        + b"q\x51"
        + (EMPTY_ARRAY + b"(K\x01M\xa8a\x85h\x50\x89h\x51tb") * copies
        + b"l."
    )


def viewing_loop(copies: int) -> bytes:
    """Asks for one more array in the same memory again and again; to put them together would fill it."""
    module = np.zeros(1).__reduce_ex__(5)[0].__module__  # numpy._core.numeric, in NumPy 1 numpy.core.numeric
    view = call(f"{module}._frombuffer", b"h\x50", dtype("u1"), piece((100_000,)), piece("C"))
    return b"(" + piece(bytes(100_000)) + b"q\x50" + view * copies + b"l."


LONG = 2**60
BOMBS = {
    "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", LONG) + b"x.",
    "BINBYTES8 of 16 GiB": b"\x80\x04\x8e" + struct.pack("<Q", 2**34) + b"x.",
    "BINBYTES": b"\x80\x03B\xff\xff\xff\xffx.",
    "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", LONG) + b"x.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", LONG) + b"x.",
    "FRAME": b"\x80\x04\x95" + struct.pack("<Q", LONG) + b"N.",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "BINSTRING": b"\x80\x02T\xff\xff\xff\x7fx.",
    "digits that take quadratic time": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a key that takes exponential time": tuple_tower(200) + b".",
    "copies of text": copying_loop(5_000),
    "copies of arrays": byteswapping_loop(1_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_at_once_in_little_memory(bomb, tmp_path):
    payload = BOMBS[bomb]
    (tmp_path / "bomb").write_bytes(payload)
    tracemalloc.start()
    try:
        refusal(payload)
        with open(tmp_path / "bomb", "rb") as file, pytest.raises(UserError):
            safe_pickle.load(file, "bomb")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 20 * len(payload)


@pytest.mark.parametrize("loop", [copying_loop, byteswapping_loop, viewing_loop])
def test_copying_loops_are_real_and_a_few_copies_load(loop):
    assert len(safe_pickle.load(loop(3), "x")) == len(pickle.loads(loop(3)))
    assert "far more memory than its size" in refusal(loop(50))


def test_a_huge_memo_index_costs_no_memory():
    tracemalloc.start()
    try:
        assert safe_pickle.load(b"\x80\x02]r\xff\xff\xff\x7f.", "x") == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


# ---- damage

CONTENT = {"a": [1, "text", b"\xff"], "b": np.arange(4.0), "c": np.float32(1)}
HONEST = [pickle.dumps(CONTENT, protocol) for protocol in PROTOCOLS]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_reported(protocol):
    for length in range(len(HONEST[protocol])):
        refusal(HONEST[protocol][:length])


@settings(deadline=None, derandomize=True, database=None, max_examples=500)
@given(st.sampled_from(HONEST), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_damage_either_loads_or_is_reported(payload, changes):
    damaged = bytearray(payload)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        safe_pickle.load(bytes(damaged), "x")
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"PK\x03\x04",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        bytes(100),
    ],
)
def test_other_files_are_reported(content):
    assert "truncated, damaged or not a pickle" in refusal(content)


def test_nothing_here_imports_paddle():
    modules = "arcface.io.safe_pickle", "arcface.data.bin_file", "arcface.verification.metrics"
    code = f"import sys, {', '.join(modules)}; sys.exit('paddle' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(safe_pickle.__file__).parents[2])


# ---- nothing else unpickles

UNPICKLERS = re.compile(
    r"(pickle|_pickle|cloudpickle|dill)\.(loads?|Unpickler|\*)|joblib\.load|shelve\.\w+|pandas\.read_pickle"
    r"|paddle\.((framework|framework\.io|hub|jit|static)\.)?load|torch\.(jit\.|hub\.)?load|numpy\.load|numpy\.lib\.(npyio\.|format\.)?(load|read_array|NpzFile)"
    r"|yaml\.(load|load_all|unsafe_load|unsafe_load_all|full_load|full_load_all|\*)"
)
SAFE_CALLS = {"numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}  # with these written out


def uses_of_unpicklers(source: str) -> list[str]:
    """Return the full names of the unpicklers that a Python source imports or mentions, but for calls that are safe."""
    tree = ast.parse(source)
    full_names, mentioned, safe = {}, [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.split(".")[0]
                full_names[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full_names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                mentioned.append(f"{node.module}.{alias.name}")

    def full_name(node) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return full_names.get(node.id, "") if isinstance(node, ast.Name) else ""

    for node in ast.walk(tree):  # a call comes before what it calls
        if isinstance(node, ast.Call):
            given = [(keyword.arg, getattr(keyword.value, "value", None)) for keyword in node.keywords]
            if SAFE_CALLS.get(full_name(node.func)) in given:
                safe.add(node.func)
        elif isinstance(node, (ast.Attribute, ast.Name)) and node not in safe:
            mentioned.append(full_name(node))
    return [name for name in mentioned if UNPICKLERS.fullmatch(name)]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle\npickle.loads(content)",
        "import pickle as p\nclass Reader(p.Unpickler): pass",
        "def read(file):\n    from pickle import load as read_it\n    return read_it(file)",
        "from pickle import *",
        "import pickle\nread = pickle.load",
        "import paddle\npaddle.load('x', return_numpy=True)",
        "import paddle\npaddle.jit.load('x')",
        "from paddle import load",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import numpy as np\nnp.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=allowed)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import joblib, shelve\nshelve.open('x')",
    ],
)
def test_unpicklers_are_noticed(source):
    assert uses_of_unpicklers(source)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.dump(data, file)",
        "import numpy as np\nnp.load(file, allow_pickle=False)",
        "import torch\ntorch.load(file, map_location='cpu', weights_only=True)",
        "import json, yaml\njson.load(file), yaml.safe_load(file)",
        "from arcface import safe_pickle\nsafe_pickle.load(file, 'x')",
    ],
)
def test_what_does_not_unpickle_is_left_alone(source):
    assert not uses_of_unpicklers(source)


def test_no_other_code_unpickles(repository):
    folders = [repository / name for name in ("arcface", "datasets", "benchmarks")]
    files = [*repository.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    assert {"train.py", "safe_pickle.py", "pack_bin.py", "kill_soak.py"} <= {file.name for file in files}
    found = {str(file): uses for file in files if (uses := uses_of_unpicklers(file.read_text(encoding="utf-8")))}
    assert not found, "open it with arcface.io.safe_pickle.load"
