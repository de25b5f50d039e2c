"""The directories that a run writes into, --output and --logdir: free, writable, locked, and the same for all ranks."""

import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import paddle

from arcface.distributed.process_group import all_gather, broadcast, rank, world_size
from arcface.distributed.wire import in_words
from arcface.errors import UserError
from arcface.io.files import check_paths
from arcface.io.lock import check_free, locked
from arcface.io.log import start_log
from arcface.training.metrics_writer import METRICS_FILE

SECONDS_TO_APPEAR = 5  # that a file system between machines has to show a file to the others


@contextmanager
def opened_output(output: Path, logdir: Path) -> Iterator[None]:
    """Make and lock both directories, see that all ranks share `output`, and start its log; every rank calls it.

    Raises UserError if another run writes there, or if they cannot be written.
    """
    log = output / "training.log"
    with ExitStack() as held:
        if rank() == 0:
            for directory, option in ((output, "--output"), (logdir, "--logdir")):
                check_free(directory, option)  # before anything is made; `locked` decides
            with _told_of_unwritable(output, logdir):
                check_paths([output, logdir], [log, logdir / METRICS_FILE])
                for directory in (output, logdir):
                    directory.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(output, "--output"))
                if not os.path.samefile(output, logdir):
                    held.enter_context(locked(logdir, "--logdir"))
        check_shared(output)
        if rank() == 0:
            with _told_of_unwritable(output, logdir):
                start_log(log)
        yield


@contextmanager
def _told_of_unwritable(output: Path, logdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {output} and --logdir {logdir}: {error.filename} cannot be written"
            f" ({error.strerror}); choose another directory"
        ) from error


def check_shared(output: Path) -> None:
    """Raise UserError on every rank if a rank cannot see what rank 0 writes to `output`, a directory that rank 0 has made."""
    if world_size() == 1:
        return
    token = broadcast(paddle.to_tensor([secrets.randbits(62)], "int64")).item()
    file = output / f".seen_by_all_ranks_{token:x}"
    try:
        if rank() == 0:
            _write(file, output)
        broadcast(paddle.ones([1])).item()  # from here on, the file exists
        ends = time.monotonic() + SECONDS_TO_APPEAR
        while not (seen := os.path.exists(file)) and time.monotonic() < ends:
            time.sleep(0.1)
        all_ranks = all_gather(paddle.to_tensor([int(seen)], "int64")).tolist()
    finally:
        if rank() == 0:
            file.unlink(missing_ok=True)
    if blind := [other for other, saw in enumerate(all_ranks) if not saw]:
        raise UserError(
            f"--output {output}: {in_words(blind)} cannot see what rank 0 writes there (this is rank {rank()}, on"
            f" {platform.node()}): pass a directory that all machines share, by its absolute path"
        )


def _write(file: Path, output: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); choose another directory") from error
