"""A function over many images in threads, with the results in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

CHUNK = 64  # images that a thread takes at a time

Result = TypeVar("Result")


def ordered_map(function: Callable[[range], Result], indices: range, threads: int, verb: str) -> Iterator[Result]:
    """Yield function(chunk) for chunks of consecutive indices, in order and with a progress bar that begins with `verb`.

    Few results wait at any time, however many indices there are. What a call raises is raised in its turn.
    """
    waiting: deque[tuple[range, Future[Result]]] = deque()
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(None, verb, indices.stop, unit=" images", initial=indices.start, mininterval=1, disable=None) as bar,
    ):

        def next_result() -> Result:
            chunk, future = waiting.popleft()
            result = future.result()
            bar.update(len(chunk))
            return result

        try:
            for start in range(indices.start, indices.stop, CHUNK):
                chunk = range(start, min(start + CHUNK, indices.stop))
                waiting.append((chunk, pool.submit(function, chunk)))
                if len(waiting) > 4 * threads:
                    yield next_result()
            while waiting:
                yield next_result()
        finally:
            pool.shutdown(cancel_futures=True)
