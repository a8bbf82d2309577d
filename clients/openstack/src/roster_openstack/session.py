"""The one session of a coordinator: all of its memberships, locks and candidacies hang off it."""

from __future__ import annotations

from typing import Optional

from roster_client import Client, Renewed
from roster_client import Session as Opened
from roster_client.clock import lease_now


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
        renewed: Renewed = self._client.session_heartbeat(self.id)
        self._ttl, self._every = renewed.ttl, renewed.heartbeat_every
        self._safe_until = max(self._safe_until, sent_at + renewed.ttl)

    def is_safe(self) -> bool:
        """Whether nobody can have ended it for its silence yet."""
        return not self._ended and lease_now() < self._safe_until

    def end(self) -> None:
        """It is known to be lost."""
        self._ended = True

    def close(self) -> None:
        """Ends it; all that hung off it is gone when this returns."""
        self._ended = True
        self._client.close_session(self.id)


def is_safe(session: Optional[Session]) -> bool:
    """Whether there is a session, and nobody can have ended it for its silence yet."""
    return session is not None and session.is_safe()
