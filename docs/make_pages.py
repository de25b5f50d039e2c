#!/usr/bin/env python3
"""Write docs/options.md from the options' dataclasses, and the diagram of docs/architecture.md from the floors: `make docs`.

tests/commands/test_docs.py says whether the pages are current.
"""

import inspect
import re
import runpy
from dataclasses import MISSING
from pathlib import Path

from arcface.config import CompareConfig, EmbedConfig, ExportOptions, TrainConfig, ValidConfig
from arcface.data.align_photos import AlignOptions
from arcface.data.checks import CheckOptions
from arcface.data.convert import ConvertOptions
from arcface.data.merge import MergeOptions
from arcface.data.synthetic import DemoOptions
from arcface.options.command_line import Option, options_of, sentences
from arcface.options.kinds import Choice, Kind, Switch
from arcface.verification.pack_bin import PackOptions

DOCS = Path(__file__).parent
TOOLS = {
    "convert": ConvertOptions,
    "check": CheckOptions,
    "merge": MergeOptions,
    "align": AlignOptions,
    "pack_bin": PackOptions,
    "demo": DemoOptions,
}
COMMANDS = {"export": ExportOptions}
# What a floor is for, by one of its rooms.
FLOORS_FOR = {
    "errors": "what needs nothing else",
    "io": "files, locks, images; missing packages",
    "options": "kinds of values; flags, YAML files and --help",
    "config": "options of a run in groups; errors as one line; the process and the machine",
    "distributed": "ranks; kernels; batches",
    "backbones": "images to embeddings; embeddings to the loss",
    "weights": "published weights, and those of a run",
    "inference": "engines, export",
    "verification": "pairs, templates, metrics, report",
    "training": "the loop, checkpoints, logs",
    "doctor": "examines all of it",
    "train": "commands",
}

HEAD = """# Options

<!-- Made by docs/make_pages.py from the dataclasses of the options: `make docs`. -->

Every option is a flag, `--lr 0.2` or `--lr=0.2`, and a key of the YAML file that `--config` names; flags override the file.
`--help` of each command explains the same. Ranges are checked: a wrong value ends in one line that says which values are allowed.

`train.py` has the groups down to "The run"; `valid.py` has Network, Verification, and the groups from there to "Only valid.py";
`python -m arcface.embed` and `python -m arcface.compare` have Network and the groups after that.
"""
TOOLS_HEAD = """# Options of the tools

Each tool is one command with three names, such as `python datasets/pack_bin.py`, `python -m arcface.pack_bin` and
`arcface-pack-bin`. What an option calls "above" is at the head of the tool's `--help`.
"""
COMMANDS_HEAD = """# Options of other commands

`python -m arcface.export`, for example, is also `arcface-export`.
"""


def options_page() -> str:
    """Return the text of docs/options.md."""
    train = [group for group in reversed(TrainConfig.__mro__) if own(group)]
    valid = [group for group in reversed(ValidConfig.__mro__) if own(group) and group not in train]
    users = [group for group in reversed(EmbedConfig.__mro__) if own(group) and group not in train]
    only = {ValidConfig: "Only valid.py", EmbedConfig: "Only embed", CompareConfig: "Only compare"}
    groups = [*train, *valid, *users, CompareConfig]
    parts = [HEAD, *(table(only.get(group) or heading(group), group, own(group)) for group in groups)]
    parts += [TOOLS_HEAD, *(table(name, group, list(options_of(group))) for name, group in TOOLS.items())]
    parts += [COMMANDS_HEAD, *(table(name, group, list(options_of(group))) for name, group in COMMANDS.items())]
    return "\n".join(parts)


def own(group: type) -> list[str]:
    """Return the names of the options that a dataclass adds to those of its bases."""
    return [name for name in getattr(group, "__dataclass_fields__", {}) if name in vars(group).get("__annotations__", {})]


def heading(group: type) -> str:
    """Return the first line of a group's docstring."""
    return inspect.cleandoc(group.__doc__ or "").splitlines()[0]


def table(title: str, group: type, names: list[str]) -> str:
    """Return a heading and a table with a row for each of some options of a group."""
    options, help_of = options_of(group), {name: text for base in group.__mro__[:-1] for name, text in sentences(base)}
    rows = [f"| `{name}` | {default(options[name])} | {values(options[name].kind)} | {escaped(help_of[name])} |" for name in names]
    return "\n".join([f"## {title}", "", "| option | default | values | |", "| --- | --- | --- | --- |", *rows, ""])


def default(option: Option) -> str:
    """Return a default as a flag would give it."""
    value = option.default
    if value is MISSING:
        return "*required*"
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "`" + (f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")) + "`"


def values(kind: Kind) -> str:
    """Return what an option's values must be, "" for any text or path."""
    if isinstance(kind, Choice):
        return ", ".join(f"`{value}`" for value in kind.choices)
    return "" if isinstance(kind, Switch) or kind.words in ("text", "a path") else kind.words


def escaped(text: str) -> str:
    """Return a text as a cell of a table shows it."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def diagram(floors: list[list[str]]) -> str:
    """Return the floors, ground first, as a mermaid diagram with the ground at its foot."""
    boxes = []
    for level, rooms in enumerate(floors):
        purpose = next(FLOORS_FOR[room] for room in rooms if room in FLOORS_FOR)
        boxes.append(f'    floor{level}["<b>{" · ".join(rooms)}</b><br/>{purpose}"]')
    arrows = [f"    floor{n} --> floor{n - 1}" for n in range(len(floors) - 1, 0, -1)]
    return "\n".join(["```mermaid", "flowchart TD", *reversed(boxes), *arrows, "```"])


def architecture_page(text: str) -> str:
    """Return the text of docs/architecture.md with the diagram of the floors that tests/unit/test_floors.py knows."""
    floors = runpy.run_path(str(DOCS.parent / "tests" / "unit" / "test_floors.py"))["FLOORS"]
    return re.sub("```mermaid.*?```", lambda _: diagram(floors), text, flags=re.DOTALL)


def main() -> None:
    (DOCS / "options.md").write_text(options_page(), encoding="utf-8")
    architecture = DOCS / "architecture.md"
    architecture.write_text(architecture_page(architecture.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
