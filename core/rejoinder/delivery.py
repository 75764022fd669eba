"""The dispatcher: one task that sends what lies in the outbox, tries again what failed, and gives up in the end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any

from rejoinder.clock import Clock
from rejoinder.errors import StoreError
from rejoinder.netguard import Resolve
from rejoinder.store.outbox import DeliveryRecord, Outbox, Outcome, Room, WebhookRecord
from rejoinder.store.store import Store

log = logging.getLogger(__name__)
LADDER_S = (5, 60, 300, 1_800, 7_200, 28_800, 86_400)
"""How long after each failed attempt the next one comes; after the last one nothing more is tried."""
_JITTER = 0.2
_LONGEST_WAIT_S = 86_400.0
_GIVE_UP_MS = 5 * 86_400_000
"""A webhook that has failed for this long, without one success, is disabled."""
KEPT_MS = 30 * 86_400_000
_PRUNE_S = 3_600.0
_LEASE_MS = 30_000
"""What was claimed and not settled by then (the process died) is due again; longer than an attempt takes."""
_AT_ONCE, _PER_WEBHOOK = 16, 4
_COALESCE_S = 0.1
"""New rows are looked for this long after the first of them, when the writer has most of them."""
_PACE_S = 0.02
_REFRESH_S = 10.0
"""Other processes may have changed webhooks or have left deliveries: looked at this often."""
_BACKOFF_S = 5.0
_PARTING_S = 1.0
"""When the server stops, what is under way and what was just put gets this long."""

Hooks = Callable[[], Mapping[str, WebhookRecord]]


class Dispatcher:
    """Sends the deliveries of `hooks()`; `start()` and `close()` it on one loop.

    Several processes may share an outbox: each delivery is claimed by one of them. It is sent at least once; if a
    process dies between sending and noting that, twice, with the same id. `refresh` reads the webhooks again,
    `counted(outcome)` is told `delivered`, `retried` or `failed` after each attempt.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        hooks: Hooks,
        refresh: Callable[[], Awaitable[None]],
        *,
        private: bool,
        counted: Callable[[str], None],
        resolve: Resolve,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._outbox = Outbox(store)
        self._clock = clock
        self._hooks = hooks
        self._refresh = refresh
        self._counted = counted
        self._options = {"private": private, "resolve": resolve, "timeout_s": timeout_s}
        self._poster: Any = None
        self._random = random.Random()
        self._wake = asyncio.Event()
        self._fresh = False
        self._failing = False
        self._empty = False
        self._parting = False
        self._refreshed, self._pruned = clock.monotonic(), float("-inf")
        self._outcomes: list[Outcome] = []
        self._sending: dict[asyncio.Task[None], DeliveryRecord] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with what was left by a process before."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Send what was just put, for a second; the rest waits for the next start. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._parting = True
        self._wake.set()
        await asyncio.wait([task], timeout=_PARTING_S)
        task.cancel()
        sending = list(self._sending)
        for other in sending:
            other.cancel()
        await asyncio.wait([task, *sending])
        if self._poster is not None:
            await self._poster.close()
        cut = list(self._sending.values())
        self._sending.clear()
        try:
            now = self._clock.wall_ms()
            await self._outbox.exchange(self._take_outcomes(), Room(0, {}, {}, 0), now, 0)
            if cut:
                await self._outbox.release(cut, now)
        except StoreError as error:
            log.warning("Webhooks: what was sent last is sent again after the next start. %s", error.explain())

    def wake(self, *, fresh: bool = False) -> None:
        """Look at the outbox now; `fresh`: rows were put that the writer has not written yet."""
        self._fresh = self._fresh or fresh
        self._wake.set()

    @property
    def busy(self) -> int:
        """Deliveries under way."""
        return len(self._sending)

    async def _run(self) -> None:
        while True:
            delay = _BACKOFF_S
            try:
                delay = await self._pass()
                self._failing = False
            except StoreError as error:
                if not self._failing:
                    log.warning("Webhooks wait for the database. %s", error.explain())
                self._failing = True
            except Exception:
                log.exception("the webhooks' outbox could not be worked on")
            if self._parting and not (self._fresh or self._sending or self._outcomes):
                return
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> float:
        """Work on the outbox once; how long until that is needed again, in s."""
        self._wake.clear()
        if self._fresh:
            self._fresh = False
            if not self._parting:
                await asyncio.sleep(_COALESCE_S)
            await self._store.writer.flush()
        await self._look_after()
        if self._empty and not self._hooks() and not self._outcomes:
            return _REFRESH_S
        outcomes = self._take_outcomes()
        now = self._clock.wall_ms()
        try:
            claimed, next_at = await self._outbox.exchange(outcomes, self._room(), now, _LEASE_MS)
        except BaseException:
            self._outcomes[:0] = outcomes
            raise
        if any(outcome.disable for outcome in outcomes) or any(d.webhook_id not in self._hooks() for d in claimed):
            await self._refresh()
        elif outcomes:
            await self._note_failing(outcomes)
        for delivery in claimed:
            self._begin(delivery, now)
        # Not one transaction for each delivery where many come back at once.
        await asyncio.sleep(_PACE_S)
        self._empty = next_at is None and not self._sending and not self._outcomes
        if next_at is None:
            return _REFRESH_S
        return min(_REFRESH_S, max(0.0, (next_at - self._clock.wall_ms()) / 1000))

    async def _note_failing(self, outcomes: list[Outcome]) -> None:
        hooks = self._hooks()
        for outcome in outcomes:
            hook = hooks.get(outcome.delivery.webhook_id)
            if hook is not None and outcome.counted and outcome.delivered == (hook.failing_since is not None):
                # It fails now and did not before, or the other way round.
                await self._refresh()
                return

    async def _look_after(self) -> None:
        now = self._clock.monotonic()
        if now - self._refreshed >= _REFRESH_S:
            self._refreshed = now
            await self._refresh()
        if now - self._pruned >= _PRUNE_S and not await self._outbox.prune(self._clock.wall_ms() - KEPT_MS):
            self._pruned = now

    def _take_outcomes(self) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _room(self) -> Room:
        running = Counter(delivery.webhook_id for delivery in self._sending.values())
        # One that fails may be slow to do so; it must not take the places of those that work.
        limits = {hook.id: 1 for hook in self._hooks().values() if hook.failing_since is not None}
        return Room(_AT_ONCE - len(self._sending), dict(running), limits, _PER_WEBHOOK)

    def _begin(self, delivery: DeliveryRecord, now: int) -> None:
        hook = self._hooks().get(delivery.webhook_id)
        if hook is None or not hook.enabled:
            why = "The webhook was deleted." if hook is None else "The webhook is disabled."
            self._done(
                Outcome(delivery=delivery, at=now, attempts=delivery.attempts, error=why, counted=False), "failed"
            )
            return
        task = asyncio.get_running_loop().create_task(self._send(delivery, hook), name=f"webhook {delivery.id}")
        self._sending[task] = delivery

    async def _send(self, delivery: DeliveryRecord, hook: WebhookRecord) -> None:
        # Loaded when it is first needed, and not on the event loop: it takes some tenths of a second.
        posting = await asyncio.to_thread(_posting)
        now = self._clock.wall_ms()
        status, retry_after, error = None, None, ""
        try:
            secrets = [secret.secret for secret in hook.secrets if secret.until is None or secret.until > now]
            headers = posting.headers_of(delivery.id, secrets, now, delivery.payload)
            if self._poster is None:
                self._poster = posting.Poster(**self._options)
            answer = await self._poster.post(hook.url, headers, delivery.payload)
            status, retry_after = answer.status, answer.retry_after_s
            if not 200 <= status < 300:
                error = f"The receiver answered {status}."
        except posting.PostError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("a webhook's message could not be sent")
            error = f"It could not be sent ({type(failure).__name__})."
        task = asyncio.current_task()
        if task is not None:
            self._sending.pop(task, None)
        self._done(*self._judge(delivery, hook, status, retry_after, error))

    def _judge(
        self, delivery: DeliveryRecord, hook: WebhookRecord, status: int | None, retry_after: float | None, error: str
    ) -> tuple[Outcome, str]:
        now, attempts = self._clock.wall_ms(), delivery.attempts + 1
        if not error:
            return Outcome(delivery=delivery, at=now, delivered=True, attempts=attempts, status=status), "delivered"
        disable = None
        if status == 410:
            disable = "The receiver answered 410 Gone."
        elif hook.failing_since is not None and now - hook.failing_since >= _GIVE_UP_MS:
            disable = f"It has failed for 5 days; at last: {error}"
        next_at = None
        if disable is None and attempts <= len(LADDER_S):
            wait = LADDER_S[attempts - 1] * (1 + _JITTER * self._random.random())
            if status in (429, 503) and retry_after is not None:
                wait = max(wait, min(retry_after, _LONGEST_WAIT_S))
            next_at = now + round(wait * 1000)
        outcome = Outcome(
            delivery=delivery,
            at=now,
            next_attempt_at=next_at,
            attempts=attempts,
            status=status,
            error=error[:500],
            disable=disable,
        )
        return outcome, "retried" if next_at is not None else "failed"

    def _done(self, outcome: Outcome, told: str) -> None:
        self._outcomes.append(outcome)
        self._counted(told)
        if outcome.disable is not None:
            log.warning("The webhook %s is disabled. %s", outcome.delivery.webhook_id, outcome.disable)
        self._wake.set()


def _posting() -> ModuleType:
    from rejoinder import posting

    return posting
