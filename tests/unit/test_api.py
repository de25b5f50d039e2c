"""The public names of the package: what docs/api.md describes, imported when first used, and Paddle no sooner than needed."""

import ast
import importlib
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

import arcface

TABLE = {**arcface.WITHOUT_PADDLE, **arcface.WITH_PADDLE}


def python(repository, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_is_its_module_s_own_and_documented():
    assert set(arcface.__all__) == TABLE.keys() <= set(dir(arcface))
    for name, module in TABLE.items():
        value = getattr(arcface, name)
        assert value is getattr(importlib.import_module(module), name)
        assert value.__module__ == module and inspect.getdoc(value)


def test_type_checkers_see_the_same_names_from_the_same_modules(repository):
    tree = ast.parse((repository / "arcface" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("arcface.")]
    assert {alias.name: node.module for node in imports for alias in node.names} == TABLE


def test_the_page_describes_each_name_with_its_signature(repository):
    page = (repository / "docs" / "api.md").read_text()
    described = re.findall(r"^\| `(\w+)(\(.*?\))?` \|", page, re.MULTILINE)
    assert {name for name, _ in described} == set(arcface.__all__)
    for name, signature in described:
        if signature:
            ours = inspect.signature(getattr(arcface, name))
            plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in ours.parameters.values()]
            shown = str(ours.replace(parameters=plain, return_annotation=inspect.Signature.empty)).replace("'", '"')
            assert shown.replace(str(arcface.Margin()), "Margin()") == signature


def test_the_page_describes_the_head_s_two_methods_with_their_arguments(repository):
    page = (repository / "docs" / "api.md").read_text()
    for method in ("loss", "update"):
        names = [name for name in inspect.signature(getattr(arcface.PartialFC, method)).parameters if name != "self"]
        assert f"`PartialFC.{method}({', '.join(names)})`" in page


def test_names_without_paddle_import_none_and_others_set_it_up_first(repository):
    loaded = "print('paddle' in sys.modules, 'numpy' in sys.modules)"
    assert python(repository, f"import sys, arcface; {loaded}") == "False False\n"
    names = ", ".join(arcface.WITHOUT_PADDLE)
    assert python(repository, f"import sys; from arcface import {names}; {loaded}") == "False True\n"
    code = (
        "import os, sys; os.environ.pop('OMP_NUM_THREADS', None); import arcface; arcface.Margin; "
        "print('paddle' in sys.modules, 'OMP_NUM_THREADS' in os.environ)"
    )
    assert python(repository, code) == "True True\n"


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'arcface' has no attribute 'nothing'"):
        arcface.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from arcface import nothing  # noqa: F401


def test_cosine_is_that_of_vectors_and_of_rows():
    a, b = np.array([3.0, 4.0]), np.array([[4.0, 3.0], [-6.0, -8.0], [0.0, 0.0], [-4.0, 3.0]])
    assert arcface.cosine(a, b) == pytest.approx([24 / 25, -1, 0, 0])
    assert arcface.cosine(b, b) == pytest.approx([1, 1, 0, 1]) and arcface.cosine(a, a).shape == ()
    assert arcface.cosine([1, 0], [1, 1]) == pytest.approx(2**-0.5)
    for wrong in (([1, 2], [1, 2, 3]), (1, 2), (np.ones((3, 2)), np.ones((2, 2)))):
        with pytest.raises(ValueError):
            arcface.cosine(*wrong)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(arcface.UserError, match="absent.jpg: No such file or directory"):
        arcface.read_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(arcface.UserError, match="text.jpg: not an image"):
        arcface.read_image(tmp_path / "text.jpg")


@pytest.fixture
def checkpoint(tiny, tmp_path):
    import paddle

    from arcface.backbones import create_backbone

    paddle.seed(0)
    paddle.save(create_backbone("Tiny", 8).state_dict(), str(tmp_path / "Tiny.pdparams"))
    return tmp_path


def test_an_embedder_takes_crops_only(checkpoint):
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 112, 112), np.uint8)
    with arcface.open_embedder(checkpoint, "Tiny", 8, engine="paddle", device="cpu") as embed:
        embeddings = embed(images)
        assert embeddings.shape == (3, 8) and embeddings.dtype == np.float32
        for wrong in (images / np.float32(255), images[0], images[:, :, :100], images[:0], images.tolist()):
            with pytest.raises(ValueError, match=r"images are uint8 \[n, 3, 112, 112\], RGB, n > 0, not "):
                embed(wrong)


def test_what_an_embedder_cannot_open_is_one_line(checkpoint):
    for how, message in [
        ({"network": "Tiny", "engine": "abacus"}, "--engine abacus: no such engine; choose one of auto, openvino"),
        ({"network": "Tiny", "embedding_size": 9}, "Tiny.pdparams: linear.weight has shape"),
        ({"network": "MobileFaceNet_128"}, "looked for MobileFaceNet_128.pdparams"),
    ]:
        with pytest.raises(arcface.UserError, match=message):
            with arcface.open_embedder(checkpoint, **{"embedding_size": 8, "engine": "paddle", "device": "cpu", **how}):
                pass
