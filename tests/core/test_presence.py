"""Who keeps a session and what it says: callers, readers, writers, and guests who only listen in."""

from __future__ import annotations

import asyncio

from rejoinder.audio import Rates
from rejoinder.events import ReplyFinished, ReplyStarted, ServerEvent, SessionEnded
from rejoinder.settings import Limits
from rejoinder.testing.pilot import SessionPilot, pilot
from rejoinder.testing.scripted import ScriptedLlm, ScriptedTts
from rejoinder.testing.virtual_time import run_virtual

LONG = ScriptedLlm(lambda request: ("one two three four five six seven eight nine ten",))
BRIEF = Limits(idle_s=5, chat_idle_s=5)


class Guest:
    """Listens in."""

    def __init__(self) -> None:
        self.heard = b""

    def on_event(self, event: ServerEvent, data: bytes) -> None:
        """Nothing."""

    def on_audio(self, pcm: bytes) -> None:
        self.heard += pcm

    def on_closed(self, reason: str) -> None:
        """Nothing."""


def nobody(event: ServerEvent, data: bytes) -> None:
    """Sees nothing."""


async def lost_in_mid_reply(user: SessionPilot) -> None:
    user.write("count")
    await user.until(ReplyStarted)
    await user.pause(600)
    user._link.close()


def test_a_guest_does_not_keep_a_session_however_often_it_comes() -> None:
    async def main() -> None:
        ended: list[SessionEnded] = []

        def observe(event: ServerEvent, data: bytes) -> None:
            if isinstance(event, SessionEnded):
                ended.append(event)

        async with pilot(limits=BRIEF, observer=observe) as user:
            user._link.close()
            for _ in range(20):
                if ended:
                    break
                guest = user.session.attach(Guest(), Rates(16_000, 24_000), audio=True, guest=True)
                await asyncio.sleep(0.4)
                guest.close()
            assert [event.reason for event in ended] == ["idle"]

    run_virtual(main())


def test_what_only_a_guest_heard_waits_for_the_user() -> None:
    for comes_first in (True, False):

        async def main(comes_first: bool = comes_first) -> None:
            async with pilot(limits=Limits(idle_s=60), llm=LONG, tts=ScriptedTts(ms_per_word=500)) as user:
                rates = Rates(16_000, 24_000)
                if comes_first:
                    user.session.attach(Guest(), rates, audio=True, guest=True)
                await lost_in_mid_reply(user)
                if not comes_first:
                    user.session.attach(Guest(), rates, audio=True, guest=True)
                await asyncio.sleep(20)
                assert not user.events(ReplyFinished)
                await user.reconnect()
                (finished,) = [await user.until(ReplyFinished)]
                assert finished.heard_text == "one two three four five six seven eight nine ten"

        run_virtual(main())


def test_a_reader_gets_the_rest_of_a_reply_whose_caller_is_gone() -> None:
    async def main() -> None:
        async with pilot(limits=Limits(idle_s=60), llm=LONG, tts=ScriptedTts(ms_per_word=500)) as user:
            finished: list[ReplyFinished] = []
            await lost_in_mid_reply(user)
            await asyncio.sleep(1)

            def observe(event: ServerEvent, data: bytes) -> None:
                if isinstance(event, ReplyFinished):
                    finished.append(event)

            leave = user.session.watch(observe, present=True)
            await asyncio.sleep(10)
            assert [event.reason for event in finished] == ["completed"]
            leave()

    run_virtual(main())


def test_a_session_does_not_end_in_the_middle_of_an_answer() -> None:
    async def main() -> None:
        slow = ScriptedLlm(lambda request: (4.0, "Here it is."))
        async with pilot(limits=Limits(idle_s=2, chat_idle_s=2), llm=slow, audio=False) as user:
            user._link.close()
            seen: list[ServerEvent] = []
            user.session.bus.subscribe(lambda event, data: seen.append(event))
            user.session.write("hello")
            await asyncio.sleep(30)
            kinds = [type(event) for event in seen]
            assert kinds.index(ReplyFinished) < kinds.index(SessionEnded)
            (finished,) = [event for event in seen if isinstance(event, ReplyFinished)]
            assert (finished.reason, finished.text) == ("completed", "Here it is.")

    run_virtual(main())
