"""The playout in virtual time: ahead of the clock but not far, bounded by credit, silent after clear()."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Coroutine
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.clock import LoopClock
from rejoinder.settings import Limits
from rejoinder.stages.playout import Pacer, Playout
from rejoinder.testing.virtual_time import run_virtual

RATE = 16_000


def pcm(ms: int) -> bytes:
    return bytes(ms * RATE // 1000 * 2)


class Rig:
    def __init__(self, **limits: int) -> None:
        self.sent: list[tuple[float, int]] = []
        self.first: list[int] = []
        self.drained: list[tuple[float, int]] = []
        self.pacer = Pacer()
        self.playout = Playout(
            RATE,
            Limits.model_validate(limits),
            LoopClock(),
            self.pacer,
            self._took,
            self.first.append,
            lambda epoch: self.drained.append((asyncio.get_running_loop().time(), epoch)),
        )

    def _took(self, data: bytes, last: bool) -> None:
        if data:
            self.sent.append((asyncio.get_running_loop().time(), len(data) * 1000 // (2 * RATE)))

    def sent_ms(self) -> int:
        return sum(ms for _, ms in self.sent)


def run(test: Callable[[Rig], Coroutine[None, None, None]], **limits: int) -> Rig:
    async def main() -> Rig:
        rig = Rig(**limits)
        await test(rig)
        rig.pacer.close()
        return rig

    return run_virtual(main())


def test_audio_leaves_a_little_ahead_of_the_clock_and_drains_on_time() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        rig.playout.open_gate(1)
        await rig.playout.push(1, pcm(1000))
        rig.playout.finish(1)
        assert rig.sent == [(0.0, 200)]
        await asyncio.sleep(0.5)
        assert 680 <= rig.sent_ms() <= 720
        await asyncio.sleep(1)

    rig = run(test)
    assert rig.sent_ms() == 1000
    assert rig.first == [1]
    ((at, epoch),) = rig.drained
    assert epoch == 1
    assert at == pytest.approx(1.0, abs=0.03)
    assert rig.playout.jitter.value < 1e-6


def test_a_full_queue_makes_the_producer_wait() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        pushed = 0

        async def produce() -> None:
            nonlocal pushed
            for _ in range(100):
                await rig.playout.push(1, pcm(1000))
                pushed += 1

        producer = asyncio.ensure_future(produce())
        await asyncio.sleep(10)
        assert pushed == 5, "the gate is closed: only the queue's five chunks fit"
        rig.playout.open_gate(1)
        await asyncio.sleep(3)
        assert pushed in (8, 9)
        producer.cancel()

    run(test, playout_chunks=5)


def test_nothing_is_sent_before_the_gate_opens_nor_after_clear() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        await rig.playout.push(1, pcm(1000))
        await asyncio.sleep(1)
        assert rig.sent == []
        rig.playout.open_gate(1)
        await asyncio.sleep(0.3)
        played = rig.playout.clear()
        sent = rig.sent_ms()
        assert played == pytest.approx(300, abs=1)
        await rig.playout.push(1, pcm(1000))
        rig.playout.open_gate(1)
        await asyncio.sleep(2)
        assert rig.sent_ms() == sent

    run(test)


def test_a_client_that_has_played_nothing_gets_no_more_than_its_credit() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        rig.playout.open_gate(1)
        await rig.playout.push(1, pcm(1000))
        await rig.playout.push(1, pcm(1000))
        for _ in range(10):
            await asyncio.sleep(0.1)
            rig.playout.report(0)
        assert rig.sent_ms() == 400
        rig.playout.report(300)
        await asyncio.sleep(0.5)
        assert rig.sent_ms() == 700

    run(test)


def test_a_client_that_stops_reporting_is_paced_by_the_clock_again() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        rig.playout.open_gate(1)
        await rig.playout.push(1, pcm(1000))
        rig.playout.finish(1)
        rig.playout.report(20)
        await asyncio.sleep(1.5)
        assert not rig.drained
        await asyncio.sleep(1.5)
        assert rig.drained
        assert rig.playout.estimated

    run(test)


def test_a_gap_in_the_supply_moves_the_playhead_not_the_count() -> None:
    async def test(rig: Rig) -> None:
        rig.playout.begin(1)
        rig.playout.open_gate(1)
        await rig.playout.push(1, pcm(100))
        await asyncio.sleep(5)
        assert rig.playout.played_ms() == pytest.approx(100)
        await rig.playout.push(1, pcm(400))
        rig.playout.finish(1)
        await asyncio.sleep(0.2)
        assert rig.playout.played_ms() == pytest.approx(300, abs=21)
        await asyncio.sleep(0.5)

    rig = run(test)
    assert rig.sent_ms() == 500
    assert [epoch for _, epoch in rig.drained] == [1]


def test_the_pacer_sleeps_while_nobody_plays() -> None:
    async def test(rig: Rig) -> None:
        assert rig.pacer._timer is None
        rig.playout.begin(1)
        rig.playout.open_gate(1)
        await rig.playout.push(1, pcm(40))
        rig.playout.finish(1)
        assert rig.pacer._timer is not None
        await asyncio.sleep(1)
        assert rig.pacer._timer is None

    run(test)


class Listener:
    """A client whose loudspeaker may run a little early or late; it keeps what it really played, sample by sample."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.played = bytearray()

    def take(self, data: bytes, last: bool) -> None:
        self.buffer += data

    def play(self, ms: float) -> None:
        size = int(ms * RATE / 1000) * 2
        self.played += self.buffer[:size]
        del self.buffer[:size]

    def played_ms(self) -> float:
        return len(self.played) * 1000 / (2 * RATE)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(20, 900),  # it plays this long, ms
            st.floats(0.8, 1.0),  # as fast as that: buffers run dry now and then
            st.booleans(),  # it reports before it is held
            st.booleans(),  # it says where it stopped
            st.integers(0, 400),  # the agent goes on so long before that, ms
        ),
        max_size=6,
    ),
    st.integers(300, 4000),
)
def test_however_often_a_reply_is_held_the_client_misses_nothing(
    holds: list[tuple[int, float, bool, bool, int]], length_ms: int
) -> None:
    """Each sample says where in the reply it belongs, so a gap in what was played shows."""
    whole = array("H", (n % 65521 for n in range(length_ms * RATE // 1000))).tobytes()

    async def main() -> None:
        client = Listener()
        pacer = Pacer()
        playout = Playout(RATE, Limits(), LoopClock(), pacer, client.take, lambda epoch: None, lambda epoch: None)
        playout.begin(1)
        playout.open_gate(1)

        async def produce() -> None:
            for start in range(0, len(whole), 6_402):
                await playout.push(1, whole[start : start + 6_402])
            playout.finish(1)

        producing = asyncio.create_task(produce())
        resumed_at: list[tuple[int, float]] = [(0, 0.0)]
        for wait_ms, pace, reports, tells, back_ms in holds:
            for _ in range(wait_ms // 20):
                await asyncio.sleep(0.02)
                client.play(20 * pace)
                if reports:
                    playout.report(client.played_ms())
            playout.report(client.played_ms())
            playout.hold()
            client.buffer.clear()
            if tells:
                playout.report(client.played_ms())
            assert not client.buffer
            position = playout.position_ms(playout.played_ms())
            resumed_at.append((len(client.played), max(0.0, position - back_ms)))
            playout.resume(max(0.0, position - back_ms))
        while playout.position_ms(client.played_ms()) < length_ms - 1 or not producing.done():
            await asyncio.sleep(0.02)
            client.play(20)
            playout.report(client.played_ms())
        await producing
        client.play(20)
        pacer.close()
        for (start, from_ms), (end, _) in pairwise([*resumed_at, (len(client.played), 0.0)]):
            first = int(from_ms * RATE / 1000) * 2
            assert client.played[start:end] == whole[first : first + end - start], "in order, from there"
        assert client.played[-2:] == whole[-2:], "to the very end"
        assert playout.position_ms(client.played_ms()) == pytest.approx(length_ms, abs=1)

    run_virtual(main(), limit_s=60)
