"""Checkpoints: written so that a crash at any instant leaves a complete one, read by any number of ranks.

    output/
        step_00000190/                       a complete checkpoint:
            MobileFaceNet_128.pdparams           backbone state dict
            MobileFaceNet_128_momentum.pdparams  the optimizer's momentum, by the names of the parameters
            MobileFaceNet_128_ema.pdparams       with --ema, the averaged backbone, a state dict as the first
            rank:0_softmax_weight.pkl            class centres of rank 0, float32 [classes, embedding_size]
            rank:0_softmax_weight_mom.pkl        their momentum
            checkpoint.json                      progress, class ranges, sha256 of each file, options of the run
        latest -> step_00000190
        best -> step_00000150
        MobileFaceNet_128.pdparams -> latest/MobileFaceNet_128.pdparams, and so on for the files' well-known names

A checkpoint is written into a hidden folder, gets its name when every rank's files are on disk, and becomes current
when the link `latest` is replaced, which is one atomic operation for all files. Only then are older ones removed, but
for the best and those that are to be kept.

Where a file system allows no colon in a name, it is rank_0_softmax_weight.pkl; where it has no symbolic links, `latest`
and `best` are files that contain the name, and the well-known names are copies.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from arcface.distributed.process_group import all_gather, rank
from arcface.errors import UserError
from arcface.head.shards import Shard
from arcface.io import safe_pickle
from arcface.io.files import read_file, sync_directory
from arcface.training.checkpoint_files import (
    INCOMPLETE,
    colon_in,
    free_name,
    head_files,
    make_current,
    remove,
    remove_older,
    write,
    write_pickle,
)
from arcface.weights.run_directory import LATEST, MANIFEST
from arcface.weights.state_dict import as_state_dict, state_dict_bytes

FORMAT = 1


@dataclass
class Arrays:
    """The arrays of a training run, as a checkpoint contains them; of the head, only this rank's classes.

    averages: what is kept from step to step for each parameter of the backbone, by the names of the average and the parameter;
    the momentum is one, and `ema` the averaged backbone. The average `momentum` lies in <network>_momentum.pdparams.
    """

    backbone: dict[str, np.ndarray]
    averages: dict[str, dict[str, np.ndarray]]
    centres: np.ndarray
    centres_velocity: np.ndarray


def save(
    output: Path, network: str, state: Arrays, shard: Shard, step: int, manifest: dict, best: bool = False, keep: bool = False
) -> None:
    """Write a checkpoint of all ranks and make it the current one; called by every rank.

    `manifest` (progress, fingerprint and options of the run) is written into checkpoint.json. `best` makes it the best one
    too, `keep` has later saves leave it in place. Raises UserError if the files cannot be written; the current
    checkpoint is then intact.
    """
    name = free_name(output, step)
    folder = output / f".{name}.incomplete"
    with _Caught() as making:
        if rank() == 0:
            remove(path for path in output.iterdir() if INCOMPLETE.fullmatch(path.name))
            folder.mkdir(parents=True)
    making.raise_on_every_rank(output, step)
    digests = []
    with _Caught() as writing:
        colon = colon_in(folder)
        for file, array in zip(head_files(rank(), colon), (state.centres, state.centres_velocity), strict=True):
            digests.append(write_pickle(folder / file, array))
    writing.raise_on_every_rank(output, step)
    # int64: a dtype that every backend gathers
    of_all_ranks = all_gather(paddle.to_tensor(np.frombuffer(b"".join(digests), np.int64))).numpy()
    ranges = all_gather(paddle.to_tensor([list(shard)], "int64")).numpy().tolist()
    with _Caught() as finishing:
        if rank() == 0:
            state_dicts = {f"{network}.pdparams": state.backbone}
            state_dicts |= {f"{network}_{average}.pdparams": arrays for average, arrays in state.averages.items()}
            files = {file: write(folder / file, state_dict_bytes(arrays)) for file, arrays in state_dicts.items()}
            heads = [file for owner in range(len(ranges)) for file in head_files(owner, colon)]
            files |= zip(heads, (row.tobytes() for row in of_all_ranks.reshape(len(heads), -1)), strict=True)
            manifest = {
                "format": FORMAT,
                **manifest,
                "keep": keep,
                "classes_of_rank": ranges,
                "sha256": {file: digest.hex() for file, digest in files.items()},
            }
            write(folder / MANIFEST, json.dumps(manifest, indent=2).encode())
            sync_directory(folder)
            os.rename(folder, output / name)
            make_current(output, name, [*files, MANIFEST], best)
    finishing.raise_on_every_rank(output, step)
    if rank() == 0:
        with suppress(OSError):  # tried again at the next save
            remove_older(output, name, manifest["progress"].get("run"))


class _Caught:
    """Catches an OSError of this rank, so that all ranks can end together instead of waiting for this one."""

    def __init__(self):
        self.error = None

    def __enter__(self) -> "_Caught":
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        self.error = error if isinstance(error, OSError) else None
        return self.error is not None

    def raise_on_every_rank(self, output: Path, step: int) -> None:
        """Raise a UserError on all ranks if one of them caught an error; called by every rank."""
        failed = all_gather(paddle.to_tensor([int(self.error is not None)], "int64")).numpy()
        if failed.any():
            reason = f"{self.error.strerror or self.error}" if self.error else f"see the log of rank {failed.argmax()}"
            raise UserError(
                f"{output}: the checkpoint of step {step} cannot be written ({reason});"
                " the last checkpoint is intact; free some space or choose another --output, then --resume 1"
            ) from self.error


class Checkpoint:
    """A checkpoint on disk. Every file is checked against its sha256 when it is read."""

    def __init__(self, directory: Path):
        """Open the current checkpoint of an output directory, or the checkpoint that `directory` itself is.

        Raises UserError if there is none, if its manifest is damaged, or if files of it are missing (it lists them).
        """
        current = directory / LATEST
        if current.is_file():  # where there are no links
            current = directory / current.read_text().strip()
        self.directory = current if current.is_dir() else directory
        file = self.directory / MANIFEST
        try:
            self.manifest = json.loads(read_file(file))
        except OSError as error:
            raise UserError(f"{directory}: no checkpoint to resume from ({MANIFEST}: {error}); start with --resume 0") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: damaged ({error}); restore it, or resume from a copy of the directory") from error
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            found = self.manifest.get("format") if isinstance(self.manifest, dict) else "of another kind"
            raise UserError(f"{file}: format {found} is not {FORMAT}; update arcface")
        if not _is_sound(self.manifest):
            raise UserError(
                f"{file}: damaged (progress, classes or files are not as they are written); restore it, or resume"
                " from a copy of the directory"
            )
        if missing := [file for file in self.manifest["sha256"] if not self._path(file).exists()]:
            raise UserError(f"{self.directory}: incomplete checkpoint, missing {', '.join(missing)}; restore the files")

    def check_fingerprint(self, fingerprint: dict) -> None:
        """Raise UserError if the run that wrote this differs from this fingerprint, naming what differs."""
        self._check_list(fingerprint)
        for name, value in fingerprint.items():
            if self.manifest["identity"].get(name, value) != value:  # runs of earlier versions lack some names
                raise UserError(
                    f"--resume 1: {self.directory} was trained with {name} {self.manifest['identity'][name]}, not {value};"
                    f" resume with the same {name}, or train into another --output"
                )

    def _check_list(self, fingerprint: dict) -> None:
        """Raise UserError if the training images are not those of the run that wrote this, with their numbers then and now."""
        trained, now = self.manifest["identity"], fingerprint.get("labels")
        if trained.get("labels", now) == now:
            return

        def numbers(of: dict) -> str:
            return f"{of['images']} images of {of['identities']} identities"

        if not {"images", "identities"} <= trained.keys():  # an earlier version wrote it
            change = f"other images: the sha256 of its labels is {str(trained['labels'])[:12]}..., now it is {str(now)[:12]}..."
        elif numbers(trained) == numbers(fingerprint):
            change = f"{numbers(trained)}, as many as now, but in another order or with other labels"
        else:
            change = f"{numbers(trained)}, now there are {numbers(fingerprint)}"
        raise UserError(
            f"--resume 1: {self.directory} was trained on {change}; resume with the images that it was trained on,"
            " or train into another --output"
        )

    def load(self, network: str, shard: Shard) -> Arrays:
        """Return the state, the head's classes being those of `shard` whatever the shards were when it was written."""
        prefix, suffix = f"{network}_", ".pdparams"
        averages = [file.removeprefix(prefix).removesuffix(suffix) for file in self.manifest["sha256"] if file.startswith(prefix)]
        ranges = self.manifest["classes_of_rank"]
        colon = ":" if head_files(0)[0] in self.manifest["sha256"] else "_"
        of_ranks = [head_files(owner, colon) for owner in range(len(ranges))]
        centres, centres_velocity = (
            collect_rows(self.directory, files, ranges, shard, self._read_rows) for files in zip(*of_ranks, strict=True)
        )
        return Arrays(
            self._read_state_dict(f"{network}{suffix}"),
            {average: self._read_state_dict(f"{prefix}{average}{suffix}") for average in averages},
            centres,
            centres_velocity,
        )

    def _read_state_dict(self, file: str) -> dict[str, np.ndarray]:
        return as_state_dict(safe_pickle.load(self._read(file), file), file)

    def _read_rows(self, file: str) -> np.ndarray:
        rows = safe_pickle.load(self._read(file), file)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise UserError(f"{self.directory / file}: not finite float32 [classes, embedding_size]; restore it")
        return rows

    def _read(self, file: str) -> bytes:
        try:
            content = read_file(self._path(file))
        except OSError as error:
            raise UserError(f"{self._path(file)}: cannot be read ({error.strerror}); restore the file") from error
        if hashlib.sha256(content).hexdigest() != self.manifest["sha256"][file]:
            raise UserError(f"{self._path(file)}: damaged (its sha256 is not the one in {MANIFEST}); restore the file")
        return content

    def _path(self, file: str) -> Path:
        path = self.directory / file
        # Whoever copies a checkpoint to a file system without colons has to rename these files.
        return path if path.exists() else self.directory / file.replace(":", "_")


