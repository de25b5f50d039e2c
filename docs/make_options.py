#!/usr/bin/env python3
"""Write docs/options.md from the dataclasses of the options: `make docs`. tests/commands/test_docs.py compares the two."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from arcface.config import TrainConfig, ValidConfig

HEAD = """# Options

<!-- Made by docs/make_options.py from arcface/config.py: `make docs`. -->

Every option is a flag, `--lr 0.2` or `--lr=0.2`, and a key of the YAML file that `--config` names; flags override the file.
`python train.py --help` and `python valid.py --help` explain the same. Ranges are checked: a wrong value ends in one line that says
which values are allowed.
"""
VALID_ONLY = "`valid.py` also accepts the options of Network and Verification above."


def page() -> str:
    """Return the text of docs/options.md."""
    train = [group for group in reversed(TrainConfig.__mro__[:-1]) if own(group)]
    parts = [HEAD, *(table(group) for group in train)]
    parts.append(table(ValidConfig, "Only valid.py") + f"\n{VALID_ONLY}\n")
    return "\n".join(parts)


def own(group: type) -> list[Field]:
    """Return the fields that a dataclass adds to those of its bases."""
    return [field for field in fields(group) if field.name in group.__dict__.get("__annotations__", {})]


def table(group: type, title: str = "") -> str:
    """Return a heading and a table with a row for each option that a group adds."""
    help_of = dict(sentences(group))
    rows = [f"| `{field.name}` | {default(field)} | {choices(field.type)} | {help_of[field.name]} |" for field in own(group)]
    heading = title or inspect.cleandoc(group.__doc__ or "").splitlines()[0]
    return "\n".join([f"## {heading}", "", "| option | default | values | |", "| --- | --- | --- | --- |", *rows, ""])


def sentences(group: type) -> Iterator[tuple[str, str]]:
    """Yield name and help of each option: the string below its line in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(tree, ast.ClassDef)
    for line, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(line.target, ast.Name)
            yield line.target.id, " ".join(str(below.value.value).split()).replace("|", r"\|").replace("<", "&lt;")


def default(field: Field) -> str:
    """Return a default as a flag would give it."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "*required*"
    if value is None:
        return ""
    return "`" + (f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")) + "`"


def choices(kind: Any) -> str:
    """Return the values of an option that has a few, and "" for others."""
    return ", ".join(f"`{value}`" for value in get_args(kind)) if get_origin(kind) is Literal else ""


if __name__ == "__main__":
    (Path(__file__).parent / "options.md").write_text(page(), encoding="utf-8")
