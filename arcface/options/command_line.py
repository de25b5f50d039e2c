"""Command lines: options of a dataclass from flags and a YAML file, and their --help."""

import argparse
import ast
import difflib
import inspect
import sys
import textwrap
from collections import deque
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NoReturn, TypeVar, get_type_hints

import yaml

from arcface.errors import UserError
from arcface.io.files import user_path
from arcface.options.kinds import Choice, Items, Kind, Switch, kind_of
from arcface.options.yaml_file import read_yaml

Config = TypeVar("Config")

POSITIONAL = {"positional": True}  # the metadata of a field whose value is given without its name


@dataclass(frozen=True)
class Option:
    """An option: a field of a dataclass. `default` is MISSING if a value is required; `optional` allows None."""

    name: str
    kind: Kind
    optional: bool
    default: Any
    positional: bool

    @property
    def flag(self) -> str:
        """How messages name it."""
        return self.name.upper() if self.positional else f"--{self.name}"

    def read(self, value: Any, where: str = "") -> Any:
        """Return a value of this option; raises UserError, with `where` in front, for another one."""
        if value is None or (value == "null" and self.optional):
            if not self.optional:
                raise UserError(f"{where}{self.flag}: has no value; pass one or leave the option out")
            return None
        try:
            return self.kind.read(value)
        except ValueError as error:
            raise UserError(f"{where}{self.flag}: {error}") from error


def options_of(config_class: type) -> dict[str, Option]:
    """Return the options of a dataclass by name."""
    types = get_type_hints(config_class, include_extras=True)
    found = {}
    for field in fields(config_class):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found[field.name] = Option(field.name, *kind_of(types[field.name]), default, "positional" in field.metadata)
    return found


def parse(config_class: type[Config], arguments: list[str] | None = None, description: str = "") -> Config:
    """Read the options of a command, a dataclass, from `arguments` (default: the command line).

    A string under a field is its help; a field without a default is required. Types are those of arcface/options/kinds.py, Literal,
    str, bool (a flag without a value) and lists of them. --config FILE reads a YAML file, over which flags win wherever they stand.

    Raises UserError for an unknown option or key (naming the nearest one), a wrong type or a value out of range.
    """
    options = options_of(config_class)
    flags = _read_flags(sys.argv[1:] if arguments is None else arguments, options)
    if "help" in flags:
        print(_helper(config_class, options, description).format_help(), end="", flush=True)
        sys.exit(0)
    values = {name: option.read(option.default) for name, option in options.items() if option.default is not MISSING}
    if file := flags.pop("config", None):
        values |= _read_file(str(user_path(file)), options)
    print_config = flags.pop("print_config", None)
    values |= {name: options[name].read(value) for name, value in flags.items()}
    if missing := [option.flag for option in options.values() if option.name not in values]:
        raise UserError(f"{', '.join(missing)}: required; see --help")
    config = config_class(**values)
    if print_config:
        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")  # type: ignore[call-overload]  # a dataclass
        sys.exit(0)
    return config


def _read_file(file: str, options: dict[str, Option]) -> dict[str, Any]:
    """Return the values of a YAML file's options."""
    values = {}
    for name, value in read_yaml(file).items():
        if name not in options:
            _unknown(str(name), options, f"{file}: ")
        values[name] = options[name].read(value, f"{file}: ")
    return values


def _read_flags(arguments: list[str], options: dict[str, Option]) -> dict[str, Any]:
    """Return what a command line gives, by name: text, lists of text, and True for a flag without a value."""
    found: dict[str, Any] = {}
    remaining = deque(arguments)
    positions = deque(option.name for option in options.values() if option.positional)
    while remaining:
        flag, equals, text = remaining.popleft().partition("=")
        name = flag[2:]
        if flag in ("--help", "-h") and not equals:
            return {"help": True}
        if flag == "--config":
            if "config" in found:
                raise UserError("--config: given twice; pass one file, and flags for what differs")
            found["config"] = text or (remaining.popleft() if remaining and not equals else "")
            if not found["config"]:
                raise UserError("--config: names no file; pass a YAML file of options")
        elif flag == "--print_config" and not equals:
            found["print_config"] = True
        elif flag.startswith("--") and name in options and not options[name].positional:
            found[name] = _value(options[name], text if equals else None, remaining)
        elif flag.startswith("-") and flag.strip("-"):
            _unknown(flag, options)
        elif positions and flag != "--":
            found[positions.popleft()] = flag + equals + text
        else:
            raise UserError(f"unexpected argument '{flag}'; options are written --name value, see --help")
    return found


