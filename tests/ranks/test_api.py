"""A program of one's own, by the public names, trains on several ranks as on one."""

from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).parents[1] / "helpers" / "api_worker.py"


def trained(run_ranks, ranks: int, folder: Path) -> list:
    folder.mkdir()
    run_ranks(ranks, WORKER, folder)
    return [np.load(folder / f"{rank}.npz") for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_batch_and_classes_and_train_as_one(run_ranks, tmp_path, ranks):
    (alone,) = trained(run_ranks, 1, tmp_path / "alone")
    together = trained(run_ranks, ranks, tmp_path / "together")
    assert len(alone["losses"]) == 5 and len(set(alone["losses"])) == 5
    for one in together:
        assert np.allclose(one["losses"], alone["losses"], rtol=1e-4)
        assert np.allclose(one["weight"], alone["weight"], atol=1e-5)
    assert np.allclose(np.concatenate([one["centres"] for one in together]), alone["centres"], atol=1e-5)
