"""What PyTorch itself saves and exports becomes our networks with the embeddings that it computed, in an environment of its own.

TORCH_PYTHON names the Python of another environment with PyTorch, onnx and onnxscript.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.io.images import normalise
from arcface.weights.convert import main
from arcface.weights.run_directory import trained_backbone

FILES = {"_new.pt", "_old.pt", "_checkpoint.pt", "_torchscript.onnx", "_dynamo.onnx"}
REPOSITORY = Path(__file__).resolve().parents[2]
NETWORKS = {"iresnet18": FILES, "mbf": FILES, "vit_t": {"_checkpoint.pt"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that torch_exports.py writes."""
    python = os.environ.get("TORCH_PYTHON", REPOSITORY / ".venv-torch" / "bin" / "python")
    needed = [python, "-c", "import torch, onnx, onnxscript"]
    if not os.path.exists(python) or subprocess.run(needed, capture_output=True).returncode:
        pytest.skip("no PyTorch in .venv-torch; make test-all installs it where it has a wheel")
    folder = tmp_path_factory.mktemp("exports")
    helper = REPOSITORY / "tests" / "helpers" / "torch_exports.py"
    subprocess.run([python, helper, folder, *NETWORKS], check=True, timeout=500, capture_output=True)
    return folder


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("network, ending", [(network, ending) for network in NETWORKS for ending in sorted(NETWORKS[network])])
def test_embeddings_are_those_of_pytorch(folder, tmp_path, capsys, network, ending):
    main([str(folder / f"{network}{ending}"), f"{tmp_path}/"])
    assert f"--network {network} --embedding_size 512 " in capsys.readouterr().out  # found from the file
    backbone = trained_backbone(tmp_path, network, 512)
    backbone.eval()
    images = np.random.default_rng(7).integers(0, 256, (2, 3, 112, 112), dtype=np.uint8)
    with paddle.no_grad():
        embeddings = backbone(normalise(paddle.to_tensor(images))).numpy()
    expected = np.load(folder / f"{network}.npy")
    difference = np.abs(embeddings - expected).max(1) / np.linalg.norm(expected, axis=1)
    print(f"{network}{ending}: within {difference.max():.1e} of the norm")
    assert (difference <= 1e-4).all()
