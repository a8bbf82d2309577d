"""The one session of a coordinator: all of its memberships, locks and candidacies hang off it."""

from __future__ import annotations

from roster_client import Call, Client, Renewed, path
from roster_client import Session as Opened
from roster_client.clock import lease_now


CALL_SECONDS = 4.5
"""What one call may take, on all nodes together: it ends within five seconds, whatever happens."""

# What one node gets at least of a call, where there is little time for all of them.
_RENEW_SHARE_SECONDS_MIN = 0.25
_CLOSE_SHARE_SECONDS_MIN = 0.1


class Session:
    """A session that was opened, and until when it is known to be there.

    Each is one life: a coordinator whose session was lost opens another one."""

    def __init__(self, client: Client, ttl: float, name: str) -> None:
        self._client = client
        sent_at = lease_now()
        opened: Opened = client.open_session(ttl=ttl, name=name)
        self.id = opened.session
        self._ttl = opened.ttl
        self._every = opened.heartbeat_every
        self._safe_until = sent_at + opened.ttl
        self._ended = False

    @property
    def heartbeat_every(self) -> float:
        """Seconds after which the cluster wants to hear of it again."""
        return self._every

    def renew(self) -> None:
        """Raises :class:`NotFound` (``unknown-session``) if it is lost."""
        sent_at = lease_now()
        # All nodes are asked before it ends, though one of them may hang.
        left = max(self._safe_until - sent_at, self._ttl / 3)
        renewed: Renewed = self._client.session_heartbeat(
            self.id, patience=min(left, CALL_SECONDS), share_min=_RENEW_SHARE_SECONDS_MIN
        )
        self._ttl, self._every = renewed.ttl, renewed.heartbeat_every
        self._safe_until = max(self._safe_until, sent_at + renewed.ttl)

    def is_safe(self) -> bool:
        """Whether nobody can have ended it for its silence yet."""
        return not self._ended and lease_now() < self._safe_until

    def end(self) -> None:
        """It is known to be lost."""
        self._ended = True

    def close(self, patience: float) -> None:
        """Ends it, within so many seconds; all that hung off it is gone when this returns."""
        self._ended = True
        target = path("v1", "sessions", self.id)
        call = Call("DELETE", target, patience=patience, share_min=_CLOSE_SHARE_SECONDS_MIN)
        self._client.send(call)
