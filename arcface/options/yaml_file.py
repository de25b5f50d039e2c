"""YAML files of options: a mapping from an option's name to its value."""

from typing import Any

import yaml

from arcface.errors import UserError
from arcface.io.files import read_file


def read_yaml(file: str) -> dict[Any, Any]:
    """Return the values in a file by name, as YAML reads them.

    Raises UserError, with the line, for a file that cannot be read, is no such mapping, or gives an option twice or by an alias.
    """
    try:
        text = read_file(file).decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"--config {file}: has an alias (*name); write the value itself")
        top = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)  # refuses tags such as !!python/name
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}; pass a YAML file of options") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: byte {error.start} is not UTF-8 text; pass a YAML file of options") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"--config {file}{line}: {problem}; write lines of 'option: value'") from error
    if not isinstance(top, yaml.MappingNode):
        raise UserError(f"--config {file}: contains no options; write lines of 'option: value'")
    seen = set()
    for name, _ in top.value:
        if name.value in seen:
            raise UserError(f"--config {file} line {name.start_mark.line + 1}: {name.value} is given twice; remove one line")
        seen.add(name.value)
    return values
