"""Report: lines printed as name and value, with findings below them: what is wrong and what to do."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from arcface.errors import UserError

WIDTH = 100  # columns
INDENT = 16  # of the values


class Report:
    """A report on stdout. Each line is printed at once, so that a crash shows what was being examined.

    findings: how many have been printed so far.
    """

    def __init__(self):
        self.findings = 0
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text

    def line(self, name: str, value: str, *advice: str | None) -> None:
        """Print a name with its value, and below it the findings that are not None."""
        self._print(name, value)
        for finding in filter(None, advice):
            self.advise("", finding)

    def advise(self, name: str, finding: str) -> None:
        """Print a finding."""
        self.findings += 1
        self._print(name, f"-> {finding}")

    def gap(self) -> None:
        """Print an empty line."""
        print()

    def end(self) -> None:
        """Print how many findings there are."""
        self._print("findings", f"{self.findings}, after the arrows above" if self.findings else "none")

    @contextmanager
    def examining(self, name: str) -> Iterator[None]:
        """Report a UserError of the block as a finding, and continue after the block."""
        try:
            yield
        except UserError as error:
            self.advise(name, str(error))

    def _print(self, name: str, text: str) -> None:
        # Paths are not broken, so that they can be copied.
        lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines or [""]):
            print(f"{'' if number else name:<{INDENT - 1}} {line}".rstrip(), flush=True)
