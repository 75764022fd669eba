"""Webhooks: the outbox, the ladder of attempts on a clock of our own, restarts; real receivers on loopback."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from standardwebhooks import Webhook, WebhookVerificationError
from tests.receivers import Box, ManualClock, ended, opened, receiving, started

from rejoinder import delivery as delivery_module
from rejoinder import events
from rejoinder.delivery import KEPT_MS, LADDER_S
from rejoinder.errors import ConfigError, SessionError
from rejoinder.store import tables
from rejoinder.store.outbox import DeliveryRecord, Outbox
from rejoinder.store.schema import parse_url, upgrade
from rejoinder.store.statements import Write
from rejoinder.webhooks import DEFAULT_EVENTS, EVENTS


def test_a_session_is_told_of_signed_and_in_the_envelope() -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            record, secret = await box.hooks.create(url)
            assert (record.events, secret[:6]) == (list(DEFAULT_EVENTS), "whsec_")
            box.publish(started())
            box.publish(events.SpeechStarted(turn_id="t1"))
            box.publish(ended())
            await receiver.until(2)
            assert sorted(receiver.types()) == ["session.ended", "session.started"], "and nothing else"
            for headers, body in receiver.got:
                Webhook(secret).verify(body, headers)
                message = json.loads(body)
                assert message.keys() == {"type", "timestamp", "data"}
                assert message["data"]["type"] == message["type"]
                assert message["data"]["session_id"] == "ses_1"
                at = datetime.fromisoformat(message["timestamp"])
                assert at.timestamp() * 1000 == message["data"]["at"]
                assert headers["content-type"] == "application/json"
                with pytest.raises(WebhookVerificationError):
                    Webhook(secret).verify(body + " ", headers)
            rows = await box.until(lambda rows: all(row.delivered_at for row in rows))
            assert {(row.attempts, row.status, row.next_attempt_at, row.error) for row in rows} == {
                (1, 204, None, None)
            }
            assert sorted(receiver.ids) == [row.id for row in rows]
            assert box.counted == ["delivered"] * 2

    asyncio.run(main())


def test_of_what_is_streamed_only_the_whole_can_be_subscribed() -> None:
    assert {"reply.text", "pong"}.isdisjoint(EVENTS)
    assert {"session.metrics", "error", "turn.metrics", "user.transcript"} < set(EVENTS)

    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            for wrong in (["reply.text"], ["pong"], ["webhook.test"], [], ["session.started", "nothing"]):
                with pytest.raises(ConfigError) as refused:
                    await box.hooks.create(url, wrong)
                assert refused.value.code == "unknown_event"
            await box.hooks.create(url, ["user.transcript", "user.transcript"])
            box.publish(started())
            for text, final in (("tell", False), ("tell me", False), ("tell me", True)):
                box.publish(events.Transcript(turn_id="t1", text=text, final=final))
            box.publish(ended())
            (row,) = await box.until(lambda rows: all(row.delivered_at for row in rows) and len(rows) > 0)
            assert json.loads(row.payload)["data"]["final"] is True
            assert len(receiver.got) == 1

    asyncio.run(main())


def test_the_outbox_is_written_with_the_event_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with receiving() as (_, url), opened() as box:
            await box.hooks.create(url)
            batches: list[list[list[Any]]] = []
            commit = box.store.writer._commit

            async def spy(batch: Any, statements: Any) -> None:
                batches.append(batch)
                await commit(batch, statements)

            monkeypatch.setattr(box.store.writer, "_commit", spy)
            box.publish(started())
            await box.until(lambda rows: len(rows) == 1)
            (batch,) = [batch for batch in batches if batch[Write.WEBHOOK_DELIVERY]]
            assert [row[3] for row in batch[Write.EVENT]] == ["session.started"]

    asyncio.run(main())


def test_a_receiver_that_fails_is_tried_on_the_ladder_and_then_given_up(database_url: str) -> None:
    async def main() -> None:
        await upgrade(parse_url(database_url))
        async with receiving() as (receiver, url), opened(database_url) as box:
            receiver.answer = lambda number: (500, "")
            record, _ = await box.hooks.create(url)
            box.publish(started())
            for attempt, wait in enumerate(LADDER_S, 1):
                (row,) = await box.until(lambda rows, n=attempt: [r.attempts for r in rows] == [n])  # type: ignore[misc]
                assert row.next_attempt_at is not None
                after = (row.next_attempt_at - box.clock.wall_ms()) / 1000
                assert wait <= after <= wait * 1.2 + 0.001, "never earlier, and not all at once"
                await box.move(after - 0.5)
                await asyncio.sleep(0.05)
                assert len(receiver.got) == attempt, "not before its time"
                await box.move(0.5)
            (row,) = await box.until(lambda rows: rows[0].next_attempt_at is None)
            assert (row.attempts, row.status, row.delivered_at) == (len(LADDER_S) + 1, 500, None)
            assert row.error == "The receiver answered 500."
            assert set(receiver.ids) == {row.id}, "always under the same id"
            assert box.counted == ["retried"] * len(LADDER_S) + ["failed"]
            assert (await box.hooks.get(record.id)).failing_since is not None

            receiver.answer = lambda number: (200, "")
            assert (await box.hooks.redeliver(record.id, row.id)).attempts == 0
            (row,) = await box.until(lambda rows: rows[0].delivered_at is not None)
            assert (row.attempts, row.id) == (1, receiver.ids[-1])
            assert (await box.hooks.get(record.id)).failing_since is None

    asyncio.run(main())


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
def test_a_receiver_that_asks_to_be_left_alone_is(status: int, as_date: bool) -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            said = (
                format_datetime(datetime.fromtimestamp(box.clock.now + 1002, UTC), usegmt=True) if as_date else "1000"
            )
            receiver.answer = lambda number: (status, f"retry-after: {said}\r\n")
            await box.hooks.create(url)
            box.publish(started())
            (row,) = await box.until(lambda rows: [r.attempts for r in rows] == [1])
            assert row.next_attempt_at is not None
            assert row.next_attempt_at - box.clock.wall_ms() == pytest.approx(1_000_000, abs=20_000 if as_date else 1)

    asyncio.run(main())


def test_gone_disables_the_webhook_and_what_waits_fails() -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            receiver.answer = lambda number: (500, "") if number == 1 else (410, "")
            record, _ = await box.hooks.create(url)
            box.publish(started())
            await box.until(lambda rows: [r.attempts for r in rows] == [1])
            box.publish(ended())
            await box.until(lambda rows: [r.attempts for r in rows] == [1, 1])
            gone = await box.hooks.get(record.id)
            assert (gone.enabled, gone.disabled_reason) == (False, "The receiver answered 410 Gone.")
            await box.move(10)
            first, last = await box.until(lambda rows: all(r.next_attempt_at is None for r in rows))
            assert (first.error, first.attempts) == ("The webhook is disabled.", 1)
            assert last.status == 410
            box.publish(started(), "ses_2")
            for refused in (box.hooks.test(record.id), box.hooks.redeliver(record.id, first.id)):
                with pytest.raises(SessionError) as caught:
                    await refused
                assert caught.value.code == "webhook_disabled"
            assert len(await box.rows()) == 2, "it hears of nothing more"

            receiver.answer = lambda number: (200, "")
            again = await box.hooks.change(record.id, enabled=True)
            assert (again.enabled, again.disabled_reason, again.failing_since) == (True, None, None)
            await box.hooks.redeliver(record.id, first.id)
            await box.until(lambda rows: rows[0].delivered_at is not None)

    asyncio.run(main())


def test_five_days_of_failure_disable_it_and_one_success_in_between_does_not() -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            record, _ = await box.hooks.create(url)

            async def say(status: int) -> None:
                receiver.answer = lambda number: (status, "")
                delivery = await box.hooks.test(record.id)
                await box.until(lambda rows: next(r for r in rows if r.id == delivery.id).attempts == 1)

            async def forget() -> None:
                # Only the newest counts here, not what is tried again.
                async with box.store.transaction() as connection:
                    await connection.execute(update(tables.webhook_deliveries).values(next_attempt_at=None))

            for days, status in ((0, 500), (4, 500), (0.5, 200), (1, 500), (4.9, 500)):
                await box.move(days * 86_400)
                await say(status)
                await forget()
                assert (await box.hooks.get(record.id)).enabled, (days, status)
            await box.move(0.2 * 86_400)
            await say(500)
            gone = await box.hooks.get(record.id)
            assert not gone.enabled
            assert gone.disabled_reason
            assert gone.disabled_reason.startswith("It has failed for 5 days")

    asyncio.run(main())


def test_what_was_not_delivered_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with receiving() as (receiver, url):
            receiver.answer = lambda number: (500, "") if number == 1 else None
            async with opened(tmp_path / "a.db", clock) as box:
                await box.hooks.create(url)
                box.publish(started())
                await box.until(lambda rows: [r.attempts for r in rows] == [1])
                await box.move(10)
                await receiver.until(2)
                # It is under way, and nobody answers, while the server stops.
            receiver.answer = lambda number: (200, "")
            async with opened(tmp_path / "a.db", clock) as box:
                (row,) = await box.until(lambda rows: rows[0].delivered_at is not None)
                assert (row.attempts, set(receiver.ids)) == (2, {row.id})

    asyncio.run(main())


def test_a_crash_between_sending_and_noting_sends_it_once_more_under_the_same_id(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with receiving() as (receiver, url):
            async with opened(tmp_path / "a.db", clock) as box:
                outbox = Outbox(box.store)
                await box.hooks.create(url)
                box.publish(started())
                (row,) = await box.until(lambda rows: bool(rows) and rows[0].delivered_at is not None)
                # As the process left it that died: claimed, sent, not noted.
                async with box.store.transaction() as connection:
                    claimed = clock.wall_ms() + 30_000
                    change = update(tables.webhook_deliveries)
                    await connection.execute(change.values(delivered_at=None, attempts=0, next_attempt_at=claimed))
                del outbox
            async with opened(tmp_path / "a.db", clock) as box:
                await box.move(31)
                await box.until(lambda rows: rows[0].delivered_at is not None)
                assert receiver.ids == [row.id, row.id]

    asyncio.run(main())


def test_two_processes_on_one_database_share_the_work(database_url: str) -> None:
    async def main() -> None:
        clock, path = ManualClock(), database_url
        await upgrade(parse_url(path))
        async with receiving() as (receiver, url), opened(path, clock) as one, opened(path, clock) as two:
            record, _ = await one.hooks.create(url)
            await two.hooks.refresh()
            for number in range(40):
                box = (one, two)[number % 2]
                box.publish(events.Error(code="x", message=str(number)), f"ses_{number}")
                delivery = await box.hooks.test(record.id)
                assert delivery.type == "webhook.test"
            await one.until(lambda rows: all(row.delivered_at for row in rows))
            assert len(receiver.ids) == len(set(receiver.ids)) == 40, "none was sent by both"

    asyncio.run(main())


def test_while_a_secret_is_rotated_both_sign() -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            record, first = await box.hooks.create(url)
            _, second = await box.hooks.rotate(record.id, overlap_s=60)
            assert second != first
            await box.hooks.test(record.id)
            await receiver.until(1)
            headers, body = receiver.got[0]
            assert len(headers["webhook-signature"].split()) == 2
            for secret in (first, second):
                assert Webhook(secret).verify(body, headers)["type"] == "webhook.test"

            await box.move(61)
            await box.hooks.test(record.id)
            await receiver.until(2)
            headers, body = receiver.got[1]
            Webhook(second).verify(body, headers)
            with pytest.raises(WebhookVerificationError, match="No matching signature"):
                Webhook(first).verify(body, headers)

            _, third = await box.hooks.rotate(record.id, overlap_s=0)
            await box.hooks.test(record.id)
            await receiver.until(3)
            headers, body = receiver.got[2]
            assert len(headers["webhook-signature"].split()) == 1
            Webhook(third).verify(body, headers)

    asyncio.run(main())


def test_one_dead_receiver_does_not_keep_the_others_waiting() -> None:
    async def main() -> None:
        async with receiving() as (dead, dead_url), receiving() as (good, good_url), opened() as box:
            dead.answer = lambda number: None
            one, _ = await box.hooks.create(dead_url)
            two, _ = await box.hooks.create(good_url)
            for number in range(30):
                box.publish(started(), f"ses_{number}")
            await good.until(30)
            assert len(dead.got) <= 4, "the dead one has but a few places"
            rows = await box.until(lambda rows: sum(r.delivered_at is not None for r in rows) == 30)
            assert {row.webhook_id for row in rows if row.delivered_at} == {two.id}
            await box.hooks.delete(one.id)
            dead._closing.set()
            rows = await box.until(lambda rows: all(r.next_attempt_at is None or r.attempts for r in rows))
            assert "The webhook was deleted." in {row.error for row in rows}
            with pytest.raises(SessionError) as caught:
                await box.hooks.get(one.id)
            assert caught.value.code == "unknown_webhook"

    asyncio.run(main())


def test_a_receiver_that_does_not_answer_in_time_has_failed() -> None:
    async def main() -> None:
        async with receiving() as (dead, url), opened(timeout_s=0.05) as box:
            dead.answer = lambda number: None
            record, _ = await box.hooks.create(url)
            await box.hooks.test(record.id)
            (row,) = await box.until(lambda rows: [r.attempts for r in rows] == [1])
            assert (row.error, row.status) == ("No answer within 0.05 s.", None)

    asyncio.run(main())


def test_old_deliveries_are_pruned_some_at_a_time_and_pending_ones_stay() -> None:
    async def main() -> None:
        async with opened() as box:
            outbox, now = Outbox(box.store), box.clock.wall_ms()
            rows = [
                (f"msg_{number:04}", "whk_none", "x", "{}", now - KEPT_MS - 1000 + number, None, 3)
                for number in range(1200)
            ]
            for row in rows:
                box.store.writer.put(Write.WEBHOOK_DELIVERY, row)
            # One that waits (for longer than this test takes), and one that is young.
            box.store.writer.put(
                Write.WEBHOOK_DELIVERY, ("msg_0000a", "whk_none", "x", "{}", now - 2 * KEPT_MS, now + 10**9, 3)
            )
            await box.store.writer.flush()
            assert await outbox.prune(now - KEPT_MS) is False, "499 of 500: there is one that waits"
            before = len(await box.rows())
            assert before == 1201 - 499
            while True:
                await outbox.prune(now - KEPT_MS)
                if before == (left := len(await box.rows())):
                    break
                before = left
            assert left == 201, "200 that are too young, and the one that waits"

    asyncio.run(main())


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=st.lists(st.sampled_from([200, 200, 200, 400, 410, 429, 500, 503, 302, None]), min_size=1, max_size=25),
    sessions=st.integers(1, 8),
    restart=st.booleans(),
)
def test_each_event_is_delivered_at_least_once_or_is_known_to_have_failed(
    tmp_path_factory: pytest.TempPathFactory, plan: list[int | None], sessions: int, restart: bool
) -> None:
    path = tmp_path_factory.mktemp("hooks") / "a.db"
    clock = ManualClock()

    def answer(number: int) -> tuple[int, str] | None:
        status = plan[number % len(plan)]
        return None if status is None else (status, "")

    async def settle(box: Box) -> list[DeliveryRecord]:
        async with asyncio.timeout(30):
            while True:
                rows = await box.rows()
                waiting = [row.next_attempt_at for row in rows if row.next_attempt_at is not None]
                if not waiting:
                    return rows
                if not box.hooks.dispatcher.busy:
                    # On to the next attempt (or to the end of a claim that is not settled yet).
                    await box.move(max(0.0, (min(waiting) - box.clock.wall_ms()) / 1000))
                await asyncio.sleep(0.005)

    async def main() -> None:
        async with receiving() as (receiver, url):
            receiver.answer = answer
            async with opened(path, clock, timeout_s=0.05) as box:
                await box.hooks.create(url)
                for number in range(sessions):
                    box.publish(started(), f"ses_{number}")
                    box.publish(ended(), f"ses_{number}")
                await box.store.writer.flush()
                if not restart:
                    rows = await settle(box)
            if restart:
                async with opened(path, clock, timeout_s=0.05) as box:
                    rows = await settle(box)
            assert len(rows) == 2 * sessions, "each in the log"
            for row in rows:
                assert (row.delivered_at is not None) != bool(row.error)
                if row.delivered_at is not None:
                    assert row.id in receiver.ids

    asyncio.run(main())


def test_the_server_stops_with_the_last_messages_sent_and_no_task_left(tmp_path: Path) -> None:
    async def main() -> None:
        async with receiving() as (receiver, url):
            before = asyncio.all_tasks()
            async with opened(tmp_path / "a.db") as box:
                await box.hooks.create(url)
                box.publish(started())
                box.publish(ended("server_stopped"))
            assert sorted(receiver.types()) == ["session.ended", "session.started"]
            left = {task for task in asyncio.all_tasks() - before if "serve" not in repr(task)}
            assert not left

    asyncio.run(main())


def test_a_database_that_is_locked_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr(delivery_module, "_BACKOFF_S", 0.05)
    path = tmp_path / "a.db"

    async def main() -> None:
        async with receiving() as (receiver, url), opened(path) as box:
            await box.hooks.create(url)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            box.publish(started())
            await asyncio.sleep(1.5)
            assert not receiver.got
            other.execute("COMMIT")
            other.close()
            await receiver.until(1)
            await box.until(lambda rows: rows[0].delivered_at is not None)
            assert len(receiver.got) == 1

    asyncio.run(main())
