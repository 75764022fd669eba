"""For whom a session goes on: it waits for those who were lost, and ends some time after the last has left."""

from __future__ import annotations

from collections.abc import Callable

from rejoinder.audience import Audience
from rejoinder.bus import Bus, Observer
from rejoinder.settings import Agent, Limits
from rejoinder.stages.playout import Playout
from rejoinder.timers import Timers
from rejoinder.turn import TurnScope
from rejoinder.turns.signals import AudienceChanged, Input, InterruptAsked


class Presence:
    """Who of the `audience` takes part. `scope()` is the reply under way, `agent()` who answers.

    What nobody hears does not count as heard: it is held until somebody is there again (`abandoned`).
    """

    def __init__(
        self,
        audience: Audience,
        bus: Bus,
        playout: Playout,
        limits: Limits,
        timers: Timers,
        *,
        scope: Callable[[], TurnScope | None],
        agent: Callable[[], Agent],
        post: Callable[[Input], None],
        end: Callable[[str], None],
        closed: Callable[[], bool],
    ) -> None:
        self.abandoned = False
        """Nobody hears the reply, so it is held."""
        self._audience = audience
        self._bus = bus
        self._playout = playout
        self._limits = limits
        self._timers = timers
        self._scope = scope
        self._agent = agent
        self._post = post
        self._end = end
        self._closed = closed
        self._linked = False
        """Somebody has come to stay, rather than to write now and then."""

    def came(self, *, audio: bool, guest: bool, last_seq: int, played_ms: float | None) -> None:
        """A client is connected; if it was lost, it has seen events up to `last_seq` and played `played_ms`."""
        if not guest:
            self._linked = True
            self._timers.stop("idle")
        if audio:
            self._post(AudienceChanged(True))
        if guest:
            return
        scope = self._scope()
        if self.abandoned and played_ms is not None and scope is not None:
            # What it counts may be of an earlier reply than the one it has not heard of yet.
            self._playout.report(played_ms if scope.begun_seq <= last_seq else 0.0)
        self._come_back()

    def left(self, *, audio: bool, guest: bool) -> None:
        """A client is not connected any more."""
        if audio and not self._audience.hears:
            self._post(AudienceChanged(False))
        if guest:
            return
        if audio and not self._audience.attended:
            self._abandon()
        self.idle()

    def idle(self) -> None:
        """If nobody is connected, end after the grace period, which begins now."""
        if not self._audience.present and not self._closed():
            # Who writes comes and goes with every message, and thinks longer between them.
            grace = self._limits.idle_s if self._linked else max(self._limits.idle_s, self._limits.chat_idle_s)
            self._timers.arm("idle", grace, self._leave)

    def watch(self, observer: Observer, *, present: bool) -> Callable[[], None]:
        """Show all events from now on to `observer`; returns the (idempotent) way to stop that.

        `present`: for somebody who takes part, so that the session does not end for want of company meanwhile.
        """
        unsubscribe = self._bus.subscribe(observer)
        if not present:
            return unsubscribe
        self._audience.readers += 1
        self._timers.stop("idle")
        self._come_back()
        gone = False

        def leave() -> None:
            nonlocal gone
            unsubscribe()
            if not gone:
                gone = True
                self._audience.readers -= 1
                self.idle()

        return leave

    def _come_back(self) -> None:
        """Somebody is there again: the reply that nobody heard the end of goes on, or not, as the agent has it."""
        if not self.abandoned:
            return
        self.abandoned = False
        scope = self._scope()
        if self._agent().turns.on_resume == "continue" and scope is not None:
            scope.resume()
        else:
            self._post(InterruptAsked())

    def _abandon(self) -> None:
        """Nobody hears the rest, so it must not count as heard: it waits for somebody to come back."""
        scope = self._scope()
        # Those who only read get the whole text.
        if scope is None or not self._playout.playing or self._audience.present:
            return
        self.abandoned = True
        scope.hold()

    def _leave(self) -> None:
        """The grace period is over. What is still being answered is answered first: its events are stored and sent."""
        if self._scope() is not None and not self.abandoned:
            self.idle()
        else:
            self._end("idle")
