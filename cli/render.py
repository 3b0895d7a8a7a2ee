"""Pages of text: tables and colours on a terminal, plain columns anywhere else.

The only importer of rich, and only for a terminal.  Whatever is shown goes through clean() here,
since host names and the like come from the LAN and may carry control sequences.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

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


def on_terminal(stream: IO[str]) -> bool:
    """Whether somebody looks at it who can be shown colours and things that move."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: IO[str]) -> bool:
    """Whether it is a terminal whose user wants colours (no-color.org)."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR")


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on a terminal, while the block runs, that `what` is being done."""
    if not on_terminal(sys.stderr):
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(clean(what))):
        yield


@dataclass(frozen=True, slots=True)
class _Line:
    """Text after a lead.  On a terminal it wraps at words beside its lead, or where the terminal's width ends."""

    lead: tuple[Styled, ...]
    parts: tuple[Styled, ...]

    def plain(self) -> Iterator[str]:
        yield "".join(text for text, _ in (*self.lead, *self.parts)).rstrip()

    def rich(self, _width: int) -> Iterator[tuple[RenderableType, bool]]:
        from rich.table import Table
        from rich.text import Text

        text = Text.assemble(*self.parts)  # which has no markup to obey
        if not self.lead:
            yield text, True
            return
        grid = Table.grid()
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text.assemble(*self.lead), text)
        yield grid, False


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows under a header.  On a narrow terminal the columns of `spare` give way, one after another; then the
    first one folds."""

    rows: tuple[tuple[Styled, ...], ...]  # the header first
    indent: int
    spare: tuple[str, ...]

    def cells(self) -> Iterator[list[Styled]]:
        """The rows, each cell as wide as its column."""
        widths = [max(len(cell) for cell, _ in column) for column in zip(*self.rows, strict=True)]
        for row in self.rows:
            yield [(cell.ljust(width), style) for (cell, style), width in zip(row, widths, strict=True)]

    def plain(self) -> Iterator[str]:
        for row in self.cells():
            yield (" " * self.indent + "  ".join(cell for cell, _ in row)).rstrip()

    def width(self) -> int:
        return max(map(len, self.plain()))

    def without(self, title: str) -> _Table:
        at = next(number for number, (cell, _) in enumerate(self.rows[0]) if cell == title)
        return _Table(tuple(row[:at] + row[at + 1 :] for row in self.rows), self.indent, self.spare[1:])

    def rich(self, width: int) -> Iterator[tuple[RenderableType, bool]]:
        from rich.text import Text

        shown, hidden = self, []
        while shown.width() > width and shown.spare:
            hidden.append(shown.spare[0])
            shown = shown.without(shown.spare[0])
        if shown.width() <= width:  # the quick way: a table of rich's takes its time
            yield Text("\n").join(shown._lines()), True
        else:
            yield shown._folded(width), False
        if hidden:
            yield Text(f"{' ' * self.indent}(no room for {', '.join(hidden)})", "dim"), True

    def _lines(self) -> Iterator[Text]:
        from rich.text import Text

        for row in self.cells():
            *cells, (last, style) = row
            between: list[str | Styled] = [part for cell in cells for part in (cell, "  ")]
            yield Text.assemble(" " * self.indent, *between, (last.rstrip(), style))

    def _folded(self, width: int) -> RenderableType:
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        spare = width - self.width()
        first = max(len(row[0][0]) for row in self.rows)
        for number, (title, _) in enumerate(self.rows[0]):
            whole = number > 0 and first + spare > 12  # else every column has to give way
            table.add_column(title, no_wrap=whole, overflow="fold", min_width=len(title))
        for row in self.rows[1:]:
            table.add_row(*(Text(*cell) for cell in row))
        return Padding(table, (0, 0, 0, self.indent), expand=False)


def _styled(part: str | Styled) -> Styled:
    return (clean(part), "") if isinstance(part, str) else (clean(part[0]), part[1])


class Page:
    """Lines and tables in the order they were added; show() prints them."""

    def __init__(self) -> None:
        self._blocks: list[_Line | _Table] = []

    def line(self, *parts: str | Styled) -> None:
        """One line, which stays one when it is copied; each part a text, or a text with its style."""
        self._blocks.append(_Line((), tuple(_styled(part) for part in parts)))

    def item(self, lead: Sequence[str | Styled], *parts: str | Styled) -> None:
        """Text that wraps beside its lead."""
        self._blocks.append(_Line(tuple(map(_styled, lead)), tuple(map(_styled, parts))))

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[str | Styled]],
        *,
        indent: int = 0,
        spare: Sequence[str] = (),
    ) -> None:
        """Columns under a header; those of `spare` are left out, in that order, where a terminal is too narrow."""
        head = tuple((title, "bold") for title in header)
        body = tuple(tuple(map(_styled, row)) for row in rows)
        self._blocks.append(_Table((head, *body), indent, tuple(spare)))

    def show(self) -> None:
        """Print the page: for a terminal with rich, else plain and never cut."""
        if on_terminal(sys.stdout):
            from rich.console import Console

            console = Console()
            for shown, is_line in self.rich(console.width):
                console.print(shown, soft_wrap=is_line)
            return
        for block in self._blocks:
            print("\n".join(block.plain()))

    def rich(self, width: int) -> Iterator[tuple[RenderableType, bool]]:
        """The blocks for rich, and of each whether the terminal shall wrap it."""
        for block in self._blocks:
            yield from block.rich(width)


class Screen:
    """The terminal's other screen, showing one page after another until the block ends."""

    def __enter__(self) -> Screen:
        from rich.console import Console
        from rich.live import Live

        self._console: Console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False).__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def show(self, page: Page) -> None:
        from rich.console import Group

        self._live.update(Group(*(block for block, _ in page.rich(self._console.width))), refresh=True)
