"""Every option of the commands, once: name, type, default, help. Read from a YAML file, with flags on top."""

import difflib
import json
import math
import os
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections import deque
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings
from jsonargparse.typing import restricted_number_type, restricted_string_type

from arcface.errors import UserError
from arcface.io.files import read_file, user_path

# No sensible value reaches the upper bounds. A slip such as 1e999 or a digit too many is found before it fills the memory.
if TYPE_CHECKING:  # mypy accepts no variable as a type
    Count: TypeAlias = int
    CountOrZero: TypeAlias = int
    Size: TypeAlias = int
    Workers: TypeAlias = int
    Seed: TypeAlias = int
    Positive: TypeAlias = float
    PositiveOrZero: TypeAlias = float
    Share: TypeAlias = float
    Momentum: TypeAlias = float
    Angle: TypeAlias = float
    CosineDifference: TypeAlias = float
    OnNonfinite: TypeAlias = str
    PathName: TypeAlias = str
    ClosedUnitInterval: TypeAlias = float
else:
    from jsonargparse.typing import ClosedUnitInterval

    Count = restricted_number_type("Count", int, [(">", 0), ("<", 2**31)])
    CountOrZero = restricted_number_type("CountOrZero", int, [(">=", 0), ("<", 2**31)])
    Size = restricted_number_type("Size", int, [(">", 0), ("<=", 2**16)])
    Workers = restricted_number_type("Workers", int, [(">=", 0), ("<=", 2**10)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**63)])
    Positive = restricted_number_type("Positive", float, [(">", 0), ("<=", 1e9)])
    PositiveOrZero = restricted_number_type("PositiveOrZero", float, [(">=", 0), ("<=", 1e9)])
    Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
    Momentum = restricted_number_type("Momentum", float, [(">=", 0), ("<", 1)])
    Angle = restricted_number_type("Angle", float, [(">=", 0), ("<=", math.pi)])
    CosineDifference = restricted_number_type("CosineDifference", float, [(">=", 0), ("<=", 2)])
    OnNonfinite = restricted_string_type("OnNonfinite", r"^(stop|skip:[1-9]\d{0,8})$")
    PathName = restricted_string_type("PathName", r"(?s).*")  # of a file or directory; a ~ at its start is the home directory

set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass
class NetworkOptions:
    """Network"""

    network: str = "MobileFaceNet_128"
    """Name of the backbone in the registry (arcface/backbones)."""
    embedding_size: Size = 128
    """Length of the vector that a face becomes."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; auto takes a GPU if Paddle can use one."""
    rank_timeout: Count = 600
    """Seconds that ranks wait for one that stands still before they end with an error that names it."""


@dataclass
class VerificationOptions:
    """Verification on InsightFace .bin sets"""

    data_dir: PathName = "MS1M_v2"
    """The data set: a directory with label.txt, train.rec or a folder for each person, or a .rec file or list by itself."""
    val_dir: PathName | None = None
    """Directory of the verification .bin files; data_dir, or where that is a file its directory, when not given."""
    val_targets: str = "lfw,cfp_fp,agedb_30"
    """Names of the verification sets, separated by commas: lfw, or lfw.bin, reads lfw.bin; '' verifies nothing."""
    val_batch_size: Size = 16
    """Faces embedded at once in verification, each plain and flipped."""
    engine: Literal["auto", "openvino", "paddle-inference", "onnxruntime", "paddle"] = "auto"
    """What computes embeddings in verification; auto takes the fastest that can be built (arcface/inference/engines.py)."""

    @property
    def val_files(self) -> list[Path]:
        """The verification sets' files."""
        names = [name.strip().removesuffix(".bin") for name in self.val_targets.split(",") if name.strip()]
        directory = Path(self.val_dir or self.data_dir)
        if not self.val_dir and os.path.isfile(directory):
            directory = directory.parent
        files = [directory / user_path(f"{name}.bin") for name in names]
        called = [file.stem for file in files]
        if repeated := sorted({name for name in called if called.count(name) > 1}):
            raise UserError(f"--val_targets: several sets are called {repeated[0]}; rename one or leave it out")
        return files


