"""Steers a session: what operators whisper to the agent and let it say, and who of them speaks instead of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from rejoinder.clock import Clock
from rejoinder.errors import ProtocolError, SessionError
from rejoinder.hooks import SessionHooks
from rejoinder.ids import new_id
from rejoinder.settings import Limits
from rejoinder.turns.machine import LEASE_S
from rejoinder.turns.signals import HandedBack, Input, InterruptAsked, SayAsked, TakenOver, Whispered


class Operator(NamedTuple):
    """Who steers: known by `id`, shown as `name`."""

    id: str
    name: str


class Lease(NamedTuple):
    """`operator` has taken over until `expires_at` (Unix ms), or longer, if they are heard of before.

    `renewed`: they had it already. `former`: from whom it was taken.
    """

    operator: Operator
    expires_at: int
    renewed: bool = False
    former: Operator | None = None


class Steering:
    """Operators in one session; `check()` raises where nothing can be asked of it now.

    The turn machine has the lease, too, and hands back when it runs out. Here it is known without waiting for that:
    whoever asks next is told at once.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        hooks: SessionHooks,
        *,
        check: Callable[[], None],
        post: Callable[[Input], None],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._hooks = hooks
        self._check = check
        self._post = post
        self._lease: Lease | None = None
        self._until = 0.0

    @property
    def lease(self) -> Lease | None:
        """Who speaks instead of the agent, and until when."""
        if self._lease is not None and self._clock.monotonic() >= self._until:
            self._lease = None
        return self._lease

    def take_over(self, operator: Operator, *, force: bool = False) -> Lease:
        """From now on `operator` speaks instead of the agent, for `LEASE_S`; called again, for that long from then on.

        `force`: also if another has taken over.

        Raises:
            SessionError: the session is over, or another has taken over (`taken_over`).
            ProtocolError: commands come faster than they can be taken (`too_fast`).
        """
        self._check()
        former = self.lease
        if not force:
            self._check_holder(operator)
        expires_at = self._clock.wall_ms() + round(LEASE_S * 1000)
        renewed = former is not None and former.operator.id == operator.id
        self._until = self._clock.monotonic() + LEASE_S
        self._lease = Lease(operator, expires_at, renewed, None if former is None or renewed else former.operator)
        self._post(TakenOver(operator.name))
        return self._lease

    def hand_back(self, operator: Operator) -> bool:
        """The agent answers again; whether `operator` had taken over.

        Raises:
            SessionError: the session is over, or another has taken over (`taken_over`).
            ProtocolError: commands come faster than they can be taken (`too_fast`).
        """
        self._check()
        self._check_holder(operator)
        if self.lease is None:
            return False
        self._lease = None
        self._post(HandedBack(operator.name))
        return True

    def say(self, text: str, operator: Operator | None = None) -> str:
        """Let the agent say `text`, at once: an answer under way is interrupted. Returns the id of the turn.

        Raises:
            SessionError: the session is over, or another than `operator` (if that is given) has taken over.
            ProtocolError: the text is empty or too long, or commands come too fast.
        """
        self._check()
        if operator is not None:
            self._check_holder(operator)
        text, turn_id = check_text(text, self._limits), new_id("turn")
        self._post(SayAsked(text, turn_id))
        return turn_id

    def whisper(self, text: str) -> str:
        """Let the agent know `text` in all that it answers from now on; nobody hears it, and no event tells it.

        Returns it as it may be stored.

        Raises:
            SessionError: the session is over.
            ProtocolError: the text is empty or too long, or commands come too fast.
        """
        self._check()
        text = check_text(text, self._limits)
        self._post(Whispered(text))
        return self._hooks.stored_text(text)

    def interrupt(self) -> None:
        """Stop the answer now, if there is one.

        Raises:
            SessionError: the session is over.
            ProtocolError: commands come faster than they can be taken (`too_fast`).
        """
        self._check()
        self._post(InterruptAsked())

    def _check_holder(self, operator: Operator) -> None:
        lease = self.lease
        if lease is None or lease.operator.id == operator.id:
            return
        until = datetime.fromtimestamp(lease.expires_at / 1000, UTC).isoformat(timespec="seconds")
        raise SessionError(
            f"{lease.operator.name} has taken over this session, until {until} at least.",
            code="taken_over",
            fix='Wait until they hand back; an admin may take it with {"force": true}.',
            retryable=True,
        )


def check_text(text: str, limits: Limits) -> str:
    """`text` as it is taken, from a user or for the agent to say.

    Raises:
        ProtocolError: it has no words (`empty_text`) or too many (`text_too_long`).
    """
    if not text.strip():
        raise ProtocolError("The text is empty.", code="empty_text", fix="Send at least one word.")
    if len(text) > limits.text_chars:
        raise ProtocolError(
            f"The text has {len(text)} characters; at most {limits.text_chars} are taken.",
            code="text_too_long",
            fix="Send it in parts.",
        )
    return text.strip()
