"""The tape: every piece of sound lies where it was heard, whatever the network and the conversation did."""

from __future__ import annotations

import asyncio
import random
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rejoinder.audio import ENGINE_RATE, FRAME_MS, RATES, byte_count
from rejoinder.tape import Tape, Track
from rejoinder.testing.pilot import pilot
from rejoinder.testing.scripted import ScriptedStt, silence
from rejoinder.testing.virtual_time import run_virtual

MS = ENGINE_RATE // 1000
DELAY_S = 0.6
TOLERANCE = 20 * MS
Sides = NDArray[np.int16]


def marked(number: int, ms: float = FRAME_MS, rate: int = ENGINE_RATE) -> bytes:
    """A loud frame that can be told from all others."""
    return array("h", [1000 + number]).tobytes() * (byte_count(ms, rate) // 2)


class Recorded:
    """All that a tape gives out, driven by hand."""

    def __init__(self, rate: int = ENGINE_RATE, delay_s: float = DELAY_S) -> None:
        self.tape = Tape(rate, delay_s, 0.0)
        self.blocks: list[bytes] = []
        self.most = 0

    def until(self, now: float) -> None:
        self._keep(self.tape.due(now))

    def rest(self, now: float) -> Sides:
        self._keep(self.tape.rest(now))
        return self.sides

    def _keep(self, blocks: object) -> None:
        self.most = max(self.most, self.tape.held)
        for position, pcm in blocks:  # type: ignore[attr-defined]
            assert position == sum(map(len, self.blocks)) // 4
            self.blocks.append(pcm)

    @property
    def sides(self) -> Sides:
        return np.frombuffer(b"".join(self.blocks), "<i2").reshape(-1, 2)


def first(side: NDArray[np.int16], number: int) -> int:
    """Where the frame `number` begins, in samples."""
    found = np.flatnonzero(side == 1000 + number)
    assert len(found), f"frame {number} is not on the tape"
    return int(found[0])


def test_frames_that_come_unevenly_are_one_piece() -> None:
    tape, chance, at = Recorded(), random.Random(1), 0.0
    for number in range(200):
        # In order, as a socket gives them, and now and then some in time.
        late = chance.choice((0, 0, 0, 0.01, 0.08, 0.15)) if number % 20 < 10 else 0
        at = max(at, (number + 1) * 0.02 + late)
        tape.until(at)
        tape.tape.user(marked(number), at)
    user = tape.rest(4.2)[:, 0]
    sound = np.flatnonzero(user)
    assert len(sound) == sound[-1] - sound[0] + 1 == 200 * 20 * MS
    assert sound[0] <= TOLERANCE


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_everything_lies_where_it_was_heard(data: st.DataObject) -> None:
    """A model of both sides, with true times, against the tape."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    end = data.draw(st.sampled_from([1.0, 3.0, 7.3]))
    events: list[tuple[float, int, str, float]] = []
    true_user: dict[int, float] = {}
    at, number = chance.uniform(0, 0.3), 0
    while at < end - 0.5:
        # A stretch of speech, whose frames the network brings up to 150 ms late; then a gap.
        came = 0.0
        length = chance.randrange(1, 60)
        for index in range(length):
            # Some come in time, or nothing would show that the others were late.
            in_time = index >= length - 8 or index % 20 > 10
            late = 0.0 if in_time else chance.choice((0, 0, 0.005, 0.05, 0.15))
            true_user[number] = at
            came = max(came, at + 0.02 + late)
            events.append((came, number, "user", 0.0))
            number, at = number + 1, at + 0.02
        at += chance.choice((0.0, 0.06, 0.3, 1.2))
    # The agent: sent up to 200 ms ahead, played in real time, now and then dropped.
    true_agent: dict[int, float] = {}
    dropped: set[int] = set()
    spoken, now = 0, chance.uniform(0, 0.5)
    while now < end - 0.5:
        length = chance.randrange(5, 60)
        cleared = chance.random() < 0.5
        stop = now + chance.uniform(0.05, length * 0.02) if cleared else now + length * 0.02
        for index in range(length):
            sent = max(now, now + index * 0.02 - 0.2)
            if sent >= stop:
                break
            events.append((sent, spoken, "agent", 0.0))
            begins = now + index * 0.02
            if begins >= stop:
                dropped.add(spoken)
            elif begins < stop - 0.001:
                # Of one that had just begun there may be less than a sample.
                true_agent[spoken] = begins
            spoken += 1
        if cleared:
            events.append((stop, 0, "clear", 0.0))
        now = stop + chance.choice((0.0, 0.1, 0.8))
    tape, tick = Recorded(), 0.1
    for when, index, what, _ in sorted(events, key=lambda event: (event[0], event[2] != "clear")):
        if when > end:
            break
        while tick <= when:
            tape.until(tick)
            tick += 0.1
        if what == "user":
            tape.tape.user(marked(index), when)
        elif what == "agent":
            tape.tape.agent(marked(index), when)
        else:
            tape.tape.clear(when)
    sides = tape.rest(end)
    assert abs(len(sides) - end * ENGINE_RATE) <= TOLERANCE
    for index, when in true_user.items():
        if when < end - 0.6:
            assert abs(first(sides[:, 0], index) - when * ENGINE_RATE) <= TOLERANCE, index
    for index, when in true_agent.items():
        if when < end - 0.1:
            assert abs(first(sides[:, 1], index) - when * ENGINE_RATE) <= TOLERANCE, index
    for index in dropped:
        assert not np.any(sides[:, 1] == 1000 + index)
    assert tape.most < 2 * byte_count(1500, ENGINE_RATE)


def test_a_client_that_says_where_it_is_moves_the_whole_reply() -> None:
    tape = Recorded()
    for number in range(50):
        sent = max(0.0, number * 0.02 - 0.2)
        tape.until(sent)
        tape.tape.agent(marked(number), sent)
        if sent and number % 10 == 0:
            # It began 90 ms after it got the first, and its reports take 0 to 40 ms longer each.
            tape.tape.reported((number + 1) * 20 - (sent - 0.09) * 1000, sent)
    agent = tape.rest(1.5)[:, 1]
    assert abs(first(agent, 0) - 90 * MS) <= MS
    assert abs(first(agent, 49) - (90 + 980) * MS) <= MS


def test_a_report_that_was_long_under_way_tears_nothing() -> None:
    tape = Recorded()
    for number in range(100):
        sent = max(0.0, number * 0.02 - 0.2)
        tape.until(sent)
        tape.tape.agent(marked(number), sent)
        if sent and number % 10 == 0:
            delay = 0.15 if number == 50 else 0.0
            tape.tape.reported((number + 1) * 20 - (sent - delay) * 1000, sent)
    agent = tape.rest(2.2)[:, 1]
    sound = np.flatnonzero(agent)
    assert len(sound) == sound[-1] - sound[0] + 1


def test_a_client_that_stalls_shows_as_silence() -> None:
    tape = Recorded()
    for number in range(100):
        sent = max(0.0, number * 0.02 - 0.2)
        tape.until(sent)
        tape.tape.agent(marked(number), sent)
        if sent and number % 10 == 0:
            stalled = 0.1 if number >= 50 else 0.0
            tape.tape.reported((number + 1) * 20 - (sent - stalled) * 1000, sent)
    agent = tape.rest(2.4)[:, 1]
    assert abs(first(agent, 99) - (1980 + 100) * MS) <= TOLERANCE


@pytest.mark.parametrize("drift", [-0.002, 0.002])
def test_drift_is_corrected(drift: float) -> None:
    tape, seconds = Recorded(), 60
    for number in range(seconds * 50):
        # Its clock is wrong: words of a second, pauses of half of one.
        at = (number + 1) * 0.02 * (1 + drift)
        tape.until(at)
        tape.tape.user(marked(number) if number % 75 < 50 else silence(FRAME_MS), at)
    user = tape.rest(seconds * (1 + drift) + 0.1)[:, 0]
    for number in range(0, seconds * 50, 75):
        assert abs(first(user, number) - number * 20 * MS * (1 + drift)) <= TOLERANCE + 5 * MS, number


def test_a_burst_after_a_stall_is_kept_and_caught_up_in_the_next_pause() -> None:
    tape = Recorded()
    for number in range(150):
        arrival = (number + 1) * 0.02
        # The network gives nothing from 1 s to 2 s, then all of it.
        at = 2.0 if 1.0 < arrival <= 2.0 else arrival
        tape.until(at)
        tape.tape.user(marked(number), at)
    for number in range(150, 250):
        at = (number + 1) * 0.02
        tape.until(at)
        tape.tape.user(silence(FRAME_MS) if number < 200 else marked(number), at)
    user = tape.rest(5.1)[:, 0]
    for number in range(150):
        assert np.count_nonzero(user == 1000 + number) == 20 * MS, number
    assert abs(first(user, 220) - 220 * 20 * MS) <= TOLERANCE


def test_audio_that_comes_much_faster_than_it_is_spoken_does_not_pile_up() -> None:
    tape = Recorded()
    for number in range(5000):
        tape.tape.user(marked(number), 1.0)
        tape.tape.agent(marked(number), 1.0)
    assert tape.tape.held <= 2 * byte_count(4000, ENGINE_RATE)
    assert len(tape.rest(2.0)) == 2 * ENGINE_RATE


@pytest.mark.parametrize("rate", RATES)
def test_the_agent_is_heard_in_place_at_any_rate(rate: int) -> None:
    tape = Recorded(rate)
    for number in range(100):
        sent = 1.0 + max(0.0, number * 0.02 - 0.2)
        tape.until(sent)
        tape.tape.agent(marked(7000, rate=rate), sent)
    tape.tape.clear(2.5)
    agent = tape.rest(4.0)[:, 1]
    assert len(agent) == 4 * ENGINE_RATE
    loud = np.flatnonzero(np.abs(agent) > 4000)
    assert abs(loud[0] - ENGINE_RATE) <= 2 * MS
    assert abs(loud[-1] - 2.5 * ENGINE_RATE) <= 2 * MS
    middle = agent[int(1.1 * ENGINE_RATE) : int(2.4 * ENGINE_RATE)]
    assert np.all(np.abs(middle - 8000) < 200), "whole, without a seam"


def test_a_track_takes_what_is_there_and_silence() -> None:
    track = Track(ENGINE_RATE)
    track.sent(marked(1), 100)
    assert track.take(50) == bytes(100)
    assert track.take(120) == bytes(100) + marked(1)[:40]
    track.cut(200)
    assert track.take(500) == marked(1)[:160] + bytes(600)
    assert track.held == 0


class Listener:
    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.over = ""

    def on_block(self, position: int, pcm: bytes) -> None:
        self.blocks.append(pcm)

    def on_over(self, reason: str) -> None:
        self.over = reason

    @property
    def sides(self) -> Sides:
        return np.frombuffer(b"".join(self.blocks), "<i2").reshape(-1, 2)


def test_a_session_gives_its_tape_to_all_who_take_it() -> None:
    async def main() -> None:
        async with pilot(stt=ScriptedStt(("tell me",)), reports=True) as client:
            deck = client.session.deck
            assert deck.tape is None
            one, two = Listener(), Listener()
            began = client.now
            leave = deck.take(one, listens=True)
            deck.take(two, listens=False)
            assert client.session.listeners == 1
            await client.turn()
            leave()
            leave()
            assert client.session.listeners == 0
            heard = len(one.blocks)
            await client.pause(1000)
            assert len(one.blocks) == heard
            assert deck.tape is not None
            await client.session.close("done")
            assert two.over == "done"
            assert one.over == ""
            assert deck.tape is None
            assert abs(len(two.sides) / ENGINE_RATE - (client.now - began)) <= 0.02
            assert np.any(two.sides[:, 0])
            assert np.any(two.sides[:, 1])

    run_virtual(main())


def test_without_takers_there_is_no_tape() -> None:
    async def main() -> None:
        async with pilot() as client:
            leave = client.session.deck.take(Listener(), listens=True)
            leave()
            assert client.session.deck.tape is None
            await client.turn()
            await asyncio.sleep(1)
            assert client.session.deck.tape is None

    run_virtual(main())


def test_a_taker_that_fails_gets_no_more_and_hurts_nobody() -> None:
    class Broken(Listener):
        def on_block(self, position: int, pcm: bytes) -> None:
            raise RuntimeError("broken")

    async def main() -> None:
        async with pilot() as client:
            good = Listener()
            client.session.deck.take(Broken(), listens=True)
            client.session.deck.take(good, listens=True)
            await client.turn()
            assert client.session.listeners == 1
            assert good.blocks

    run_virtual(main())
