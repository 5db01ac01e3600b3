"""Counts the failed attempts of one operation, and waits before the next attempt.

Law: only AttemptFailed leads to another attempt; every other error ends the operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fusemount.errors import ImgmountError, RegistryError
from fusemount.registry.options import RegistryOptions

Sleep = Callable[[float], Awaitable[None]]


class AttemptFailed(Exception):
    """An attempt failed, but another attempt may succeed.

    error: raised when there is no other attempt.  after: seconds that the server asks us to wait.
    """

    def __init__(self, error: ImgmountError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class Retries:
    """The attempts of one operation."""

    def __init__(self, options: RegistryOptions, sleep: Sleep) -> None:
        self._options = options
        self._sleep = sleep
        self._failures = 0

    async def wait_or_raise(self, failed: AttemptFailed) -> None:
        """Waits for the time of the next attempt.

        Raises `failed.error` after the last attempt, and RegistryError if the server asks to wait
        for longer than the options allow.
        """
        delays = self._options.retry_delays
        limit = self._options.retry_after_max
        if failed.after is not None and failed.after > limit:
            raise RegistryError(
                f"{failed.error} (asks to wait {failed.after:.0f} s, which is too long)"
            ) from None
        if self._failures >= len(delays):
            raise failed.error from None
        delay = delays[self._failures]
        self._failures += 1
        await self._sleep(delay if failed.after is None else max(delay, failed.after))

    def reset(self) -> None:
        """Starts the count of failures anew, because there was progress since the last one."""
        self._failures = 0
