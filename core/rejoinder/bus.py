"""One session's event bus: stamps, encodes once and hands each event to every observer, in order, at once.

Observers are plain functions that return quickly; one that raises is removed and reported, never the session hurt.
Anything slow (a socket, a database) keeps its own bounded queue behind its function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rejoinder.clock import Clock
from rejoinder.events import ServerEvent, encodable, encode

log = logging.getLogger(__name__)

Observer = Callable[[ServerEvent, bytes], None]
"""Called with an event and its JSON."""


class Bus:
    """Publishes the events of one session; `seq` counts from 1."""

    def __init__(self, session_id: str, clock: Clock) -> None:
        self._session_id = session_id
        self._clock = clock
        self._observers: list[Observer] = []
        self.seq = 0

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` for every event from now on; returns the (idempotent) way to stop that."""
        self._observers.append(observer)

        def unsubscribe() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return unsubscribe

    def publish(self, event: ServerEvent) -> None:
        """Number `event`, date it and show it to all observers."""
        self.seq += 1
        event.seq = self.seq
        event.at = self._clock.wall_ms()
        event.session_id = self._session_id
        try:
            data = encode(event)
        except UnicodeEncodeError:
            _replace_surrogates(event)
            data = encode(event)
        for observer in tuple(self._observers):
            try:
                observer(event, data)
            except Exception:
                log.exception("an observer of %s failed at %s and is removed", self._session_id, type(event).__name__)
                if observer in self._observers:
                    self._observers.remove(observer)


def _replace_surrogates(event: ServerEvent) -> None:
    """Make text encodable that holds half a character, as broken models and file names do."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str):
            setattr(event, name, encodable(value))
