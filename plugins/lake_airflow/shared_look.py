"""One look for all sensors of a triggerer: on Databricks it is one statement of a SQL warehouse, and costs money."""

import asyncio
import time
from weakref import WeakKeyDictionary

from include.lake import settings
from include.lake.errors import LakeError
from include.lake.state.presence import Ask, missing

# Sensors of one DAG run begin within a second or two, and become one statement.
GATHER_SECONDS = 2.0


class Board:
    """What the sensors wait for, and the newest answer to all of them."""

    def __init__(self) -> None:
        self._asked: dict[Ask, float] = {}  # when a sensor has asked last
        self._answers: dict[Ask, dict[str, str] | LakeError] = {}
        self._at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def missing(self, ask: Ask) -> dict[str, str]:
        """The days that a sensor waits for, each with the reason. A new sensor starts a look at once."""
        self._asked[ask] = time.monotonic()
        while ask not in self._answers or self._seconds_left() <= 0:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)
        answer = self._answers[ask]
        if isinstance(answer, LakeError):
            raise answer
        return answer

    async def _look(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        # A sensor that has ended asks no more.
        recent = time.monotonic() - 2 * settings.look_seconds() - GATHER_SECONDS
        self._asked = {ask: at for ask, at in self._asked.items() if at > recent}
        from lake_airflow.databricks import use_connection  # it imports tasks, which import this module

        use_connection()
        self._answers = await asyncio.to_thread(missing, list(self._asked))
        self._at = time.monotonic()

    def _seconds_left(self) -> float:
        return self._at + settings.look_seconds() - time.monotonic()

    async def pause(self) -> None:
        """Wait for the next look of all; after a look that failed, as long as between two."""
        left = self._seconds_left()
        await asyncio.sleep(left if left > 0 else settings.look_seconds())


_boards: "WeakKeyDictionary[asyncio.AbstractEventLoop, Board]" = WeakKeyDictionary()


def board() -> Board:
    """The board of this triggerer."""
    return _boards.setdefault(asyncio.get_running_loop(), Board())
