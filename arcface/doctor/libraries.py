"""NVIDIA's libraries: the versions that this process finds, and links for Paddle 2.6 to those in NVIDIA's pip packages.

    python -m arcface.doctor.libraries

Paddle 2.6 opens libcudnn.so, libcublas.so, ...; NVIDIA's pip packages contain only libcudnn.so.8, libcublas.so.11, ... The command
makes the missing links beside them, and prints the line with which the loader finds them.
"""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from arcface.command import run
from arcface.errors import UserError

# File names, newest first, with and without versions. A library that Paddle has loaded is found by its versioned name.
CUDNN = ("libcudnn.so.9", "libcudnn.so.8", "libcudnn.so")
CUBLAS = ("libcublas.so.12", "libcublas.so.11", "libcublas.so")
NCCL = ("libnccl.so.2", "libnccl.so")
CUDA_DRIVER = ("libcuda.so.1",)


def library_versions() -> dict[str, str]:
    """Return the version of cuDNN, cuBLAS and NCCL by name, or "not found"."""
    found = {}
    if cudnn := _load(CUDNN):
        cudnn.cudnnGetVersion.restype = ctypes.c_size_t
        number = cudnn.cudnnGetVersion()
        found["cuDNN"] = _dotted(number, 10_000 if number >= 90_000 else 1000)
    if cublas := _load(CUBLAS):
        found["cuBLAS"] = ".".join(str(_int_from(cublas.cublasGetProperty, part)) for part in range(3))  # major, minor, patch
    if nccl := _load(NCCL):
        found["NCCL"] = _dotted(_int_from(nccl.ncclGetVersion) or 0, 10_000)
    return {name: found.get(name, "not found") for name in ("cuDNN", "cuBLAS", "NCCL")}


def pairs_without_peer_access(count: int) -> list[tuple[int, int]] | None:
    """Return the pairs of GPUs, numbered as Paddle does, of which the first cannot read the second's memory; None if unknown."""
    cuda = _load(CUDA_DRIVER)
    if not cuda or cuda.cuInit(0) != 0:
        return None
    pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
    able = {pair: _int_from(cuda.cuDeviceCanAccessPeer, *pair, first=True) for pair in pairs}
    return None if None in able.values() else [pair for pair in pairs if not able[pair]]


def make_links(packages: Path) -> list[Path]:
    """Make each missing link lib*.so -> lib*.so.N in NVIDIA's pip packages, and return their directories of libraries.

    packages: the directory nvidia/ of site-packages. Raises UserError if there are no libraries, or no link can be made.
    """
    directories = [directory for directory in sorted(packages.glob("*/lib")) if any(directory.glob("lib*.so.*"))]
    for directory in directories:
        for library in sorted(directory.glob("lib*.so.*")):
            link = directory / f"{library.name.partition('.so.')[0]}.so"
            try:
                if link.is_symlink() and not link.exists():
                    link.unlink()  # to a version that is no longer installed
                if not link.exists():
                    link.symlink_to(library.name)
            except OSError as error:
                raise UserError(f"{link}: cannot be made ({error.strerror}); run this as the owner of this Python") from error
    if not directories:
        raise UserError(f"{packages}: contains no libraries; install NVIDIA's packages, such as nvidia-cudnn-cu11")
    return directories


def _load(names: tuple[str, ...]) -> ctypes.CDLL | None:
    """Return the first of the libraries that the loader finds."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _int_from(function, *arguments: int, first: bool = False) -> int | None:
    """Return the int that a C function writes to a pointer, its last argument or its `first`; None if it returns an error."""
    value = ctypes.c_int()
    pointer = ctypes.byref(value)
    return None if function(*([pointer, *arguments] if first else [*arguments, pointer])) else value.value


def _dotted(number: int, major: int) -> str:
    """Return the version that NVIDIA writes as one number, such as 8600 with major 1000 for 8.6.0."""
    return f"{number // major}.{number % major // 100}.{number % 100}"


def main() -> None:
    spec = find_spec("nvidia")
    if not spec or not spec.submodule_search_locations:
        raise UserError(f"{sys.prefix}: contains no package of NVIDIA's; install them, as in docs/install_en.md")
    directories = make_links(Path(next(iter(spec.submodule_search_locations))))
    print(f"export LD_LIBRARY_PATH={os.pathsep.join(map(str, directories))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")


if __name__ == "__main__":
    run(main)
