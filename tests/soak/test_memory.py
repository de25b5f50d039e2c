"""The estimate of a training's memory, for more options than the quick test has."""

import pytest

from tests.commands.test_memory import TOLERANCE, ratio  # noqa: F401  (a fixture)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "num_classes, options",
    [
        (1000, "--batch_size=8"),
        (1000, "--batch_size=64"),
        (1000, "--batch_size=256"),
        (1000, "--batch_size=64 --cpu_kernels=off"),
        (1000, "--batch_size=32 --batch_norm=frozen"),
        (1000, "--batch_size=16 --precision=bf16 --precision_emulation=1"),
        (1000, "--batch_size=32 --batch_norm=sync"),
        (1000, "--batch_size=32 --embedding_size=512"),
        (1000, "--batch_size=128 --freeze=stem,stage1"),
        (1000, "--batch_size=32 --optimizer=adamw"),
        (1000, "--batch_size=64 --recompute=1"),
        (1000, "--batch_size=128 --accumulate=4"),
        (1000, "--batch_size=32 --cpu_kernels=off --recompute=1 --ema=0.999"),
        (500_000, "--batch_size=128"),
        (500_000, "--batch_size=32 --sample_rate=0.1"),
        (500_000, "--batch_size=32 --cpu_kernels=off"),
    ],
)
def test_the_estimate_is_right_within_its_tolerance(ratio, num_classes, options):  # noqa: F811
    assert abs(ratio(num_classes, options, timeout=500) - 1) < TOLERANCE
