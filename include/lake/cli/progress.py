"""The progress of a backfill on the command line: a bar on a terminal, plain lines in a file."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from include.lake.backfill.run import Progress

# A file gets a line every half minute. A bar moves every second, so that the user sees that it works.
_LINE_SECONDS = 30
_WIDTH = 24


@contextmanager
def showing(progress: Progress) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Show `progress` during the block. Gives it, and a log function whose lines go above the bar."""
    console = Console(soft_wrap=True, markup=False, highlight=False)

    def bar() -> Table:
        row = Table.grid(padding=(0, 1))
        share = ProgressBar(total=max(1, progress.plan.partitions), completed=progress.done, width=_WIDTH)
        row.add_row(share, Text(f"{progress.line()}  {progress.doing}", no_wrap=True, overflow="ellipsis"))
        return row

    def keep_logging() -> None:
        while not ended.wait(_LINE_SECONDS):
            console.print(f"… {progress.line()}  {progress.doing}")

    if sys.stdout.isatty():
        with Live(get_renderable=bar, console=console, refresh_per_second=1, transient=True):
            yield progress, console.print
        return
    ended = threading.Event()
    threading.Thread(target=keep_logging, daemon=True).start()
    try:
        yield progress, console.print
    finally:
        ended.set()
