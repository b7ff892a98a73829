"""When a request arrived, at the latest: before the event loop came to read it."""

from __future__ import annotations

import asyncio

__all__ = ["ArrivalClock"]


class ArrivalClock:
    """Estimates how long requests may have waited in the sockets while the event loop was busy with others.

    Under overload, a turn of the loop takes as long as it takes to answer all clients that had sent something. What is
    read in a turn may have arrived since the beginning of the turn before. A result waits for the end of a turn, is
    handed out in the next one, and is written in the one after that. So a deadline counts from three turns earlier
    still.
    """

    def __init__(self) -> None:
        self._turn = self._turn_before = 0.0
        self._is_new, self._follows = True, False

    def arrived(self) -> float:
        """Return the time, on the loop's clock, from which the deadline of a request counts that is read now."""
        if self._is_new:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._turn_before = self._turn if self._follows else now
            self._turn, self._is_new = now, False
            loop.call_soon(self._end_turn)
        return 4 * self._turn_before - 3 * self._turn

    def _end_turn(self) -> None:
        """Called at the beginning of the next turn."""
        self._is_new, self._follows = True, True
        asyncio.get_running_loop().call_soon(self._pass_turn)

    def _pass_turn(self) -> None:
        """Called a turn later: if nothing was read in between, the loop was not busy."""
        self._follows = not self._is_new
