import pytest

from arcface.ops.build import load_library


@pytest.fixture
def library():
    return load_library() or pytest.skip("no C++ compiler: the kernels cannot be built")
