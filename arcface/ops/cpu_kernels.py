"""The fast way through training on a CPU, for chains of convolution, batch norm and PReLU and for the head:
cpu_kernels_*.cc, built and called.

The library is built once for each kind of CPU, at first use, and kept in $XDG_CACHE_HOME or ~/.cache. It is plain C++ that
gets pointers: it needs a compiler, but neither Paddle's nor Python's headers, and serves every version of both.
"""

import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paddle
from paddle.autograd import PyLayer

from arcface.io.files import atomic_write
from arcface.system.home import cache_directory
from arcface.system.startup import threads

logger = logging.getLogger("arcface")

HEADER = Path(__file__).with_suffix(".h")
SOURCES = sorted(Path(__file__).parent.glob("cpu_kernels_*.cc"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-pthread", "-shared", "-fPIC"]


@dataclass(frozen=True)
class Convolution:
    """The shape of a convolution without bias; depthwise ones have a kernel for each channel."""

    channels_out: int
    kernel: int
    stride: int
    padding: int
    depthwise: bool

    def size_out(self, size: int) -> int:
        """Return the height of the output for that of the input; the same for the width."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Unit:
    """A convolution, the batch norm after it (float32 [C] each; the running statistics are updated) and PReLU's slopes or None."""

    convolution: Convolution
    weight: paddle.Tensor
    scale: paddle.Tensor
    shift: paddle.Tensor
    running_mean: paddle.Tensor
    running_variance: paddle.Tensor
    slope: paddle.Tensor | None = None

    @property
    def trained(self) -> list[paddle.Tensor]:
        """What has gradients, in a fixed order."""
        return [self.weight, self.scale, self.shift, *([] if self.slope is None else [self.slope])]


def can_run(convolutions: Sequence[Convolution], x: paddle.Tensor) -> bool:
    """Say whether `run_chain` can do this: float32 on a CPU, and convolutions of these kinds:

    1x1, depthwise 3x3 padded by 1, depthwise with a kernel as large as its input, and any square one if it comes first and
    x needs no gradient.
    """
    if x.dtype != paddle.float32 or not x.place.is_cpu_place():
        return False
    height, width = x.shape[2:]
    for position, convolution in enumerate(convolutions):
        geometry = (convolution.kernel, convolution.stride, convolution.padding)
        if convolution.depthwise:
            fits = geometry in ((3, 1, 1), (3, 2, 1)) or geometry == (height, 1, 0) and height == width > 1
        else:
            fits = geometry == (1, 1, 0) or position == 0 and x.stop_gradient
        if not fits:
            return False
        height, width = convolution.size_out(height), convolution.size_out(width)
    return min(height, width) > 0


def run_chain(
    library: ctypes.CDLL, x: paddle.Tensor, units: Sequence[Unit], residual: bool, epsilon: float, momentum: float
) -> paddle.Tensor:
    """Return the output [N, C, H', W'] of the units one after the other, plus x if `residual`; see `can_run`.

    Batch norm takes the statistics of this batch, and its running ones become momentum * running + (1 - momentum) * batch.
    """
    trained = [tensor for unit in units for tensor in unit.trained]
    return _Chain.apply(x.contiguous(), library, units, residual, epsilon, momentum, *trained)


class _Chain(PyLayer):
    @staticmethod
    def forward(ctx, x, library, units, residual, epsilon, momentum, *trained):
        images, _, height, width = x.shape
        values = 0
        for unit in units:
            height, width = unit.convolution.size_out(height), unit.convolution.size_out(width)
            values += images * unit.convolution.channels_out * height * width
        y = paddle.empty([values])
        norms = paddle.empty([2 * sum(unit.convolution.channels_out for unit in units)])
        z = paddle.empty([images, units[-1].convolution.channels_out, height, width])
        _check_memory(
            library.chain_forward(
                *_described(x, units),
                residual,
                ctypes.c_float(epsilon),
                ctypes.c_float(momentum),
                threads(),
                _pointer(y),
                _pointer(norms),
                _pointer(z),
            )
        )
        ctx.save_for_backward(x, y, norms)
        ctx.library, ctx.units, ctx.residual = library, units, residual
        return z

    @staticmethod
    def backward(ctx, upstream):
        x, y, norms = ctx.saved_tensor()
        upstream = upstream.contiguous()
        by_x = None if x.stop_gradient else paddle.empty(x.shape)
        gradients = [[paddle.empty(tensor.shape) for tensor in unit.trained] for unit in ctx.units]
        pointers = (ctypes.c_void_p * (4 * len(gradients)))(*(_pointer(tensor) for own in gradients for tensor in [*own, None][:4]))
        _check_memory(
            ctx.library.chain_backward(
                *_described(x, ctx.units),
                ctx.residual,
                threads(),
                _pointer(y),
                _pointer(norms),
                _pointer(upstream),
                pointers,
                _pointer(by_x),
            )
        )
        return by_x, *(tensor for own in gradients for tensor in own)


def _check_memory(there_was_enough: bool) -> None:
    if not there_was_enough:
        raise MemoryError("the CPU kernels could not have what they need")


def _described(x: paddle.Tensor, units: Sequence[Unit]) -> tuple:
    """The first arguments of both functions of the library."""
    shapes: list[int] = []
    parameters: list[ctypes.c_void_p | None] = []
    for unit in units:
        convolution = unit.convolution
        shapes += [convolution.channels_out, convolution.kernel, convolution.stride, convolution.padding, convolution.depthwise]
        parameters += map(_pointer, [unit.weight, unit.scale, unit.shift, unit.slope, unit.running_mean, unit.running_variance])
    return (
        (ctypes.c_int64 * 4)(*x.shape),
        _pointer(x),
        (ctypes.c_int64 * len(shapes))(*shapes),
        (ctypes.c_void_p * len(parameters))(*parameters),
        ctypes.c_int64(len(units)),
    )


def exponentials(
    library: ctypes.CDLL,
    weight: paddle.Tensor,
    logits: paddle.Tensor,
    hidden: paddle.Tensor,
    shift: paddle.Tensor,
    smallest_norm: float,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Turn a head's products `logits` [rows, N] in place into exp(logit / |w| - shift) / |w|, with w the rows of weight [rows, D].

    Returns 1 / |w| [rows, 1], where a norm below `smallest_norm` counts as that, and the sums of the exponentials [1, N]. They
    are 0 at `hidden`, int64 [N]: a row for each column, beyond the rows for none. shift: [1, N]. All float32, contiguous.
    """
    (rows, n), size = logits.shape, weight.shape[1]
    inverses, sums = paddle.empty([rows, 1]), paddle.empty([1, n])
    library.head_exponentials(
        *map(ctypes.c_int64, (rows, n, size)),
        _pointer(weight),
        _pointer(hidden),
        _pointer(shift),
        ctypes.c_float(smallest_norm),
        threads(),
        _pointer(logits),
        _pointer(inverses),
        _pointer(sums),
    )
    return inverses, sums


def update(
    library: ctypes.CDLL,
    weight: paddle.Tensor,
    velocity: paddle.Tensor,
    rows: paddle.Tensor,
    gradient: paddle.Tensor,
    inverses: paddle.Tensor,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take a step of momentum SGD in place on some rows of weight and velocity [any number, D]; rows: int64 [R], each once.

    gradient: [R, D], of which the part along each row of weight is left out; inverses: [R, 1], of these rows' lengths. All are
    contiguous and, but for `rows`, float32.
    """
    library.head_update(
        *map(ctypes.c_int64, gradient.shape),
        _pointer(rows),
        _pointer(gradient),
        _pointer(inverses),
        *map(ctypes.c_float, (lr, momentum, weight_decay)),
        threads(),
        _pointer(weight),
        _pointer(velocity),
    )


def _pointer(tensor: paddle.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Return the library, which is built if it is not in the cache; None, with a line in the log, where that is not possible."""
    try:
        with _built() as file:
            library = ctypes.CDLL(str(file))
            for function in (library.chain_forward, library.chain_backward):
                function.restype = ctypes.c_bool
            return library
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning("no CPU kernels, training goes on with Paddle's own, several times slower: %s", said.strip().splitlines()[0])
        return None


@contextmanager
def _built() -> Iterator[Path]:
    """Give the library's file, built unless it is there."""
    file = _file()
    cache = file.parent
    with tempfile.TemporaryDirectory() as scratch:
        if not file.exists():
            try:
                cache.mkdir(parents=True, exist_ok=True)
                lock = (cache / ".lock").open("a")
            except OSError:  # no home, or one that is read-only
                file = Path(scratch) / file.name
                lock = (Path(scratch) / ".lock").open("a")
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # of the ranks that start at once, one builds
                if not file.exists():
                    library = _compiled(Path(scratch), file)
                    with atomic_write(file) as target:
                        target.write(library)
        yield file


def can_be_had() -> bool:
    """Say whether the library is in the cache or could be built: `load_library` then finds out; nothing is built."""
    return _file().exists() or shutil.which(_compiler()) is not None


def _file() -> Path:
    return cache_directory() / "arcface-paddle" / f"cpu_kernels-{_key()}.so"


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _compiled(scratch: Path, file: Path) -> bytes:
    compiler = _compiler()
    if not shutil.which(compiler):
        raise FileNotFoundError(f"no C++ compiler ({compiler}); install g++, or name one in CXX")
    logger.info("building CPU kernels, a few seconds, once for this kind of CPU: %s", file)
    new = scratch / "new.so"
    subprocess.run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(new)], check=True, capture_output=True, text=True)
    return new.read_bytes()


def _key() -> str:
    """What the library depends on; homes are shared between machines."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        cpu = platform.processor()
    sources = [file.read_bytes() for file in (HEADER, *SOURCES)]
    return hashlib.sha256(repr((sources, FLAGS, platform.machine(), cpu)).encode()).hexdigest()[:16]
