"""One conversation: an actor; its control loop alone reads the inbox and calls the turn machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

from rejoinder.answerer import Answerer, Place, Succession
from rejoinder.audience import Audience
from rejoinder.audio import ENGINE_RATE, Rates, byte_count, resample
from rejoinder.bus import Bus, Observer
from rejoinder.catalog import NamedAgent
from rejoinder.channel import Channel
from rejoinder.errors import ProtocolError, RejoinderError, SessionError
from rejoinder.events import (
    AgentChanged,
    ClientCommand,
    Configure,
    Dtmf,
    End,
    Error,
    Interrupt,
    Interruption,
    OperatorHandedBack,
    OperatorTookOver,
    Ping,
    Playback,
    Pong,
    ProviderSwitched,
    ServerEvent,
    SessionEnded,
    SessionMetrics,
    SessionStarted,
    SpeechPaused,
    SpeechStarted,
    SpeechStopped,
    Text,
    Transcript,
    TurnCommitted,
    TurnMetrics,
    encode,
)
from rejoinder.guard import FAULTS, failure_of
from rejoinder.host import Host, Origin, Services
from rejoinder.ids import new_id
from rejoinder.journal import Journal
from rejoinder.link import LinkReceiver
from rejoinder.local import LocalLink
from rejoinder.metrics import SessionTally, TurnTimer
from rejoinder.presence import Presence
from rejoinder.providers import ToolContext
from rejoinder.settings import Agent
from rejoinder.stages.chain import SttChain
from rejoinder.stages.ear import Ear, Spoken
from rejoinder.stages.judging import PLAYED_AUDIO_MS, EndOfTurn, Judges
from rejoinder.stages.playout import Playout
from rejoinder.stages.voice import Voice
from rejoinder.steering import Steering, check_text
from rejoinder.tape import Deck
from rejoinder.timers import Timers
from rejoinder.turn import TurnScope
from rejoinder.turns import signals as turns
from rejoinder.turns.machine import TurnMachine

log = logging.getLogger(__name__)
_SEE_LOG = "The server's log has the traceback."
_STALL_S = 1.0
"""A client that stops sending in the middle of speech is taken to have paused."""
_TAPE_EXTRA_MS = 200
"""The tape waits so much longer than audio is sent ahead: a client has said by then where it is."""
_SETTLE_S = 0.25
"""A client that was interrupted says within this where it stopped, or the clock's guess counts."""


