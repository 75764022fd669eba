"""Who answers in a session: an agent with its brain, its voice and what each of its replies works with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rejoinder.catalog import NamedAgent
from rejoinder.errors import RejoinderError, ToolError
from rejoinder.events import ServerEvent
from rejoinder.hooks import SessionHooks
from rejoinder.host import Host, Services
from rejoinder.journal import Journal
from rejoinder.providers import ToolContext
from rejoinder.stages.brain import Brain
from rejoinder.stages.chain import LlmChain
from rejoinder.stages.playout import Playout
from rejoinder.stages.voice import Voice, chunks_of
from rejoinder.tools import Spawn
from rejoinder.turn import Stage
from rejoinder.turns.machine import PHRASES
from rejoinder.turns.signals import Input

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a session gives to whoever answers in it."""

    host: Host
    hooks: SessionHooks
    journal: Journal
    playout: Playout
    context: ToolContext
    spawn: Spawn
    publish: Callable[[ServerEvent], None]
    post: Callable[[Input], None]
    switched: Callable[[str, str, str, str], None]
    """Told of a provider that failed: kind, name, the next one, why."""
    providers: Callable[[], dict[str, str]]
    """Which ones answered last, by kind."""
    rate: int
    """Hz of the replies."""


class Answerer:
    """An agent at work at a `place`."""

    def __init__(self, chosen: NamedAgent, services: Services, place: Place) -> None:
        agent, host = chosen.definition, place.host
        self.chosen = chosen
        self.agent = agent
        self._hooks = place.hooks
        self.voice = Voice(
            services.tts,
            voice=agent.voice,
            language=agent.language,
            rate=place.rate,
            chunk_ms=host.limits.chunk_ms,
            deadlines=agent.deadlines,
            switched=place.switched,
            breaker=host.breaker,
            phrases=host.phrases,
            odd=host.odd,
        )
        self.brain = Brain(
            agent,
            LlmChain(services.llm, agent.deadlines, place.switched, host.breaker),
            services.tools,
            place.journal,
            place.context,
            place.spawn,
            place.publish,
            place.hooks,
            host.clock,
        )
        self.stage = Stage(
            clock=host.clock,
            limits=host.limits,
            journal=place.journal,
            brain=self.brain,
            hooks=place.hooks,
            playout=place.playout,
            publish=place.publish,
            post=place.post,
            straggler=host.straggler,
            providers=place.providers,
            speculation_tokens=agent.turns.speculation_tokens,
            sent=lambda entry: host.sent(place.context.session_id, place.hooks, entry),
        )

    def phrases(self) -> Iterable[str]:
        """What it says, as it is spoken, when something fails or takes long, and when nobody says anything."""
        policy = self.agent.turns
        nudges = (*policy.nudges, policy.goodbye) if policy.nudge_after_ms else ()
        phrases = filter(None, (self.agent.greeting, *PHRASES, *self.agent.fillers, *nudges))
        # As they are spoken: chunk by chunk.
        chunks = (chunk for phrase in phrases for chunk in chunks_of(phrase))
        return filter(None, map(self._hooks.before_tts, chunks))


class Succession:
    """Who answers at `place` from the end of the current reply on, once a tool has asked for them."""

    def __init__(self, place: Place) -> None:
        self.next: Answerer | None = None
        self._place = place
        self._asked = 0

    async def ask(self, name: str, allowed: Collection[str]) -> str:
        """A tool wants the agent called `name`, one of those `allowed`; what the model is told.

        Raises:
            ToolError: this agent may not hand over to that one, or that one cannot answer.
        """
        if name not in allowed:
            raise ToolError(f"You cannot transfer to {name[:80]!r}. You can to: {', '.join(allowed) or 'nobody'}.")
        self._asked += 1
        number = self._asked
        try:
            chosen, services = await self._place.host.choose(name)
        except RejoinderError as error:
            session_id = self._place.context.session_id
            log.warning("%s cannot be transferred to %s: %s", session_id, name, error.explain())
            raise ToolError(f"{name} cannot take over now.") from None
        if number == self._asked:
            # Of several the last one that was asked for counts, not the one that took longest to load.
            self.next = Answerer(chosen, services, self._place)
        return f"{name} takes over when this answer is over. Say so in a few words."

    def take(self) -> Answerer:
        """Their time has come."""
        assert self.next is not None
        found, self.next = self.next, None
        return found
