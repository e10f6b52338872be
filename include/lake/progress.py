"""How a backfill shows on the command line: a bar on a terminal, plain lines where the output is kept."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from include.lake.backfill import Progress

# A bar moves every second, so that it is seen to live; a file gets a line every half minute.
_BAR_SECONDS, _LINE_SECONDS = 1, 30
_WIDTH = 24


@contextmanager
def showing(progress: Progress) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Shows `progress` as long as it lasts; gives it, and the log whose lines go above the bar."""
    on_terminal, ended, lock = sys.stdout.isatty(), threading.Event(), threading.Lock()

    def bar() -> str:
        share = progress.done / max(1, progress.plan.partitions)
        full = "#" * round(_WIDTH * share)
        return f"[{full:-<{_WIDTH}}] {progress.line()}  {progress.doing}"[: shutil.get_terminal_size().columns - 1]

    def draw() -> None:
        with lock:
            if not ended.is_set():
                sys.stdout.write(f"\r\x1b[K{bar()}")
                sys.stdout.flush()

    def log(line: str) -> None:
        with lock:
            print(f"\r\x1b[K{line}" if on_terminal else line, flush=True)
        if on_terminal:
            draw()

    def keep_showing() -> None:
        while not ended.wait(_BAR_SECONDS if on_terminal else _LINE_SECONDS):
            draw() if on_terminal else log(f"… {progress.line()}  {progress.doing}")

    threading.Thread(target=keep_showing, daemon=True).start()
    try:
        yield progress, log
    finally:
        ended.set()
        if on_terminal:
            with lock:
                print("\r\x1b[K", end="", flush=True)
