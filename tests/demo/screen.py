"""What the demo shows: a line for each step that is done; on a terminal the running one below, and the pods live."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tests.lab import ApiError, LabError, Lan


@dataclass
class Row:
    """A step: what is done, what came of it, how long it took (seconds); `ok` is None while it runs."""

    what: str
    result: str = ""
    seconds: float = 0.0
    ok: bool | None = None


class Stopped(Exception):
    """A step failed that the later ones need."""


class Watcher(threading.Thread):
    """Looks at the pods again and again, for the table on the terminal: what the daemons say, and who answers."""

    def __init__(self, lan: Lan) -> None:
        super().__init__(daemon=True)
        self.lan = lan
        self.rows: list[tuple[str, ...]] = []
        self._ending = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(8) as pings:
            while not self._ending.is_set():
                with contextlib.suppress(OSError, LabError):  # the LAN is being taken down
                    self.rows = self._look(pings)
                self._ending.wait(0.2)

    def _look(self, pings: Executor) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for node in list(self.lan.nodes):
            try:
                status = node.status()
            except (OSError, ApiError):
                if any(row[0] == node.name for row in self.rows):
                    rows.append((node.name, "", "", "[bold red]the daemon is not there[/]", ""))
                continue
            pods = [pod for pod in status["pods"] if pod["address"]]
            answers = pings.map(lambda pod: self._answers(pod["address"]), pods)
            for pod, answered in zip(pods, answers, strict=True):
                colour = {"bound": "green", "renewing": "yellow"}.get(pod["state"], "red")
                state = f"[{colour}]{escape(pod['state'])}[/]"
                reached = "[green]answers[/]" if answered else "[bold red]silent[/]"
                rows.append((node.name, escape(pod["name"]), pod["address"], state, reached))
        return rows

    def _answers(self, address: str) -> bool:
        return self.lan.host.ping(address.partition("/")[0], timeout=0.3)

    def end(self) -> None:
        self._ending.set()
        self.join()


class Screen:
    """Shows the steps, a line for each that is done; on a terminal the running one below, and the pods live."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.steps: list[Row] = []
        self.running: Row | None = None
        self.watcher: Watcher | None = None
        self.live = self._new_live()
        self.on_terminal = self.console.is_terminal
        self.spinner = Spinner("dots")

    def _new_live(self) -> Live:
        return Live(console=self.console, refresh_per_second=12, get_renderable=self.below, transient=True)

    def __enter__(self) -> Screen:
        if self.on_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_terminal:
            self.live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to something else; what is live goes on below it."""
        self.__exit__()
        yield
        self.live = self._new_live()
        self.__enter__()

    @contextlib.contextmanager
    def watching(self, lan: Lan) -> Iterator[None]:
        """Show the pods of `lan` on the terminal while the block runs."""
        if not self.on_terminal:
            yield
            return
        self.watcher = Watcher(lan)
        self.watcher.start()
        try:
            yield
        finally:
            self.watcher.end()
            self.watcher = None

    def section(self, title: str) -> None:
        self.console.print(f"\n[bold]{escape(title)}[/]")

    @contextlib.contextmanager
    def step(self, what: str, *, needed: bool = True) -> Iterator[Row]:
        """A step of the demo.  Failing, it stops the demo if later steps need it, and is told in any case."""
        row = self.running = Row(what)
        self.steps.append(row)
        begin = time.perf_counter()
        try:
            yield row
            row.ok = True
        except Exception as error:
            known = isinstance(error, LabError | ApiError | AssertionError)
            row.ok, row.result = False, str(error) if known else f"{type(error).__name__}: {error}"
            if needed:
                raise Stopped(what) from error
        finally:
            row.seconds, self.running = time.perf_counter() - begin, None
            if row.ok is not None:
                self._done(row)

    def _done(self, row: Row) -> None:
        if not self.on_terminal:
            print(
                f"  {mark(row):6} {row.what:58} {first_line(row.result):38} {row.seconds:6.2f} s", flush=True
            )
            return
        colour = "green" if row.ok else "bold red"
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for width in (6, min(60, self.console.width // 2 - 8), None, 8):
            line.add_column(width=width, overflow="fold", ratio=None if width else 1)
        line.columns[-1].justify = "right"
        line.add_row(
            f"[{colour}]{mark(row)}[/]",
            escape(row.what),
            escape(first_line(row.result)),
            f"[dim]{row.seconds:.2f} s[/]",
        )
        self.console.print(line)

    def below(self) -> RenderableType:
        """What moves: the step that runs, and the pods as they are."""
        parts: list[RenderableType] = []
        if self.running is not None:
            self.spinner.update(text=Text(self.running.what))
            parts.append(self.spinner)
        if self.watcher is not None and self.watcher.rows:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
            for name in ("NODE", "POD", "ADDRESS", "LEASE", "FROM THE LAN"):
                table.add_column(name)
            for row in self.watcher.rows:
                table.add_row(*row)
            parts.append(table)
        return Group(*parts)


def mark(row: Row) -> str:
    return "ok" if row.ok else "FAILED"


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
