"""A text report in two columns, with findings (what is wrong and what to do) marked by arrows and counted."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from arcface.errors import UserError

WIDTH = 100  # columns
INDENT = 16  # of the values


class Report:
    """Prints line by line, so that a crash shows what was being examined.

    findings: the number of findings so far.
    """

    def __init__(self):
        self.findings = 0
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names may be invalid UTF-8

    def line(self, name: str, value: str, *advice: str | None) -> None:
        """Print a name and a value, and below it each finding that is not None."""
        self._print(name, value)
        for finding in filter(None, advice):
            self.advise("", finding)

    def advise(self, name: str, finding: str) -> None:
        """Print a finding on its own line."""
        self.findings += 1
        self._print(name, f"-> {finding}")

    def gap(self) -> None:
        """Print an empty line."""
        print()

    def end(self) -> None:
        """Print the number of findings."""
        self._print("findings", f"{self.findings}, marked by arrows above" if self.findings else "none")

    @contextmanager
    def examining(self, name: str) -> Iterator[None]:
        """Report a UserError raised in the block as a finding, and continue after the block."""
        try:
            yield
        except UserError as error:
            self.advise(name, str(error))

    def _print(self, name: str, text: str) -> None:
        # Paths are not broken, so that they can be copied.
        lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines or [""]):
            print(f"{'' if number else name:<{INDENT - 1}} {line}".rstrip(), flush=True)