@dataclass
class DataOptions:
    """Training data"""

    label_file: PathName = "label.txt"
    """List of the training images, relative to data_dir: lines of 'images/00000000.jpg<TAB>0', or a .lst, .csv or .parquet."""
    outside_paths: Literal[0, 1] = 0
    """1 lets the label file name images outside of data_dir, by an absolute path or by '..'."""
    num_classes: Count | None = None
    """Number of people; read from the labels when not given."""
    num_workers: Workers = 2
    """Processes per rank that read and decode images (on Linux); 0 decodes in the training process."""
    shuffle: Literal["global", "blocks"] = "global"
    """How an epoch is shuffled: all images, or so that images read together lie near each other, for slow disks."""
    sampling: Literal["natural", "balanced"] = "natural"
    """What an epoch holds: every image once, or as many images, of every person equally often."""
    augment_photometric: ClosedUnitInterval = 0.0
    """Probability that an image's brightness, contrast and saturation are changed."""
    augment_low_resolution: ClosedUnitInterval = 0.0
    """Probability that an image is shrunk and enlarged again."""
    augment_crop: ClosedUnitInterval = 0.0
    """Probability that a part of an image is kept and the rest made black."""
    augment_occlusion: ClosedUnitInterval = 0.0
    """Probability that a rectangle of an image is covered."""
    scan_images: CountOrZero = 10000
    """How many images, spread evenly over the list, to decode before training starts."""
    max_bad_images: CountOrZero = 10
    """Different images that may turn out unreadable during training before the run stops."""


@dataclass
class HeadOptions:
    """Head: cos(margin1 * angle + margin2) - margin3 on the true class, times scale"""

    margin1: Positive = 1.0
    """Multiplies the angle (SphereFace)."""
    margin2: Angle = 0.5
    """Is added to the angle, in radians (ArcFace)."""
    margin3: CosineDifference = 0.0
    """Is subtracted from the cosine (CosFace)."""
    scale: Positive = 64.0
    """Multiplies the cosines: the radius of the hypersphere."""
    sample_rate: Share = 1.0
    """Share of the classes used in a step (Partial FC): the batch's own and random others."""


@dataclass
class OptimizerOptions:
    """Optimisation: SGD with momentum"""

    batch_size: Size = 512
    """Images in a step over all ranks together."""
    lr: PositiveOrZero = 0.1
    """Learning rate for a batch of 512; the rate used is lr * batch_size / 512."""
    momentum: Momentum = 0.9
    """Momentum of the updates of backbone and class centres."""
    weight_decay: PositiveOrZero = 2e-4
    """L2 penalty on all weights of backbone and head."""
    clip_norm: PositiveOrZero = 0.0
    """Scale the backbone's gradients down to this global norm when they exceed it; 0 never clips."""
    num_epoch: Count = 32
    """Passes over the training images."""
    max_steps: Count | None = None
    """Stop after this many steps in all, with a checkpoint; the schedule stays that of num_epoch."""
    schedule: Literal["step", "poly"] = "step"
    """How the rate falls after the warm-up: by decay_rate at decay_epochs, or as a polynomial to 0."""
    warmup_epoch: PositiveOrZero = 1.0
    """Epochs in which the rate rises linearly."""
    decay_epochs: list[PositiveOrZero] = field(default_factory=lambda: [6, 12, 18, 24])
    """Schedule step: epochs at which the rate is multiplied by decay_rate."""
    decay_rate: Share = 0.1
    """Schedule step: the factor of each decay."""
    poly_power: Positive = 2.0
    """Schedule poly: the rate is proportional to (share of steps left) ** poly_power."""
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """Batch norm statistics of each rank's own images, of all ranks' images, or fixed (fine-tuning)."""
    cpu_kernels: Literal["auto", "off"] = "auto"
    """On a CPU, if there is a C++ compiler: train with kernels built at first use; the backbone with batch_norm local only."""


