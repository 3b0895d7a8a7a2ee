"""Pages of text: tables and colours on a terminal, plain columns anywhere else.

The only importer of rich, and only for a terminal.  Whatever is shown goes through clean() here,
since host names and the like come from the LAN and may carry control sequences.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Styled = tuple[str, str]
"""A text and its style as rich names it; "" for none."""


def clean(text: object) -> str:
    """`text` with all that could steer a terminal escaped: control, format, bidi characters."""
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in string)


def duration(seconds: float | None) -> str:
    """Seconds for people, to two places: 42s, 12m 05s, 5h 02m, 3d 04h; None is never."""
    if seconds is None:
        return "never"
    whole = int(seconds)
    if whole <= 0:
        return "now"
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def count(number: int, noun: str) -> str:
    """1 pod, 2 pods."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def print_json(document: dict[str, Any]) -> None:
    """The document with the schema's number first; ASCII only, so safe on any terminal."""
    print(json.dumps({"schema": 1, **document}, indent=2))


@dataclass(frozen=True, slots=True)
class _Line:
    parts: tuple[Styled, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    rows: tuple[tuple[Styled, ...], ...]  # the header first
    indent: int

    def plain(self) -> Iterable[str]:
        widths = [max(len(cell) for cell, _ in column) for column in zip(*self.rows, strict=True)]
        for row in self.rows:
            cells = (cell.ljust(width) for (cell, _), width in zip(row, widths, strict=True))
            yield (" " * self.indent + "  ".join(cells)).rstrip()


def _styled(part: str | Styled) -> Styled:
    return (clean(part), "") if isinstance(part, str) else (clean(part[0]), part[1])


class Page:
    """Lines and tables in the order they were added; show() prints them."""

    def __init__(self) -> None:
        self._blocks: list[_Line | _Table] = []

    def line(self, *parts: str | Styled) -> None:
        """One line; each part a text, or a text with its style."""
        self._blocks.append(_Line(tuple(_styled(part) for part in parts)))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str | Styled]], indent: int = 0) -> None:
        """Columns under a header; on a narrow terminal the first column folds."""
        head = tuple((title, "bold") for title in header)
        self._blocks.append(_Table((head, *(tuple(map(_styled, row)) for row in rows)), indent))

    def show(self) -> None:
        """Print the page: for a terminal with rich, else plain and never cut."""
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self._show_rich()
            return
        for block in self._blocks:
            if isinstance(block, _Line):
                print("".join(text for text, _ in block.parts).rstrip())
            else:
                print("\n".join(block.plain()))

    def _show_rich(self) -> None:
        from rich.console import Console
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        console = Console()  # what it gets is Text, which has no markup to obey
        for block in self._blocks:
            if isinstance(block, _Line):
                console.print(Text.assemble(*block.parts), soft_wrap=True)
                continue
            table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
            spare = console.width - max(map(len, block.plain()))
            first = max(len(row[0][0]) for row in block.rows)
            for number, (title, _) in enumerate(block.rows[0]):
                whole = number > 0 and first + spare > 12  # else every column has to give way
                table.add_column(title, no_wrap=whole, overflow="fold", min_width=len(title))
            for row in block.rows[1:]:
                table.add_row(*(Text(*cell) for cell in row))
            console.print(Padding(table, (0, 0, 0, block.indent), expand=False))
