"""The newest view of a ring, kept by a thread."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Callable, List, Optional

from .errors import RosterError
from .ring import RingView
from .transport import Pauses

if TYPE_CHECKING:
    from .client import Client

_log = logging.getLogger(__name__)

OnChange = Callable[[Optional[RingView]], None]

# A node may answer a long poll at once where it cannot know; then so long is waited for the next.
_EARLY_SECONDS = 1.0

# There is no ring: nobody owns anything.
_NO_RING = ("no-ring", "unknown-app")


class RingWatcher:
    """Follows the ring of an app by long polls, from a thread that begins at once.

    Read :attr:`view`: it is swapped whole, so no lock is needed; take it once per piece of work, not
    once per key. Its epoch never goes back. It is ``None`` before the first answer and while the app
    has no ring. ``on_change`` and what :meth:`on_change` adds are called in the watcher's thread,
    after ``view`` was swapped; what they raise is logged.
    """

    def __init__(
        self,
        client: Client,
        app: str,
        *,
        on_change: Optional[OnChange] = None,
        wait: float = 30.0,
    ) -> None:
        self.view: Optional[RingView] = None
        self.error: Optional[RosterError] = None
        """Why the last poll failed; ``None`` if it did not. The view stays as it was meanwhile."""
        self._client = client
        self._app = app
        self._wait = wait
        self._epoch = -1
        self._callbacks: List[OnChange] = [on_change] if on_change else []
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"roster-ring-{app}", daemon=True)
        self._thread.start()

    def on_change(self, callback: OnChange) -> None:
        """Has a callback called with each new view (``None``: the ring is gone) from now on."""
        with self._changed:
            self._callbacks = [*self._callbacks, callback]

    def wait_for(self, epoch: int = 0, timeout: Optional[float] = None) -> Optional[RingView]:
        """Waits for a view of this epoch or a later one; ``None`` after ``timeout`` seconds."""

        def there() -> bool:
            return self._stopped.is_set() or (self.view is not None and self.view.epoch >= epoch)

        with self._changed:
            self._changed.wait_for(there, timeout)
            view = self.view
        return view if view is not None and view.epoch >= epoch else None

    def stop(self) -> None:
        """Ends it: no callback begins after this. A poll that is on its way ends by itself."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def _run(self) -> None:
        pauses = Pauses(1)
        while not self._stopped.is_set():
            begun_at = time.monotonic()
            try:
                news = self._poll()
                pauses.reset()
                early = _EARLY_SECONDS - (time.monotonic() - begun_at)
                pause = 0.0 if news else max(0.0, early)
            except RosterError as error:
                self.error = error
                if error.code in _NO_RING:
                    self._withdraw()
                pause = pauses.after_failure(error.retry_after)
            self._stopped.wait(pause)

    def _poll(self) -> bool:
        """Asks for what is newer than the view; gives whether something was."""
        if self.view is None:
            view = self._client.ring(self._app)
        else:
            view = self._client.ring(self._app, index=self._epoch, wait=self._wait)
        self.error = None
        if view.epoch < self._epoch or (view.epoch == self._epoch and self.view is not None):
            return False
        self._epoch = view.epoch
        self._swap(view)
        return True

    def _withdraw(self) -> None:
        if self.view is not None:
            self._swap(None)

    def _swap(self, view: Optional[RingView]) -> None:
        with self._changed:
            self.view = view
            self._changed.notify_all()
            callbacks = self._callbacks
        for callback in callbacks:
            if self._stopped.is_set():
                return
            try:
                callback(view)
            except Exception:
                _log.exception("a callback for the ring of %s failed", self._app)