@dataclass
class RunOptions:
    """The run"""

    output: PathName = "emore_arcface"
    """Directory for checkpoints and training.log."""
    logdir: PathName = "log"
    """Directory for VisualDL's records and metrics.jsonl."""
    resume: Literal[0, 1] = 0
    """1 continues from the checkpoint in output."""
    init_from: PathName | None = None
    """Start from the backbone in this .pdparams or .safetensors file, with a new head (fine-tuning); --resume 1 passes over it."""
    save_interval: CountOrZero = 0
    """Also write a checkpoint every so many steps; 0 only at each epoch's end."""
    keep_every: CountOrZero = 0
    """Keep every so many-th checkpoint for good; 0 keeps only the last and the best."""
    best_by: str | None = None
    """Verification set by whose accuracy the best checkpoint is kept; the first of val_targets when not given."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint cannot be written: stop, or go on with the one before it; at the end, always stop."""
    on_nonfinite: OnNonfinite = "stop"
    """When a step's loss or gradient is not finite: stop before its update, or skip:N up to N such steps."""
    log_interval: Count = 100
    """Steps between log lines."""
    val_interval: CountOrZero = 2000
    """Steps between verifications; 0 verifies at the end only."""
    seed: Seed = 0
    """Key of every random draw; the same seed repeats the run."""


@dataclass
class TrainConfig(RunOptions, OptimizerOptions, HeadOptions, DataOptions, VerificationOptions, NetworkOptions):
    """Options of train.py."""


@dataclass
class TemplateOptions:
    """Verification of templates, as in IJB-B and IJB-C"""

    template_flip: Literal[0, 1] = 1
    """IJB-style sets: add the embedding of the mirror image."""
    template_norm_score: Literal[0, 1] = 1
    """IJB-style sets: the norm of an image's embedding is its weight in the template; 0 normalises it."""
    template_detector_score: Literal[0, 1] = 1
    """IJB-style sets: the face detector's score is the image's weight too."""


@dataclass
class ValidConfig(TemplateOptions, VerificationOptions, NetworkOptions):
    """Options of valid.py."""

    checkpoint: PathName = "emore_arcface"
    """Directory that train.py wrote (its --output), or any with <network>.pdparams or .safetensors."""
    report: PathName | None = None
    """Directory for a report: index.html with tables, curves and the worst mistakes, and the curves as PNG."""


Config = TypeVar("Config")


def parse(config_class: type[Config], arguments: list[str] | None = None, description: str = "") -> Config:
    """Read the options of a command from `arguments` (default: the command line).

    Raises UserError for an unknown option or key (naming the nearest one), a wrong type or a value out of range.
    """
    options = fields(config_class)  # type: ignore[arg-type]  # of a dataclass
    names = [option.name for option in options]
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, formatter_class=_HelpFormatter)
    parser.add_argument("--config", action="config", help="YAML file of the options below; flags override it.")
    for group in reversed(config_class.__mro__[:-1]):  # without object; the base classes are the groups of the help
        if own_fields := set(group.__dict__.get("__annotations__", {})):
            parser.add_class_arguments(group, skip=set(names) - own_fields)
    file_flag, flags = _split(_expanded(sys.argv[1:] if arguments is None else arguments, options))
    if file_flag:  # on its own first, so that complaints name it
        file = str(user_path(file_flag[-1].removeprefix("--config=")))
        file_flag = [f"--config={file}"]
        _check_yaml(file)
        _read(parser, file_flag, options, where=f"{file}: ")
    values = _read(parser, file_flag + flags, options)  # the file in front: flags win over it wherever they stand
    return config_class(**{name: _in_home(values[name]) for name in names})


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a command's description."""


def _expanded(arguments: list[str], options: tuple[Field, ...]) -> list[str]:
    """Return the arguments with a value for switches, and the values of a list in one: --a --b x y as --a=true --b=["x", "y"]."""
    types: dict[str, Any] = {f"--{option.name}": option.type for option in options}
    expanded = []
    remaining = deque(arguments)
    while remaining:
        argument = remaining.popleft()
        if types.get(argument) is bool:
            argument += "=true"
        elif types.get(argument) == list[PathName]:
            values = []
            while remaining and not remaining[0].startswith("--"):
                values.append(remaining.popleft())
            argument += f"={json.dumps(values)}"
        expanded.append(argument)
    return expanded


