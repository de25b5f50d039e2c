"""The library of CPU kernels: all .cc files of this folder, compiled at first use, kept in a cache and loaded.

One is built for each kind of CPU and kept in $XDG_CACHE_HOME or ~/.cache. It is plain C++ that gets pointers: it needs a
compiler, but neither Paddle's nor Python's headers, and serves every version of both.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle

from arcface.io.files import atomic_write
from arcface.system.home import cache_directory

logger = logging.getLogger("arcface")

HEADER = Path(__file__).with_name("kernels.h")
SOURCES = sorted(Path(__file__).parent.glob("*.cc"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-pthread", "-shared", "-fPIC"]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Return the library, built unless it is in the cache; None, with a line in the log, where it cannot be built."""
    try:
        with _built() as file:
            library = ctypes.CDLL(str(file))
            for function in (library.conv_bn_prelu_forward, library.conv_bn_prelu_backward):
                function.restype = ctypes.c_bool
            return library
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        logger.warning("CPU kernels not available, training uses Paddle's own, several times slower: %s", reason)
        return None


def can_be_loaded() -> bool:
    """Say whether the library is in the cache or a compiler exists; nothing is built, so `load_library` may still fail."""
    return _file().exists() or shutil.which(_compiler()) is not None


def pointer(tensor: paddle.Tensor | None) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor's values, null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@contextmanager
def _built() -> Iterator[Path]:
    """Yield the library's file, built unless it exists; one that cannot be cached lasts as long as the context."""
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


def _file() -> Path:
    return cache_directory() / "arcface-paddle" / f"cpu_kernels-{_key()}.so"


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _compiled(scratch: Path, file: Path) -> bytes:
    compiler = _compiler()
    if not shutil.which(compiler):
        raise FileNotFoundError(f"no C++ compiler ({compiler}); install g++, or name one in CXX")
    logger.info("building the CPU kernels, once for this kind of CPU, which takes a few seconds: %s", file)
    new = scratch / "new.so"
    subprocess.run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(new)], check=True, capture_output=True, text=True)
    return new.read_bytes()


def _key() -> str:
    """Return a name for what the library depends on, the CPU among it: machines may share a home."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        cpu = platform.processor()
    sources = [file.read_bytes() for file in (HEADER, *SOURCES)]
    return hashlib.sha256(repr((sources, FLAGS, platform.machine(), cpu)).encode()).hexdigest()[:16]
