"""Any number of ranks starts from the same centres."""

import numpy as np
import pytest

from arcface.head.centres import initial_centres


def test_a_centre_s_first_value_depends_on_seed_and_class_only():
    whole = initial_centres(0, 5000, 16, seed=3)
    for start, stop in ((0, 1), (1000, 1100), (1023, 1025), (2500, 5000)):
        assert np.array_equal(initial_centres(start, stop, 16, seed=3), whole[start:stop])
    assert not np.array_equal(initial_centres(0, 10, 16, seed=4), whole[:10])
    assert len(np.unique(whole[:, 0])) == 5000
    assert whole.std() == pytest.approx(0.01, rel=0.02)
