"""Kinds of option values: what a value must be, in words, and how it is read from a flag's text or from YAML."""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin

import yaml

from arcface.io.files import user_path


class Kind(Protocol):
    """What an option's values must be."""

    @property
    def words(self) -> str:
        """What a value must be, as in "must be WORDS"."""

    def read(self, value: Any) -> Any:
        """Return the option's value: of a flag's text, or of what YAML makes of a file's.

        Raises ValueError with the second half of a sentence, "must be ...", whose first half is the option's name.
        """


@dataclass(frozen=True)
class Number:
    """A range of numbers, ends included.

    Without `most` there is no natural end: CEILING refuses only slips, such as a digit too many, before they fill the memory.
    """

    words: str
    least: float
    most: float | None = None
    whole: bool = False

    def read(self, value: Any) -> int | float:
        try:
            number = self._number(value)
        except (TypeError, ValueError, OverflowError):
            raise _must_be(self.words, value) from None
        most = CEILING[self.whole] if self.most is None else self.most
        if self.least <= number <= most:
            return number
        too_large = self.most is None and most < number < math.inf
        raise _must_be(f"{self.words}, at most {most:,}" if too_large else self.words, value)

    def _number(self, value: Any) -> int | float:
        if isinstance(value, bool):
            raise TypeError
        if not self.whole:
            return float(value)
        try:
            return int(value) if isinstance(value, str) else operator.index(value)
        except (TypeError, ValueError):  # 1e3, which YAML 1.1 takes for text, or 1000.0
            number = float(value)
        if not number.is_integer():
            raise ValueError
        return int(number)


CEILING = {True: 2**31 - 1, False: 10**9}  # by Number.whole


@dataclass(frozen=True)
class Text:
    """Text, of any form or of a pattern's."""

    words: str = "text"
    pattern: str = r"(?s).*"
    empty: bool = False  # allowed

    def read(self, value: Any) -> str:
        if isinstance(value, list | dict):
            raise _must_be(self.words, value)
        if not isinstance(value, str):
            raise ValueError("must be text; put it in quotes")
        if not value.strip() and not self.empty:
            raise ValueError("has no value; pass one or leave the option out")
        if "\0" in value:
            raise ValueError("contains a zero byte; correct the value")
        if not re.fullmatch(self.pattern, value):
            raise _must_be(self.words, value)
        return value


@dataclass(frozen=True)
class Window(Text):
    """FIRST:END, whole numbers, END not included."""

    words: str = "FIRST:END, as in 100:110, with FIRST from 1 up and below END"
    pattern: str = r"[1-9]\d{0,8}:[1-9]\d{0,8}"

    def read(self, value: Any) -> str:
        text = super().read(value)
        first, end = map(int, text.split(":"))
        if first >= end:
            raise _must_be(self.words, value)
        return text


@dataclass(frozen=True)
class FilePath(Text):
    """A file or directory; a ~ at its start is the home directory."""

    words: str = "a path"

    def read(self, value: Any) -> str:
        text = super().read(value)
        return str(user_path(text)) if text.startswith("~") else text


@dataclass(frozen=True)
class Choice:
    """One of a few values, all text or all whole numbers."""

    choices: tuple[str | int, ...]

    @property
    def words(self) -> str:
        *others, last = map(str, self.choices)
        return f"{', '.join(others)} or {last}"

    def read(self, value: Any) -> str | int:
        for choice in self.choices:
            if value == choice or (isinstance(value, str) and value.strip() == str(choice)):
                return choice
        if isinstance(value, bool) and isinstance(self.choices[0], str):  # YAML's off, on, no and yes
            raise ValueError(f"must be {self.words}, in quotes")
        raise _must_be(self.words, value)


@dataclass(frozen=True)
class Switch:
    """True or false; a flag alone is true."""

    words: str = "true or false"

    def read(self, value: Any) -> bool:
        known = {True: True, False: False, "true": True, "false": False}
        try:
            return known[value]
        except (KeyError, TypeError):
            raise _must_be(self.words, value) from None


@dataclass(frozen=True)
class Items:
    """A list of values of one kind; of numbers, a flag has it in brackets."""

    kind: Kind

    @property
    def words(self) -> str:
        return f"a list, each {self.kind.words}" + ("" if self.is_text else ", as in [6,12]")

    @property
    def is_text(self) -> bool:
        """Whether the items are text, which a flag has one after another: --sources a b."""
        return isinstance(self.kind, Text)

    def read(self, value: Any) -> list:
        items = value
        if isinstance(value, str) and not self.is_text:
            try:
                items = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError, RecursionError):
                items = None
        if not isinstance(items, list):
            raise _must_be(self.words, value)
        return [self.kind.read(item) for item in items]


def _must_be(words: str, value: Any) -> ValueError:
    """Return the error for a value that is something else."""
    return ValueError(f"must be {words}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """Return a value as its user wrote it, in short."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) or "''"
    return f"{text[:80]}..." if len(text) > 80 else text


def kind_of(annotation: Any) -> tuple[Kind, bool]:
    """Return the kind of a field's type, and whether the option may be without a value (None)."""
    arguments: Sequence[Any] = get_args(annotation)
    if NoneType in arguments:
        (annotation,) = (argument for argument in arguments if argument is not NoneType)
        return kind_of(annotation)[0], True
    if get_origin(annotation) is Annotated:
        kind: Kind = arguments[1]
        return kind, False
    if get_origin(annotation) is Literal:
        return Choice(tuple(arguments)), False
    if get_origin(annotation) is list:
        return Items(kind_of(arguments[0])[0]), False
    return Switch() if annotation is bool else Text(), False


def _below(number: float) -> float:
    return math.nextafter(number, -math.inf)


SMALLEST = math.ulp(0.0)  # above 0

Count = Annotated[int, Number("a whole number from 1 up", 1, whole=True)]
CountOrZero = Annotated[int, Number("a whole number from 0 up", 0, whole=True)]
Size = Annotated[int, Number("a whole number from 1 to 65536", 1, 2**16, whole=True)]
Workers = Annotated[int, Number("a whole number from 0 to 1024", 0, 2**10, whole=True)]
Seed = Annotated[int, Number("a whole number from 0 up and below 2**63", 0, 2**63 - 1, whole=True)]
Positive = Annotated[float, Number("a number above 0", SMALLEST)]
PositiveOrZero = Annotated[float, Number("a number from 0 up", 0)]
Share = Annotated[float, Number("a number above 0 and at most 1", SMALLEST, 1)]
Probability = Annotated[float, Number("a number from 0 to 1", 0, 1)]
Momentum = Annotated[float, Number("a number from 0 up and below 1", 0, _below(1))]
Angle = Annotated[float, Number("an angle in radians, from 0 to pi", 0, math.pi)]
Cosine = Annotated[float, Number("a number from -1 to 1", -1, 1)]
CosineDifference = Annotated[float, Number("a number from 0 to 2", 0, 2)]
OnNonfinite = Annotated[str, Text("stop, or skip:N with N from 1 up", r"stop|skip:[1-9]\d{0,8}")]
StepWindow = Annotated[str, Window()]
Names = Annotated[str, Text("names separated by commas", empty=True)]
Device = Annotated[str, Text("auto, cpu, gpu or gpu:N, as in gpu:0", r"auto|cpu|gpu(:(0|[1-9]\d{0,3}))?")]
PathName = Annotated[str, FilePath()]