def _in_home(value: Any) -> Any:
    """Return an option's value; a path with the home directory in place of its ~."""
    if isinstance(value, list):
        return [_in_home(item) for item in value]
    return str(user_path(value)) if isinstance(value, PathName) and value.startswith("~") else value


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that give the file, [] if none do, and the others."""
    positions = [at for at, argument in enumerate(arguments) if argument == "--config" or argument.startswith("--config=")]
    if not positions:
        return [], list(arguments)
    if len(positions) > 1:
        raise UserError("--config: given twice; give one file, and flags for what differs")
    start, end = positions[0], positions[0] + (1 if "=" in arguments[positions[0]] else 2)
    if end > len(arguments) or arguments[end - 1] in ("", "--config="):
        raise UserError("--config: names no file; give a YAML file of options")
    return arguments[start:end], arguments[:start] + arguments[end:]


def _check_yaml(file: str) -> None:
    """Raise UserError, with the line, for what the parser passes over in a YAML file or explains badly."""
    try:
        text = read_file(file).decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"--config {file}: has an alias (*name); write the value itself")
        top = yaml.compose(text, yaml.SafeLoader)
        yaml.safe_load(text)  # refuses tags such as !!python/name
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}; give a YAML file of options") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: byte {error.start} is not UTF-8 text; give a YAML file of options") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"--config {file}{line}: {problem}; write lines of 'option: value'") from error
    if not isinstance(top, yaml.MappingNode):
        raise UserError(f"--config {file}: holds no options; write lines of 'option: value'")
    seen = set()
    for name, _ in top.value:
        if name.value in seen:
            raise UserError(f"--config {file} line {name.start_mark.line + 1}: {name.value} is given twice; remove one line")
        seen.add(name.value)


def _read(parser: ArgumentParser, arguments: list[str], options: tuple[Field, ...], where: str = "") -> Namespace:
    """Parse arguments and check what types do not say; `where` comes before complaints."""
    try:
        values = parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(where + _one_line(str(error), [option.name for option in options])) from error
    for option in options:
        name, value = option.name, values[option.name]
        is_blank = isinstance(value, str) and not value.strip() and name != "val_targets"
        if is_blank or (value is None and option.default is not None):
            raise UserError(f"{where}--{name}: has no value; give one or leave the option out")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{where}--{name}: holds a zero byte; correct the value")
    return values


# What the parser says, and a plainer form of it.
_PLAINER = {
    r'^Parser key "(\w+)": ': r"--\1: ",
    r"^argument (--\w+): ": r"\1: ",
    r"Does not validate against any of the Union subtypes .*? Errors: - (.*?) - Expected a .*? Given value: (.*)": r"\1 (\2)",
    r"Expected a (?:typing\.)?Literal\[(.*?)\]\. Got value: ?(.*)": r"must be one of \1, not \2",
    r"<class '(\w+)'>": r"\1",
    r"Not of type PathName: expected string.*": "must be text; put it in quotes",
}


def _one_line(message: str, names: list[str]) -> str:
    """Turn the parser's complaint into: what, where, what to do."""
    message = " ".join(message.split())
    if unknown := re.search(r"(unrecognized arguments: |Option ')(-*)([^\s'=+]*)", message, re.IGNORECASE):
        start, dashes, name = unknown.groups()
        if start != "Option '" and not (dashes and name):
            return f"unexpected argument '{dashes or name}'; options are written --name value, see --help"
        nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0)[0]
        return f"unknown option {dashes}{name}; did you mean {dashes and '--'}{nearest}? --help lists all"
    for pattern, plainer in _PLAINER.items():
        message = re.sub(pattern, plainer, message)
    return f"{message}; see --help"
