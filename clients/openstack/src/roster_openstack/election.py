"""The elections that a coordinator stands in: each group has one, of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Set

from roster_client import Call, Client, ElectionView, NotFound, StaleToken, path, shapes
from roster_client.transport import json_body

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

    def won(
        self, group: bytes, session: Session, watched: Watched, patience: Optional[float]
    ) -> Optional[int]:
        """Stands for leader of a group, if it does not yet; gives the token of an election that was
        won and not told. ``patience`` is in seconds, for each call."""
        standing = self._standing.get(group)
        if standing is not None and standing.session is not session:
            standing = None
        elif standing is not None and group in watched.election_news:
            standing = self._looked_at(group, standing, patience)
        if standing is None:
            standing = self._stand(group, session, watched, patience)
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
        try:
            self._client.resign(self._name(group), token=view.token)
            resigned = True
        except StaleToken:
            resigned = False
        # Only now: where it may still lead, that it was elected is not told twice.
        self._standing.pop(group, None)
        return resigned

    def withdraw(self, group: bytes) -> None:
        """Leaves the queue of an election, unless this coordinator leads by now. After a failure it
        can be asked for again."""
        standing = self._standing.get(group)
        if standing is None:
            return
        view = self._view(group)
        if view is not None and view.leader == standing.session.id:
            return
        try:
            self._client.resign(self._name(group), session=standing.session.id)
        except (NotFound, StaleToken):
            pass
        self._standing.pop(group)

    def leader(self, group: bytes) -> Optional[bytes]:
        """The member id that leads a group, if anybody does."""
        view = self._view(group)
        return None if view is None or view.leader is None else decode(view.value)

    def _stand(
        self, group: bytes, session: Session, watched: Watched, patience: Optional[float]
    ) -> Standing:
        call = Call(
            "POST",
            self._target(group) + "/campaign",
            body=json_body({"session": session.id, "value": self._value}),
            headers={"Content-Type": "application/json"},
            patience=patience,
        )
        campaigned = shapes.read(self._client.send(call), shapes.campaigned)
        # What changes from here on is told, also if others have been watched for longer.
        watched.known_at(campaigned.revision)
        standing = Standing(session, campaigned.token)
        self._standing[group] = standing
        return standing

    def _looked_at(
        self, group: bytes, standing: Standing, patience: Optional[float]
    ) -> Optional[Standing]:
        """How an election with news stands; ``None`` if this coordinator is in it no more."""
        view = self._view(group, patience)
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

    def _view(self, group: bytes, patience: Optional[float] = None) -> Optional[ElectionView]:
        try:
            answer = self._client.send(Call("GET", self._target(group), patience=patience))
        except NotFound:
            return None
        return shapes.read(answer, shapes.election)

    def _target(self, group: bytes) -> str:
        return path("v1", "elections", self._name(group))

    def _name(self, group: bytes) -> str:
        return self._ids.group(group)
