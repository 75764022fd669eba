"""The bounded channel: order, bounds, closing, clearing, and cancellation that loses nothing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.channel import Channel, ChannelClosed
from rejoinder.testing.virtual_time import run_virtual


def test_a_full_channel_makes_the_sender_wait() -> None:
    async def main() -> list[str]:
        channel: Channel[int] = Channel(2)
        done: list[str] = []

        async def produce() -> None:
            for item in range(4):
                await channel.send(item)
                done.append(f"sent {item}")
            channel.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            await asyncio.sleep(1)
            assert done == ["sent 0", "sent 1"]
            assert channel.statistics().waiting_senders == 1
            assert [item async for item in channel] == [0, 1, 2, 3]
        return done

    assert len(run_virtual(main())) == 4


def test_closing_lets_the_receiver_finish_and_the_sender_fail() -> None:
    async def main() -> None:
        channel: Channel[int] = Channel(1)
        await channel.send(1)
        sender = asyncio.ensure_future(channel.send(2))
        await asyncio.sleep(0)
        channel.close()
        with pytest.raises(ChannelClosed):
            await sender
        assert await channel.receive() == 1
        with pytest.raises(ChannelClosed):
            await channel.receive()

    run_virtual(main())


def test_clear_says_what_it_dropped() -> None:
    async def main() -> None:
        channel: Channel[int] = Channel(3)
        for item in range(3):
            await channel.send(item)
        assert channel.clear() == [0, 1, 2]
        assert channel.statistics().dropped == 3
        assert channel.receive_nowait() is None

    run_virtual(main())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 3))
def test_cancelled_receivers_lose_no_item(script: list[int], capacity: int) -> None:
    """Receivers are cancelled at every possible moment; what was sent is received once, in order."""

    async def main() -> None:
        channel: Channel[int] = Channel(capacity)
        got: list[int] = []

        async def take() -> None:
            got.append(await channel.receive())

        takers: list[asyncio.Task[None]] = []
        sent = 0
        for step in script:
            if step == 0:
                sent += channel.send_nowait(sent)
            elif step == 1:
                takers.append(asyncio.ensure_future(take()))
            elif step == 2 and takers:
                takers.pop(0).cancel()
            else:
                await asyncio.sleep(0)
        await asyncio.sleep(1)
        for taker in takers:
            taker.cancel()
        await asyncio.sleep(1)
        while (item := channel.receive_nowait()) is not None:
            got.append(item)
        assert got == list(range(sent))

    run_virtual(main())