def _is_sound(manifest: dict) -> bool:
    """Whether a manifest's parts are of the kinds that `save` writes."""
    ranges, progress, digests = (manifest.get(name) for name in ("classes_of_rank", "progress", "sha256"))
    if not (isinstance(ranges, list) and ranges and isinstance(progress, dict) and isinstance(digests, dict)):
        return False
    if not all(isinstance(item, list) and len(item) == 2 and all(type(number) is int for number in item) for item in ranges):
        return False
    starts, stops = zip(*ranges, strict=True)
    return (
        isinstance(manifest.get("identity", {}), dict)
        and type(progress.get("step")) is int
        and progress["step"] >= 0
        and starts == (0, *stops[:-1])
        and all(start < stop for start, stop in ranges)
        and all(isinstance(digest, str) for digest in digests.values())
    )


def collect_rows(
    directory: Path, files: Iterable[str], ranges: list[tuple[int, int]], shard: Shard, read: Callable[[str], np.ndarray]
) -> np.ndarray:
    """Return a shard's rows from the files that contain them, one for each rank that wrote; ranges[i] are those of files[i].

    Raises UserError if a file does not contain as many rows as its range.
    """
    parts = []
    for file, (start, stop) in zip(files, ranges, strict=True):
        low, high = max(start, shard.start), min(stop, shard.stop)
        if low < high:
            rows = read(file)
            if len(rows) != stop - start:
                raise UserError(f"{directory / file}: does not contain the classes {start} to {stop - 1}; restore it")
            parts.append(rows[low - start : high - start])
    return np.concatenate(parts)
