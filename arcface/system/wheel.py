"""What the installed Paddle is built for: CUDA, cuDNN, and the compute capabilities that it has machine code for."""

import re

import paddle

OF_2_6 = ["61", "70", "75", "80", "86"]  # PyPI's paddlepaddle-gpu 2.6.2, read from its machine code; it contains no PTX


def built_for() -> str:
    """Return the CUDA and cuDNN that Paddle is built for, in words."""
    with_cuda = paddle.device.is_compiled_with_cuda()
    return f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}" if with_cuda else "no CUDA"


def has_code_for(capability: str) -> bool | None:
    """Whether this Paddle has code for a compute capability, such as "8.6"; None if nothing but a kernel tells.

    Machine code runs on GPUs of its major version and the same or a higher minor one.
    """
    of_2_6 = (paddle.__version__[:4], paddle.version.cuda()) == ("2.6.", "11.8")
    listed = OF_2_6 if of_2_6 else getattr(paddle.version, "cuda_archs", list)()  # Paddle 3 has the function
    known = [(int(code[1]), int(code[2])) for name in listed if (code := re.fullmatch(r"(\d+)(\d)[a-z]?", str(name)))]
    major, minor = map(int, capability.split("."))
    if any(own == major and least <= minor for own, least in known):
        return True
    may_have_ptx = not of_2_6 and (not known or (major, minor) > max(known))  # which the driver translates for newer GPUs
    return None if may_have_ptx else False


def wheel_for(capability: str) -> str:
    """Return which Paddle has code for a compute capability, in words."""
    if capability.partition(".")[0] in ("6", "7", "8"):
        return "paddlepaddle-gpu 2.6.2 from PyPI, or another that docs/install_en.md lists for it"
    return "Paddle 3 for CUDA 12 from Paddle's own package index, as in docs/install_en.md"
