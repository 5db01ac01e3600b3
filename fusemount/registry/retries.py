"""Law: what may go better at another attempt, and how often and after what time one is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fusemount.errors import ImgmountError, RegistryError
from fusemount.registry.options import RegistryOptions

Sleep = Callable[[float], Awaitable[None]]


class Trouble(Exception):
    """An attempt failed, but another may not.

    error: what to raise where there is none; after: seconds that the other side asks us to wait.
    """

    def __init__(self, error: ImgmountError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class Patience:
    """The attempts at one thing."""

    def __init__(self, options: RegistryOptions, sleep: Sleep) -> None:
        self._options = options
        self._sleep = sleep
        self._failures = 0

    async def bear(self, trouble: Trouble) -> None:
        """Waits until the next attempt, or raises `trouble.error`: enough is enough."""
        delays = self._options.retry_delays
        limit = self._options.retry_after_max
        if trouble.after is not None and trouble.after > limit:
            raise RegistryError(
                f"{trouble.error} (asks to wait {trouble.after:.0f} s, which is too long)"
            ) from None
        if self._failures >= len(delays):
            raise trouble.error from None
        delay = delays[self._failures]
        self._failures += 1
        await self._sleep(delay if trouble.after is None else max(delay, trouble.after))

    def refresh(self) -> None:
        """Something was achieved meanwhile: the count starts anew."""
        self._failures = 0
