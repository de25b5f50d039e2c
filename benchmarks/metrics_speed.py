"""How long the figures of face verification take, and how much memory: on 6,000 pairs (LFW) and on 10 million.

    python benchmarks/metrics_speed.py [--pairs 6000 10000000]

Each number of pairs has a process of its own, whose peak memory includes the interpreter, NumPy and the pairs.
Up to 20,000 pairs, a loop over the thresholds runs as well, which has to give the same figures.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from arcface.verification import metrics, roc  # noqa: E402

REPETITIONS = 5  # of which the fastest counts
NAIVE_LIMIT = 20_000  # pairs, beyond which the loops, quadratic in the pairs, take minutes


def made_up_pairs(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distances, cosine similarities and flags of pairs, half of them of one person and in random order."""
    generator = np.random.default_rng(0)
    same = generator.random(count) < 0.5
    distances = generator.normal(1.8, 0.3, count)
    distances[same] -= 0.8
    return distances, 1 - distances / 2, same


def accuracy(distances: np.ndarray, same: np.ndarray) -> float:
    return metrics.kfold_accuracy(distances, same).mean


def rates(similarities: np.ndarray, same: np.ndarray) -> tuple:
    curve = roc.roc(similarities, same)
    points = [(point.tar, point.threshold) for point in roc.tar_at_far(curve)]
    return roc.auc(curve), roc.equal_error_rate(curve)[0], roc.best_threshold(curve), points


def naive_accuracy(distances: np.ndarray, same: np.ndarray) -> float:
    """As InsightFace's verification.py: for each fold and each threshold, a pass over the pairs."""

    def right(threshold: float, members: np.ndarray) -> float:
        return float(np.mean((distances[members] < threshold) == same[members]))

    every = np.arange(len(same))
    folds = np.array_split(every, 10)
    found = []
    for fold in folds:
        others = np.setdiff1d(every, fold)
        best = np.argmax([right(threshold, others) for threshold in metrics.THRESHOLDS])
        found.append(right(metrics.THRESHOLDS[best], fold))
    return float(np.mean(found))


def naive_rates(similarities: np.ndarray, same: np.ndarray) -> tuple:
    """For each similarity observed, a pass over the pairs."""
    thresholds = [np.inf, *sorted(set(similarities.tolist()), reverse=True)]
    tar = np.array([np.mean(similarities[same] >= threshold) for threshold in thresholds])
    far = np.array([np.mean(similarities[~same] >= threshold) for threshold in thresholds])
    area = float(np.sum(np.diff(far) * (tar[1:] + tar[:-1]) / 2))
    point = np.argmin(np.abs(far - (1 - tar)))
    equal = float(far[point] + 1 - tar[point]) / 2
    mistakes = [int(np.count_nonzero((similarities >= threshold) != same)) for threshold in thresholds]
    best = int(np.argmin(mistakes))
    points = []
    for target in roc.FAR_TARGETS:
        last = np.flatnonzero(far <= target)[-1]
        measured = target * np.count_nonzero(~same) >= 1
        points.append((float(tar[last]), float(thresholds[last])) if measured else (None, None))
    return area, equal, (float(thresholds[best]), mistakes[best]), points


def seconds_of(figures, *arguments) -> tuple[float, tuple]:
    began = time.perf_counter()
    result = figures(*arguments)
    return time.perf_counter() - began, result


def check_equal(found: tuple, naive: tuple, pairs: int) -> None:
    mean, (area, equal, *rest) = found
    naive_mean, (naive_area, naive_equal, *naive_rest) = naive
    # The loop takes the nearest point for the equal error rate, which is off by a pair's share at most.
    if rest != naive_rest or abs(equal - naive_equal) > 4 / pairs:
        raise SystemExit(f"the loop gives other figures: {found} and {naive}")
    if not np.allclose([mean, area], [naive_mean, naive_area], rtol=0, atol=1e-12):
        raise SystemExit(f"the loop gives other figures: {found} and {naive}")


def measure(pairs: int) -> None:
    """Print the line of one number of pairs."""
    distances, similarities, same = made_up_pairs(pairs)
    rates(similarities[:100], same[:100])  # imports scikit-learn, which is not what is measured
    repetitions = REPETITIONS if pairs < 1_000_000 else 1
    first = min((seconds_of(accuracy, distances, same) for _ in range(repetitions)), key=lambda run: run[0])
    second = min((seconds_of(rates, similarities, same) for _ in range(repetitions)), key=lambda run: run[0])
    seconds = first[0] + second[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # KiB on Linux
    line = f"{pairs:>12,} pairs {seconds:9.4f} s {peak:7.2f} GB peak"
    if pairs <= NAIVE_LIMIT:
        naive_first, naive_second = seconds_of(naive_accuracy, distances, same), seconds_of(naive_rates, similarities, same)
        check_equal((first[1], second[1]), (naive_first[1], naive_second[1]), pairs)
        naive = naive_first[0] + naive_second[0]
        line += f"   loop over the thresholds {naive:.2f} s, {naive / seconds:.0f}x as long, same figures"
    print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[6000, 10_000_000], help="(default: 6000 10000000)")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    # Flushed, so that it comes before the lines of the processes.
    figures = "k-fold accuracy, best threshold, ROC, AUC, EER and TAR at FAR"
    print(f"{os.cpu_count()} cores, NumPy {np.__version__}; {figures}", flush=True)
    for pairs in options.pairs:
        subprocess.run([sys.executable, __file__, "--measure", str(pairs)], check=True)


if __name__ == "__main__":
    main()
