"""The in-process `SessionLink`: direct calls between an adapter and its session, no queue."""

from __future__ import annotations

import copy
import logging
import secrets
from typing import Protocol

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES, Rates, Resampler
from rejoinder.bus import Bus
from rejoinder.errors import ProtocolError
from rejoinder.events import ClearAudio, ClientCommand, ServerEvent, SessionStarted, encode
from rejoinder.link import LinkReceiver

log = logging.getLogger(__name__)


class Endpoint(Protocol):
    """What a link needs of its session."""

    id: str
    rates: Rates
    bus: Bus

    def hear(self, link: LocalLink, pcm: bytes) -> None:
        """User audio, PCM16 at 16 kHz."""

    def obey(self, link: LocalLink, command: ClientCommand) -> None:
        """Do what a client wants."""

    def detach(self, link: LocalLink) -> None:
        """The client left. Idempotent."""


class LocalLink:
    """One client of a session: `rates` as it sees them; `audio`: it hears replies, or else only reads them.

    `owner`: the session was made for this client and ends when it hangs up. `guest`: it takes no part, so that the
    session does not wait for it.
    """

    def __init__(
        self,
        session: Endpoint,
        receiver: LinkReceiver,
        rates: Rates,
        audio: bool,
        owner: bool,
        guest: bool = False,
    ) -> None:
        self.session_id = session.id
        self.receiver = receiver
        self.rates = rates
        self.audio = audio
        self.owner = owner
        self.guest = guest
        self.resume_token = secrets.token_urlsafe(16)
        """Known to this client alone: who comes with it takes this client's place."""
        self.former_token = ""
        """The one it came back with: good once more, until it has shown that it got the new one."""
        self._session = session
        self._input = Resampler(rates.input, ENGINE_RATE)
        self._output = Resampler(session.rates.output, rates.output)
        self._unsubscribe = session.bus.subscribe(self._on_event)

    def send_audio(self, pcm: bytes) -> None:
        """User audio: PCM16 mono at the link's input rate.

        Raises:
            ProtocolError: not a whole number of samples (`odd_audio`).
        """
        if len(pcm) % SAMPLE_BYTES:
            raise ProtocolError(
                f"An audio frame of {len(pcm)} bytes is no whole number of 16-bit samples.",
                code="odd_audio",
                fix="Send PCM16 mono, little-endian: two bytes a sample.",
            )
        self.former_token = ""
        self._session.hear(self, self._input.process(pcm))

    def send_command(self, command: ClientCommand) -> None:
        """What the user wants.

        Raises:
            ProtocolError: it cannot be done.
        """
        self.former_token = ""
        self._session.obey(self, command)

    def answers_to(self, token: str) -> bool:
        """Whether `token` is this client's."""
        known = (self.resume_token, self.former_token)
        return any(secrets.compare_digest(one.encode(), token.encode()) for one in known if one)

    def tell(self, event: ServerEvent) -> None:
        """Send an event to this client alone."""
        self.receiver.on_event(event, encode(event))

    def deliver(self, pcm: bytes, last: bool) -> None:
        """Reply audio at the session's output rate; a receiver that fails is detached, the others go on."""
        try:
            if converted := self._output.process(pcm, last=last):
                self.receiver.on_audio(converted)
        except Exception:
            log.exception("a connection of %s failed and is detached", self.session_id)
            self._session.detach(self)
        if last:
            self._renew()

    def ended(self, reason: str) -> None:
        """The session is over."""
        self._unsubscribe()
        try:
            self.receiver.on_closed(reason)
        except Exception:
            log.exception("a connection of %s failed at the end", self.session_id)

    def close(self) -> None:
        """Leave. Idempotent."""
        self._unsubscribe()
        self._session.detach(self)

    def started(self, event: SessionStarted, *, resumed: bool = False) -> SessionStarted:
        """The session's first event as this client gets it: with its rates and its secret."""
        own = copy.copy(event)
        own.input_rate, own.output_rate = self.rates.input, self.rates.output
        own.resume_token, own.resumed = self.resume_token, resumed
        return own

    def _on_event(self, event: ServerEvent, data: bytes) -> None:
        if isinstance(event, ClearAudio):
            self._renew()
        elif isinstance(event, SessionStarted):
            self.tell(self.started(event))
            return
        self.receiver.on_event(event, data)

    def _renew(self) -> None:
        """The converter holds back some ms; what is left of one reply must not begin the next."""
        if self.rates.output != self._session.rates.output:
            self._output = Resampler(self._session.rates.output, self.rates.output)
