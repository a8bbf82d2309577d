"""What a coordinator knows of the groups that it watches, and what may have changed since."""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Optional, Set, Tuple, Union

from tooz import coordination

from roster_client import Call, Client, Compacted, RosterError

from .encoding import Ids, decode
from .members import Groups, Listed, payload_of

# Of a group in which more has changed than this the whole list is read.
_SINGLES_MAX = 4

# Longer requests, and more names of one kind, are refused by servers: then all changes are asked for,
# and the others dropped.
_QUERY_BYTES_MAX = 30_000
_NAMES_MAX = 1_000

Query = List[Tuple[str, Union[str, bytes, int]]]


class Watched:
    """The members of each watched group as they were told, and the groups and elections of which
    something may be news. All of it is read and changed under the coordinator's lock."""

    def __init__(self, client: Client, groups: Groups, ids: Ids) -> None:
        self._client = client
        self._groups = groups
        self._ids = ids
        self.members: Dict[bytes, Dict[bytes, bytes]] = {}
        """Group to its members with their capabilities, as the callbacks know them."""
        self.news: Dict[bytes, Optional[Set[bytes]]] = {}
        """Groups with news: the members concerned, ``None`` for all."""
        self.election_news: Set[bytes] = set()
        """Elections with news."""
        self._index: Optional[int] = None
        # All that changed at or before this revision is in what is above.

    def known_at(self, revision: int) -> None:
        """Something is known from this revision on."""
        self._index = revision if self._index is None else min(self._index, revision)

    def ask(self, elections: Iterable[bytes], patience: Optional[float]) -> None:
        """Asks what changed since it was last asked, in one request: all that was acknowledged
        before is told. Nothing is asked if nothing is watched."""
        names = {self._ids.group(group): group for group in self.members}
        stood_for = {self._ids.group(group): group for group in elections}
        if self._index is None or not (names or stood_for):
            self._index = None
            return
        query = _query(names, stood_for) + [("index", self._index)]
        try:
            answer = self._client.send(Call("GET", "/v1/changes", query=query, patience=patience))
        except Compacted as error:
            # All is read anew, by reads that show at least what this node has seen.
            self.news = dict.fromkeys(self.members)
            self.election_news |= set(stood_for.values())
            self._index = error.revision or error.restart_from or self._index
            return
        body = answer.json()
        for changed in body["changed"]:
            if changed["kind"] == "latch":
                if changed["latch"] == "election" and changed["id"] in stood_for:
                    self.election_news.add(stood_for[changed["id"]])
            elif changed["app"] in names:
                self._note(names[changed["app"]], decode(changed["id"]))
        self._index = body["revision"]

    def _note(self, group: bytes, member: bytes) -> None:
        noted = self.news.setdefault(group, set())
        if noted is not None:
            noted.add(member)

    def now(self, group: bytes, left: Callable[[], Optional[float]]) -> Dict[bytes, bytes]:
        """The members of a group with news; a missing group counts as empty. ``left`` gives the
        seconds that are left for it, before each request."""
        concerned = self.news.get(group)
        known = self.members.get(group, {})
        if concerned is None or len(concerned) > _SINGLES_MAX:
            return self._listed(group, left()).members
        now = dict(known)
        for member in sorted(concerned):
            try:
                now[member] = payload_of(self._groups.member(group, member, left()))
            except (coordination.MemberNotJoined, coordination.GroupNotCreated):
                now.pop(member, None)
        return now

    def _listed(self, group: bytes, patience: Optional[float]) -> Listed:
        try:
            listed = self._groups.listed(group, patience)
        except coordination.GroupNotCreated as error:
            listed = Listed(_revision_of(error), {})
        if self._index is None:
            # A coordinator that was started again knows its groups from here on.
            self.known_at(listed.revision)
        return listed

    def begin(self, group: bytes) -> Listed:
        """Reads a group that is to be watched. Raises :class:`GroupNotCreated`."""
        listed = self._groups.listed(group)
        self.known_at(listed.revision)
        return listed


def _revision_of(error: coordination.GroupNotCreated) -> int:
    """Of which revision a group is known to be missing; 0 if that was not said: then all is asked for
    that ever changed."""
    cause = error.__cause__
    return cause.revision or 0 if isinstance(cause, RosterError) else 0


def _query(groups: Iterable[str], elections: Iterable[str]) -> Query:
    query: Query = [("app", name) for name in sorted(groups)]
    query += [("election", name) for name in sorted(elections)]
    kinds = (["instance"] if groups else []) + (["latch"] if elections else [])
    # In the address each byte can become three.
    bytes_at_most = 3 * sum(len(str(name).encode("utf-8")) + 3 for _, name in query)
    if len(query) > _NAMES_MAX or bytes_at_most > _QUERY_BYTES_MAX:
        query = []
    return query + [("kind", ",".join(kinds))]