def _value(option: Option, text: str | None, remaining: deque[str]) -> Any:
    """Return what a flag gives: the text behind its =, or the arguments that follow, which are removed from `remaining`."""
    is_list = isinstance(option.kind, Items) and option.kind.is_text
    if text is not None:
        return [text] if is_list else text
    if isinstance(option.kind, Switch):
        return True
    values: list[str] = []
    while remaining and not _is_flag(remaining[0]) and (is_list or not values):
        values.append(remaining.popleft())
    if not values:
        raise UserError(f"{option.flag}: has no value; pass one or leave the option out")
    return values if is_list else values[0]


def _is_flag(argument: str) -> bool:
    """Whether an argument is a flag and no value; a negative number is a value."""
    return argument.startswith("-") and len(argument) > 1 and not argument[1].isdigit() and argument[1] != "."


def _unknown(name: str, options: dict[str, Option], where: str = "") -> NoReturn:
    """Raise the UserError that names the option most like the unknown one."""
    dashes = "--" if name.startswith("-") else ""
    names = [option.name for option in options.values() if not (dashes and option.positional)]
    nearest = difflib.get_close_matches(name.lstrip("-").lower(), names, n=1, cutoff=0)[0]
    raise UserError(f"{where}unknown option {name}; did you mean {dashes}{nearest}? --help lists all")


def _helper(config_class: type, options: dict[str, Option], description: str) -> argparse.ArgumentParser:
    """Return the parser that prints --help; its groups are the classes that the dataclass is made of."""
    parser = argparse.ArgumentParser(_program(), None, description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the options below; flags override it.")
    parser.add_argument("--print_config", action="store_true", help="Print the options in this form and exit.")
    for group in reversed(config_class.__mro__[:-1]):
        title = inspect.cleandoc(group.__doc__ or "").partition("\n")[0].rstrip(".")
        section = parser.add_argument_group(title)
        for name, sentence in sentences(group):
            option = options[name]
            default = "required" if option.default is MISSING else f"default: {_shown(option.default)}"
            says_it_all = isinstance(option.kind, Choice | Switch) or option.kind.words in ("text", "a path")
            expected = "" if says_it_all else f"{option.kind.words}; "
            section.add_argument(
                name if option.positional else f"--{name}",
                help=f"{sentence} ({expected}{default})".replace("%", "%%"),
                **_shape(option),
            )
    return parser


def _program() -> str | None:
    """Return how this process was started, if by its module's name; argparse knows it by its file's."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.name.removesuffix('.__main__')}" if module else None


def _shape(option: Option) -> dict[str, Any]:
    """Return how --help draws an option and its value, as arguments of argparse."""
    if isinstance(option.kind, Switch):
        return {"action": "store_true"}
    if isinstance(option.kind, Choice):
        return {"choices": option.kind.choices}
    if isinstance(option.kind, Items):
        return {"nargs": "+", "required": option.default is MISSING} if option.kind.is_text else {"metavar": "[ITEM,...]"}
    required = {} if option.positional else {"required": option.default is MISSING}
    return {"metavar": option.name.upper(), **required}


def _shown(default: Any) -> str:
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def sentences(group: type) -> Iterator[tuple[str, str]]:
    """Yield name and help of the options that a dataclass adds to its bases': the string under each field in the source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(definition, ast.ClassDef)
    for line, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(line.target, ast.Name)
            yield line.target.id, " ".join(str(below.value.value).split())