class Session:
    """One live conversation; outlives its connections by `limits.idle_s`. Replies are made at the output rate.

    `start()` it, `attach()` receivers, `end()` it or let it end; `wait()` returns when everything of it is freed.
    """

    def __init__(
        self,
        session_id: str,
        chosen: NamedAgent,
        services: Services,
        host: Host,
        rates: Rates,
        *,
        greet: bool = True,
        origin: Origin = Origin(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.id = session_id
        self.origin = origin
        agent = chosen.definition
        self._greeting = agent.greeting if greet else ""
        self.rates = rates
        self.ended_reason: str | None = None
        self._host = host
        self._limits = host.limits
        self._clock = host.clock
        self.bus = Bus(session_id, host.clock)
        self._hooks = host.hooks.session(session_id, chosen.name)
        self.bus.subscribe(host.observer(session_id, self._hooks))
        advice = services.vad.advice
        self._vad = agent.vad
        self._machine = TurnMachine(agent.turns, advice.end_silence_ms)
        self._inbox: Channel[turns.Input] = Channel(host.limits.inbox)
        self._playout = Playout(
            rates.output, host.limits, host.clock, host.pacer, self._deliver, self._first_sent, self._drained
        )
        self.journal = Journal(keep=agent.history_messages)
        self._place = Place(
            host=host,
            hooks=self._hooks,
            journal=self.journal,
            playout=self._playout,
            context=ToolContext(
                session_id,
                self._last_metrics,
                lambda reason: self.end(reason, after_reply=True),
                transfer=lambda name: self._succession.ask(name, self.agent.transfers),
            ),
            spawn=self._spawn,
            publish=self._publish,
            post=self._post,
            switched=self._switched,
            providers=self._used,
            rate=rates.output,
        )
        self._answerer = Answerer(chosen, services, self._place)
        self._succession = Succession(self._place)
        self._ear = Ear(
            agent,
            services.vad,
            SttChain(services.stt, agent.deadlines, self._switched, host.breaker),
            EndOfTurn(services.turn, breaker=host.breaker),
            Judges(services.interruption, host.breaker),
            clock=host.clock,
            limits=host.limits,
            post=self._post,
            on_partial=self._partial,
            speaking=self._speaking,
            last_heard=self.journal.last_heard,
            failed=self._not_understood,
            spawn=self._spawn,
            straggler=host.straggler,
        )
        self._scope: TurnScope | None = None
        self._settling: TurnScope | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._tally = SessionTally()
        self._discarded = 0
        self._prefilling: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._audience = Audience(self)
        self._timers = Timers()
        self._presence = Presence(
            self._audience,
            self.bus,
            self._playout,
            host.limits,
            self._timers,
            scope=lambda: self._scope,
            agent=lambda: self.agent,
            post=self._post,
            end=self.end,
            closed=lambda: self._inbox.closed,
        )
        self.steering = Steering(host.limits, host.clock, self._hooks, check=self._check_free, post=self._post)
        """What operators do."""
        self._turn_ids: dict[int, str] = {}
        self._speech_turn = 0
        self._decided_at = self._wrote_at = 0.0
        self._metrics: TurnMetrics | None = None
        self._speaker: LocalLink | None = None
        self.deck = Deck(self.bus, host.clock, rates.output, (host.limits.credit_ms + _TAPE_EXTRA_MS) / 1000)
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def chosen(self) -> NamedAgent:
        """Who answers now."""
        return self._answerer.chosen

    @property
    def agent(self) -> Agent:
        """The definition of who answers now."""
        return self._answerer.agent

    # -- life

    def start(self) -> None:
        """Begin the conversation; call once, on the event loop."""
        self._task = asyncio.create_task(self._run(), name=self.id)

    def end(self, reason: str, *, after_reply: bool = False) -> None:
        """End the session, now or once the current reply has been heard. Returns at once; idempotent."""
        self._post(turns.EndAsked(reason, after_reply))

    async def wait(self) -> None:
        """Until the session has ended and freed everything."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def close(self, reason: str) -> None:
        """End the session and wait for it, at most `limits.close_ms`; idempotent."""
        self.end(reason)
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=self._limits.close_ms / 1000)
        if not self._task.done():
            log.warning("session %s did not close in time and is cancelled", self.id)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._limits.close_ms / 1000)

    async def _run(self) -> None:
        reason = "error"
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._publish(self._started(self.rates))
                if self._greeting:
                    self._post(turns.SayAsked(self._greeting))
                self._presence.idle()
                # The instructions are the same for all that will be asked.
                self._read_ahead()
                reason = await self._control()
                self._ear.cancel()
                await self._cancel("ended")
                for task in (self._prefilling, self._keeping):
                    if task is not None:
                        task.cancel()
                await self._finish_work()
        except asyncio.CancelledError:
            reason = "cancelled"
        except Exception:
            log.exception("session %s failed", self.id)
            self._publish(Error(code="internal", message="The session failed.", fix=_SEE_LOG))
        finally:
            await self._free(reason)

    async def _finish_work(self) -> None:
        """What outlives replies (tools, mostly) gets a moment to end."""
        if self._work:
            await asyncio.wait(self._work, timeout=self._limits.cancel_ms / 1000)
        for task in tuple(self._work):
            task.cancel()

    def _keep_phrases(self) -> None:
        """Have ready what is said when something fails: by then there may be no voice to say it."""
        if self._keeping is not None or self._host.phrases is None or not self._audience.hears:
            return
        answerer = self._answerer
        self._keeping = self._spawn(answerer.voice.keep(answerer.phrases()), f"phrases of {self.id}")

    async def _control(self) -> str:
        """Read the inbox until the session is to end; the reason why.

        An event that cannot be handled costs its reply, not the session; two in a row end it.
        """
        failed = False
        async for event in self._inbox:
            try:
                if reason := await self._react(event):
                    return reason
                failed = False
            except Exception:
                if failed:
                    raise
                failed = True
                log.exception("%s in %s failed", type(event).__name__, self.id)
                self._publish(Error(code="internal", message="Something failed.", fix=_SEE_LOG))
                if self._scope is not None:
                    self._post(turns.ReplyOver(self._scope.epoch, failed=True))
        return "overloaded"

    async def _react(self, event: turns.Input) -> str | None:
        scope = self._scope
        if isinstance(event, turns.ReplyOver) and scope and scope.epoch == event.epoch and scope.committed:
            # Before the machine hears of it: what it says next must come after this reply's end.
            await self._finish_scope()
        if isinstance(event, turns.Whispered):
            self.journal.whisper(event.text)
        commands = self._machine.handle(event, self._clock.monotonic())
        if isinstance(event, turns.UserWrote | turns.SayAsked) and event.turn_id:
            # Its sender knows the turn by the id that it was given; the machine has only now numbered it.
            for command in commands:
                if isinstance(command, turns.Propose | turns.Say | turns.KeepTurn):
                    self._name_turn(command.turn, event.turn_id)
        for command in commands:
            if isinstance(command, turns.End):
                return command.reason
            await self._execute(command)
        if isinstance(event, turns.Whispered | turns.HandedBack):
            self._read_ahead()
        if self._succession.next is not None and self._scope is None:
            greeting = self._hand_over()
            # Not through the inbox, where the user may have begun to speak meanwhile; and never over their words, or
            # instead of an operator.
            if greeting and self._machine.user == "silent" and self._machine.operator is None:
                return await self._react(turns.SayAsked(greeting))
        return None

    async def _free(self, reason: str) -> None:
        """The one way out: whatever happened before and whatever hangs now, this frees everything."""
        self._inbox.close()
        self._timers.close()
        tidying = asyncio.create_task(self._tidy(), name=f"closing {self.id}")
        try:
            await asyncio.wait({tidying}, timeout=self._limits.close_ms / 2000)
        except asyncio.CancelledError:
            log.warning("closing %s was cut short", self.id)
        if not tidying.done():
            log.warning("closing %s takes too long; what hangs is let go", self.id)
            tidying.cancel()
            self._host.straggler(tidying)
        # From here on nothing waits, so nothing can keep the end from being told.
        self._playout.clear()
        self.ended_reason = reason
        try:
            self._publish(self._tally.event())
            self._publish(SessionEnded(reason=reason))
        finally:
            self._audience.end(reason)
            self._host.on_ended(self)

    async def _tidy(self) -> None:
        self._settle()
        if self._scope is not None:
            scope, self._scope = self._scope, None
            try:
                await scope.cancel("ended" if scope.committed else None)
            except Exception:
                log.exception("the reply of %s did not end cleanly", self.id)
        try:
            await self._ear.close()
        except Exception:
            log.exception("the STT stream of %s did not close", self.id)

    # -- connections

    def attach(
        self,
        receiver: LinkReceiver,
        rates: Rates,
        *,
        audio: bool,
        owner: bool = False,
        guest: bool = False,
        resume_token: str = "",
        last_seq: int = 0,
        played_ms: float | None = None,
    ) -> LocalLink:
        """Connect a client, which wants reply `audio` or only text. It is told `session.started` first.

        `owner`: the session is there for this client alone and ends when it hangs up (its adapter sees to that).
        `guest`: it only listens, and the session does not go on for its sake.

        With the `resume_token` of a connection that was lost it takes that one's place: it is sent the events after
        `last_seq`, and (by `turns.on_resume`) what it had not heard of the reply, of which it has played `played_ms`.

        Raises:
            SessionError: the session is over, or nobody was lost who had this token (`bad_resume_token`).
        """
        self._check_live()
        started = self._started(rates)
        started.at = self._clock.wall_ms()
        link = self._audience.add(
            receiver, rates, started, audio=audio, owner=owner, guest=guest, token=resume_token, last_seq=last_seq
        )
        self._tally.resumes += bool(resume_token)
        self._presence.came(audio=audio, guest=guest, last_seq=last_seq, played_ms=played_ms)
        return link

    def _started(self, rates: Rates) -> SessionStarted:
        return SessionStarted(
            agent=self._answerer.chosen.name,
            agent_version=self._answerer.chosen.version or 0,
            input_rate=rates.input,
            output_rate=rates.output,
            recorded=self.agent.recording.enabled,
            operator=self.operator or "",
        )

    def detach(self, link: LocalLink) -> None:
        """A client left; it may come back with its resume token. Idempotent."""
        if not self._audience.remove(link):
            return
        if self._speaker is link:
            self._speaker = None
        self._presence.left(audio=link.audio, guest=link.guest)

    def watch(self, observer: Observer, *, present: bool) -> Callable[[], None]:
        """Show all events from now on to `observer`; returns the (idempotent) way to stop that.

        `present`: for somebody who takes part, so that the session does not end for want of company meanwhile.
        """
        return self._presence.watch(observer, present=present)

    def recent(self, after_seq: int) -> list[tuple[int, bytes]] | None:
        """The events after that number, with their JSON, as far as they are kept in memory; None: not all of them."""
        return self._audience.recent(after_seq)

    @property
    def oldest_kept(self) -> int:
        """The number of the oldest event that `recent` still has."""
        return self._audience.oldest_kept

    def hear(self, link: LocalLink, pcm: bytes) -> None:
        """User audio, PCM16 at 16 kHz; of several clients the first that sends audio is the speaker."""
        if self._speaker is None:
            self._speaker = link
        if self._speaker is not link or self._inbox.closed:
            return
        if (tape := self.deck.tape) is not None:
            tape.user(pcm, self._clock.monotonic())
        try:
            self._ear.listener.feed(pcm)
        except FAULTS as error:
            log.exception("the VAD of %s failed", self.id)
            if self._host.breaker is not None:
                self._host.breaker.failed("vad", self._vad, failure_of(error, self._vad))
            self._publish(Error(code="vad_failed", message=f"Listening failed: {error}.", fix=_SEE_LOG))
            self.end("vad_failed")
            self._inbox.close()

    def obey(self, link: LocalLink, command: ClientCommand) -> None:
        """Do what a client wants.

        Raises:
            ProtocolError: it cannot be done.
        """
        match command:
            case Playback(reply_id=reply_id, played_ms=played_ms):
                if self._scope is not None and self._scope.entry.reply_id == reply_id:
                    self._playout.report(played_ms)
                    if (tape := self.deck.tape) is not None and not self._playout.held:
                        ahead_ms = self._playout.sent_ms - self._playout.played_ms()
                        tape.reported(ahead_ms, self._clock.monotonic())
                elif self._settling is not None and self._settling.entry.reply_id == reply_id:
                    self._settling.report(played_ms)
            case Text(text=text):
                self.write(text)
            case Interrupt():
                self._check_pace()
                self._post(turns.InterruptAsked())
            case End(reason=reason):
                self.end(reason[:80] or "client_ended")
            case Ping(t=t):
                pong = Pong(t=t)
                link.receiver.on_event(pong, encode(pong))
            case Dtmf(digits=digits):
                raise ProtocolError(f"Keys ({digits[:20]!r}) are not used by this agent.", code="dtmf_unused")
            case Configure():
                raise ProtocolError(
                    "This connection is already configured.",
                    code="already_configured",
                    fix="Connect again to change it.",
                )

    def write(self, text: str) -> str:
        """The user says `text` in writing: an answer under way is interrupted. Returns the id of the turn.

        Raises:
            SessionError: the session is over.
            ProtocolError: the text is empty or too long, or commands come too fast.
        """
        self._check_live()
        text, turn_id = check_text(text, self._limits), new_id("turn")
        self._check_pace()
        self._wrote_at = self._clock.monotonic()
        self._post(turns.UserWrote(text, turn_id))
        self._presence.idle()
        return turn_id

    def interrupt(self) -> None:
        """Stop the answer now, if there is one; see `Steering.interrupt`."""
        self.steering.interrupt()

    def say(self, text: str) -> str:
        """Let the agent say `text`, whoever has taken over; see `Steering.say`."""
        return self.steering.say(text)

    @property
    def operator(self) -> str | None:
        """The name of who speaks instead of the agent."""
        lease = self.steering.lease if self.ended_reason is None else None
        return lease.operator.name if lease is not None else None

    @property
    def listeners(self) -> int:
        """How many people listen in."""
        return self.deck.listeners

    @property
    def metrics(self) -> SessionMetrics:
        """What has happened so far."""
        return self._tally.event()

    def _check_live(self) -> None:
        if self._inbox.closed or self.ended_reason is not None:
            raise SessionError(f"The session {self.id} is over.", code="session_over", fix="Start a new one.")

    def _check_pace(self) -> None:
        if len(self._inbox) > self._limits.inbox // 2:
            raise ProtocolError("Messages come too fast.", code="too_fast", fix="Wait for the answers.", retryable=True)

    def _check_free(self) -> None:
        self._check_live()
        self._check_pace()

    def complain(self, error: RejoinderError) -> None:
        """Tell everybody connected of an error that does not end the session."""
        self._publish(Error.of(error))

    # -- the control loop's hands

    async def _execute(self, command: turns.Command) -> None:
        match command:
            case turns.TellSpeech(what, turn, silence_ms):
                self._tell_speech(what, turn, silence_ms)
            case turns.Transcribe(_, attempt):
                self._ear.transcribe(attempt)
            case turns.JudgeOverlap(_, attempt):
                self._ear.transcribe(attempt, command)
            case turns.Propose(epoch, turn, text):
                self._propose(epoch, turn, text)
            case turns.Commit(_, turn, speculated):
                self._commit(turn, speculated)
            case turns.Discard():
                if self._scope is not None:
                    scope, self._scope = self._scope, None
                    self._discarded += 1
                    self._tally.speculations_discarded += 1
                    await scope.cancel(None)
            case turns.CancelReply(_, reason, by_user):
                await self._cancel(reason, by_user)
            case turns.Duck():
                if self._scope is not None:
                    self._scope.duck()
            case turns.Hold():
                if self._scope is not None:
                    self._scope.hold()
            case turns.Resume():
                if self._scope is not None and not self._presence.abandoned:
                    self._scope.resume()
            case turns.TellInterruption():
                self._tell_interruption(command)
            case turns.Say(epoch, turn, text, purpose):
                await self._finish_scope()
                self._settle()
                self._tally.nudges += purpose == "nudge"
                entry = self.journal.propose(self._turn_id(turn), new_id("rep"), None)
                timer = TurnTimer(self._clock.monotonic())
                self._scope = TurnScope(self._answerer.stage, epoch, entry, timer, self._audible(), text)
                self._scope.commit(speculated=False)
            case turns.KeepTurn(turn, text):
                self._keep(turn, text)
            case turns.Answer(epoch):
                await self._answer(epoch)
            case turns.TellOperator(what):
                self._tell_operator(what)
            case turns.TellTimeout(what):
                self._tally.timeouts[what] += 1
            case turns.DropTurn(turn, failed, mumbled):
                self._publish(Transcript(turn_id=self._turn_id(turn), text="", final=True))
                if failed:
                    self._publish(
                        Error(code="no_transcript", message="The speech could not be transcribed.", retryable=True)
                    )
                if mumbled:
                    self._tally.failures["stt:no_words"] += 1
                    self._publish(
                        Error(code="no_words", message="No word of the speech was understood.", retryable=True)
                    )
            case turns.EndUtterance():
                self._ear.listener.end_utterance()
            case turns.ArmTimer(name, at):
                self._timers.arm(name, at - self._clock.monotonic(), lambda: self._post(turns.TimerFired(name)))
            case turns.StopTimer(name):
                self._timers.stop(name)

    def _tell_speech(self, what: str, turn: int, silence_ms: int) -> None:
        turn_id = self._turn_id(turn)
        match what:
            case "started" | "resumed":
                self._speech_turn = turn
                self._publish(SpeechStarted(turn_id=turn_id))
                self._watch()
            case "paused":
                self._publish(SpeechPaused(turn_id=turn_id))
            case "stopped":
                self._decided_at = self._clock.monotonic()
                self._publish(SpeechStopped(turn_id=turn_id, silence_ms=silence_ms))

    def _watch(self) -> None:
        """While the user speaks, look that their audio keeps coming."""
        if not self._ear.listener.stall(_STALL_S) and self._ear.listener.speaking:
            self._timers.arm("stall", _STALL_S / 2, self._watch)

    def _propose(self, epoch: int, turn: int, text: str) -> None:
        spoken = turn == self._speech_turn
        timer = TurnTimer(self._ear.listener.last_speech_at if spoken else self._wrote_at)
        if spoken:
            timer.mark("transcript", self._ear.understood_at)
        self._settle()
        if self._succession.next is not None:
            self._hand_over()
        self._stop_prefill()
        entry = self.journal.propose(self._turn_id(turn), new_id("rep"), text)
        discarded, self._discarded = self._discarded, 0
        since = self._ear.asked_at if spoken else self._wrote_at
        self._scope = TurnScope(
            self._answerer.stage, epoch, entry, timer, self._audible(), since=since, discarded=discarded
        )

    def _commit(self, turn: int, speculated: bool) -> None:
        scope = self._scope
        if scope is None or scope.entry.user_text is None:
            return
        if turn == self._speech_turn:
            scope.timer.mark("decision", self._decided_at)
            self._publish(Transcript(turn_id=scope.entry.turn_id, text=scope.entry.user_text, final=True))
        self._tally.turns += 1
        self._tally.speculations_kept += speculated
        scope.commit(speculated)

    def _keep(self, turn: int, text: str) -> None:
        """The user's turn is over, and an operator has it."""
        turn_id = self._turn_id(turn)
        if turn == self._speech_turn:
            self._publish(Transcript(turn_id=turn_id, text=text, final=True))
        self._tally.turns += 1
        self.journal.keep(turn_id, text)
        self._publish(TurnCommitted(turn_id=turn_id, text=text))

    async def _answer(self, epoch: int) -> None:
        """The operator has left it to the agent to answer the user's last turn."""
        await self._finish_scope()
        self._settle()
        if self._succession.next is not None:
            self._hand_over()
        self._stop_prefill()
        entry = self.journal.reopen(new_id("rep"))
        timer = TurnTimer(self._clock.monotonic())
        self._scope = TurnScope(self._answerer.stage, epoch, entry, timer, self._audible())
        self._scope.commit(speculated=False)

    def _tell_operator(self, what: turns.TakenOver | turns.HandedBack) -> None:
        if isinstance(what, turns.TakenOver):
            self._stop_prefill()
            self._publish(OperatorTookOver(operator=what.operator))
        else:
            self._publish(OperatorHandedBack(operator=what.operator, reason=what.reason))

    async def _cancel(self, reason: Literal["interrupted", "failed", "ended"], by_user: bool = True) -> None:
        if self._scope is None:
            return
        scope, self._scope = self._scope, None
        self._presence.abandoned = False
        self._settle()
        await scope.cancel(reason if scope.committed else None, by_user=by_user)
        if scope.unsettled:
            self._settling = scope
            self._timers.arm("settle", _SETTLE_S, self._settle)

    def _settle(self) -> None:
        """What was heard of an interrupted reply is wanted now, whether or not its client has said how far it came."""
        self._timers.stop("settle")
        scope, self._settling = self._settling, None
        if scope is not None:
            scope.settle()

    def _hand_over(self) -> str:
        """From now on the next one answers, and listens with the ears of the first one; what it would say first."""
        former, self._answerer = self._answerer, self._succession.take()
        self._keeping = None
        chosen = self._answerer.chosen
        self._hooks.agent = chosen.name
        changed = AgentChanged(agent=chosen.name, agent_version=chosen.version or 0, former=former.chosen.name)
        changed.recorded = chosen.definition.recording.enabled
        self._publish(changed)
        return chosen.definition.greeting

    def _tell_interruption(self, told: turns.TellInterruption) -> None:
        if self._scope is None:
            return
        if told.accepted:
            self._tally.interruptions += 1
        else:
            self._tally.false_interruptions[told.cause] += 1
        self._publish(
            Interruption(
                turn_id=self._turn_id(told.turn),
                reply_id=self._scope.entry.reply_id,
                accepted=told.accepted,
                cause=told.cause,
                speech_ms=told.speech_ms,
                text=told.text,
            )
        )

    async def _finish_scope(self) -> None:
        if self._scope is not None:
            scope, self._scope = self._scope, None
            await scope.finish()
            # Now, so that it delays no answer.
            self._keep_phrases()

    def _speaking(self) -> Spoken | None:
        """What the agent is saying."""
        scope, playout = self._scope, self._playout
        if scope is None:
            return None
        position = playout.position_ms(playout.played_ms())
        said = " ".join(segment.text for segment in scope.entry.segments if segment.start_ms <= position)
        played = resample(playout.recent(PLAYED_AUDIO_MS), playout.rate, ENGINE_RATE)
        # Since it was held there has been silence.
        played += bytes(byte_count(playout.held_ms, ENGINE_RATE))
        return Spoken(said, played[-byte_count(PLAYED_AUDIO_MS, ENGINE_RATE) :])

    def _not_understood(self, error: RejoinderError | None) -> None:
        if error is not None:
            self.complain(error)

    # -- small things

    def _post(self, event: turns.Input) -> None:
        if not self._inbox.closed and not self._inbox.send_nowait(event):
            # Only a defect can fill it: what clients send is limited in `obey`, everything else answers a command.
            log.error("the inbox of %s is full; the session is ended", self.id)
            self._inbox.close()

    def _publish(self, event: ServerEvent) -> None:
        if isinstance(event, TurnMetrics):
            self._metrics = event
            self._tally.saved_us += event.saved_us
        self.bus.publish(event)

    def _partial(self, text: str) -> None:
        if self._machine.user not in ("speaking", "pausing") or not text:
            return
        self._publish(Transcript(turn_id=self._turn_id(self._speech_turn), text=text, final=False))
        if (overlap := self._machine.overlap) is not None:
            # Only "stop!" is acted upon before the judges are asked in earnest.
            speech_ms = round((self._clock.monotonic() - overlap.began_at) * 1000)
            judgement = self._ear.judge(turns.JudgeOverlap(self._speech_turn, 0, speech_ms, final=False), text)
            if judgement is not None and judgement.stop:
                self._post(turns.OverlapJudged(None, True, judgement.cause, text))
        else:
            self._prefill(text)

    def _read_ahead(self) -> None:
        """While nobody speaks, let the LLM read what any answer will begin with."""
        if self._machine.user == "silent":
            self._prefill("")

    def _prefill(self, text: str) -> None:
        """Let the LLM read what the user has said so far, if it is to answer; the newest text counts."""
        machine = self._machine
        if machine.reply is not None or machine.operator is not None or not self.agent.turns.prefill:
            return
        self._stop_prefill()
        self._prefilling = self._spawn(self._answerer.brain.prefill(text), f"prefill for {self.id}")

    def _stop_prefill(self) -> None:
        if self._prefilling is not None:
            self._prefilling.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` beside the conversation; what it raises is logged, and hurts nobody."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("%s of %s failed", name, self.id)

        assert self._group is not None
        task = self._group.create_task(guarded(), name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        # Of a task that is cancelled before it has begun; else it is closed already.
        task.add_done_callback(lambda _: work.close())
        return task

    def _switched(self, kind: str, provider: str, to: str, cause: str) -> None:
        self._tally.failed(f"{kind}:{provider}", cause)
        self._publish(ProviderSwitched(kind=kind, provider=provider, to=to, cause=cause))

    def _used(self) -> dict[str, str]:
        """Which providers answered last."""
        return {
            "vad": self._vad,
            "stt": self._ear.provider,
            "llm": self._answerer.brain.llm.used,
            "tts": self._answerer.voice.used,
        }

    def _audible(self) -> Voice | None:
        return self._answerer.voice if self._audience.hears else None

    def _deliver(self, pcm: bytes, last: bool) -> None:
        if (tape := self.deck.tape) is not None:
            tape.agent(pcm, self._clock.monotonic())
        self._audience.deliver(pcm, last)

    def _first_sent(self, epoch: int) -> None:
        if self._scope is not None and self._scope.epoch == epoch:
            self._scope.sent()

    def _drained(self, epoch: int) -> None:
        scope = self._scope
        self._post(turns.ReplyOver(epoch, failed=scope is not None and scope.epoch == epoch and scope.broke_off))

    def _turn_id(self, turn: int) -> str:
        if turn not in self._turn_ids:
            self._name_turn(turn, new_id("turn"))
        return self._turn_ids[turn]

    def _name_turn(self, turn: int, turn_id: str) -> None:
        self._turn_ids[turn] = turn_id
        self._turn_ids.pop(turn - 16, None)

    def _last_metrics(self) -> Mapping[str, Any] | None:
        metrics = self._metrics
        if metrics is None:
            return None
        return {
            "response_ms": metrics.response_us / 1000,
            "spans": {span.name: span.us / 1000 for span in metrics.spans},
        }
