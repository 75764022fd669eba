"""Who is connected to a session: its links, those that were lost and may come back, and what they missed."""

from __future__ import annotations

from collections import deque

from rejoinder.audio import Rates
from rejoinder.errors import SessionError
from rejoinder.events import Error, ServerEvent, SessionStarted, decode_event
from rejoinder.link import LinkReceiver
from rejoinder.local import Endpoint, LocalLink

_REPLAYED_EVENTS = 256
_LOST_LINKS = 8


class Audience:
    """The connections of one session."""

    def __init__(self, session: Endpoint) -> None:
        self._session = session
        self._lost: deque[LocalLink] = deque(maxlen=_LOST_LINKS)
        self._recent = deque[tuple[int, bytes]](maxlen=_REPLAYED_EVENTS)
        self.links: list[LocalLink] = []
        self.readers = 0
        """Those who take part without a link: they only read events."""
        session.bus.subscribe(self._remember)

    @property
    def present(self) -> bool:
        """Whether anybody is there who takes part."""
        return self.readers > 0 or any(not link.guest for link in self.links)

    @property
    def hears(self) -> bool:
        """Whether one of them wants audio."""
        return any(link.audio for link in self.links)

    @property
    def attended(self) -> bool:
        """Whether one of those who take part wants audio: what only guests hear, nobody has heard."""
        return any(link.audio and not link.guest for link in self.links)

    def deliver(self, pcm: bytes, last: bool) -> None:
        """Reply audio to all who want it."""
        for link in tuple(self.links):
            if link.audio:
                link.deliver(pcm, last)

    def add(
        self,
        receiver: LinkReceiver,
        rates: Rates,
        started: SessionStarted,
        *,
        audio: bool,
        owner: bool,
        guest: bool,
        token: str,
        last_seq: int,
    ) -> LocalLink:
        """A new link; `started` is told it first. With the `token` of a lost one it takes that one's place.

        Raises:
            SessionError: nobody who was lost had this token (`bad_resume_token`).
        """
        if token:
            owner = self._take_place(token).owner
        link = LocalLink(self._session, receiver, rates, audio, owner, guest)
        link.former_token = token
        if self._session.bus.seq:
            # A later comer: the event itself is history, so this copy carries the number of the last one published.
            started.seq, started.session_id = self._session.bus.seq, self._session.id
            link.tell(link.started(started, resumed=bool(token)))
            if token:
                self._replay(link, last_seq)
        self.links.append(link)
        return link

    def remove(self, link: LocalLink) -> bool:
        """The client of `link` left, but may come back; False if it had left before."""
        if link not in self.links:
            return False
        self.links.remove(link)
        link.close()
        self._lost.append(link)
        return True

    def recent(self, after_seq: int) -> list[tuple[int, bytes]] | None:
        """The events after that number, with their JSON; None if those kept do not go back so far."""
        if after_seq >= self._session.bus.seq:
            return []
        if not self._recent or self._recent[0][0] > after_seq + 1:
            return None
        return [(seq, data) for seq, data in self._recent if seq > after_seq]

    @property
    def oldest_kept(self) -> int:
        """The number of the oldest event that `recent` still has."""
        return self._recent[0][0] if self._recent else self._session.bus.seq + 1

    def end(self, reason: str) -> None:
        """The session is over: tell them all."""
        links, self.links = self.links, []
        for link in links:
            link.ended(reason)

    def _take_place(self, token: str) -> LocalLink:
        for link in tuple(self.links):
            if link.answers_to(token):
                # The old socket has not been missed yet.
                link.close()
                link.ended("resumed_elsewhere")
        for lost in tuple(self._lost):
            if lost.answers_to(token):
                self._lost.remove(lost)
                return lost
        raise SessionError(
            "No lost connection of this session has this resume_token.",
            code="bad_resume_token",
            fix="Use the one of the last session.started; join without it to begin anew.",
        )

    def _replay(self, link: LocalLink, last_seq: int) -> None:
        missed = [data for seq, data in self._recent if seq > last_seq]
        if self._recent and self._recent[0][0] > last_seq + 1:
            text = f"Only the newest {len(missed)} events can be sent again."
            fix = f"GET /v1/sessions/{self._session.id}/events with the header Last-Event-ID: {last_seq}"
            link.tell(Error(code="events_missed", message=text, fix=fix))
        for data in missed:
            link.receiver.on_event(decode_event(data), data)

    def _remember(self, event: ServerEvent, data: bytes) -> None:
        self._recent.append((event.seq, data))
