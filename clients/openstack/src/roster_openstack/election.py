"""The elections that a coordinator stands in: each group has one, of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Set

from roster_client import Client, ElectionView, NotFound, StaleToken

from .encoding import Ids, decode, encode
from .session import Session
from .watchers import Watched


@dataclass
class Standing:
    """A candidacy on a session."""

    session: Session
    token: Optional[int]
    """What it won; ``None`` while it waits."""
    told: bool = False
    """The callbacks know that it was won."""


class Elections:
    """Who leads, and what this coordinator stands for. A candidate waits in the election's queue, so
    that it leads the moment that its turn comes, and hears of it with the next run."""

    def __init__(self, client: Client, ids: Ids, member: bytes) -> None:
        self._client = client
        self._ids = ids
        self._value = encode(member)
        self._standing: Dict[bytes, Standing] = {}

    def stood_for(self) -> Set[bytes]:
        """The groups in whose elections this coordinator is."""
        return set(self._standing)

    def won(self, group: bytes, session: Session, watched: Watched) -> Optional[int]:
        """Stands for leader of a group, if it does not yet; gives the token of an election that was
        won and not told."""
        standing = self._standing.get(group)
        if standing is None or standing.session is not session:
            standing = self._stand(group, session, watched)
        elif group in watched.election_news:
            standing = self._looked_at(group, standing) or self._stand(group, session, watched)
        watched.election_news.discard(group)
        return None if standing.told else standing.token

    def told(self, group: bytes, token: int) -> None:
        """The callbacks have heard of what was won."""
        standing = self._standing.get(group)
        if standing is not None and standing.token == token:
            standing.told = True

    def stand_down(self, group: bytes, session: Session) -> bool:
        """Gives up leading a group; false if this coordinator does not lead it."""
        view = self._view(group)
        if view is None or view.leader != session.id or view.token is None:
            return False
        self._standing.pop(group, None)
        try:
            self._client.resign(self._name(group), token=view.token)
        except StaleToken:
            return False
        return True

    def withdraw(self, group: bytes) -> None:
        """Leaves the queue of an election, unless this coordinator leads by now."""
        standing = self._standing.get(group)
        if standing is None:
            return
        view = self._view(group)
        if view is not None and view.leader == standing.session.id:
            return
        self._standing.pop(group)
        try:
            self._client.resign(self._name(group), session=standing.session.id)
        except (NotFound, StaleToken):
            pass

    def leader(self, group: bytes) -> Optional[bytes]:
        """The member id that leads a group, if anybody does."""
        view = self._view(group)
        return None if view is None or view.leader is None else decode(view.value)

    def _stand(self, group: bytes, session: Session, watched: Watched) -> Standing:
        campaigned = self._client.campaign(self._name(group), session.id, value=self._value)
        # What changes from here on is told, also if others have been watched for longer.
        watched.known_at(campaigned.revision)
        standing = Standing(session, campaigned.token)
        self._standing[group] = standing
        return standing

    def _looked_at(self, group: bytes, standing: Standing) -> Optional[Standing]:
        """How an election with news stands; ``None`` if this coordinator is in it no more."""
        view = self._view(group)
        if view is None:
            return None
        own = standing.session.id
        if view.leader == own:
            if view.token != standing.token:
                standing.token, standing.told = view.token, False
            return standing
        listed = any(candidate.session == own for candidate in view.candidates)
        if standing.token is None and (listed or view.waiting > len(view.candidates)):
            return standing
        return None

    def _view(self, group: bytes) -> Optional[ElectionView]:
        try:
            return self._client.get_election(self._name(group))
        except NotFound:
            return None

    def _name(self, group: bytes) -> str:
        return self._ids.group(group)
