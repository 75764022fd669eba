"""The small port between adapters and sessions: four verbs, so that Redis can stand between the two ends one day."""

from __future__ import annotations

from typing import Protocol

from rejoinder.events import ClientCommand, ServerEvent


class LinkReceiver(Protocol):
    """The adapter's end: called on the event loop, in the order in which a client must see things. Never blocks."""

    def on_event(self, event: ServerEvent, data: bytes) -> None:
        """An event, and its JSON."""

    def on_audio(self, pcm: bytes) -> None:
        """The next reply audio: PCM16 mono at the link's output rate."""

    def on_closed(self, reason: str) -> None:
        """The session has ended; nothing more comes."""


class SessionLink(Protocol):
    """The session's end, as an adapter sees it."""

    session_id: str

    def send_audio(self, pcm: bytes) -> None:
        """User audio: PCM16 mono at the link's input rate, any whole number of samples."""

    def send_command(self, command: ClientCommand) -> None:
        """What the user wants."""

    def close(self) -> None:
        """Leave; the session lives on for its grace period. Idempotent."""
