"""Webhooks: who wants to hear of which events; such an event goes into the outbox together with its row in the log."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from rejoinder import events
from rejoinder.clock import Clock
from rejoinder.delivery import Dispatcher
from rejoinder.errors import ConfigError, SessionError
from rejoinder.ids import new_id
from rejoinder.netguard import Resolve, Resolver
from rejoinder.store.outbox import DeliveryRecord, Outbox, Secret, WebhookRecord
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

_TAGS: dict[type, str] = {kind: str(kind.__struct_config__.tag) for kind in get_args(events.ServerEvent)}
EVENTS: tuple[str, ...] = tuple(
    sorted(tag for kind, tag in _TAGS.items() if kind not in (events.ReplyText, events.Pong))
)
"""What can be subscribed to: all events of the log but streamed text; of `user.transcript` the final ones come."""
DEFAULT_EVENTS = ("session.started", "session.ended")
TEST = "webhook.test"
MOST = 100
"""Webhooks of one server."""
_MOST_SECRETS = 5
_TIMEOUT_S = 10.0


class Webhooks:
    """The webhooks of one server. `open()` it when the store is open, and `close()` it before that is closed.

    `counted(outcome)` is told `delivered`, `retried` or `failed` after each attempt.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        private: bool = False,
        counted: Callable[[str], None] = lambda outcome: None,
        resolve: Resolve | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._store = store
        self._outbox = Outbox(store)
        self._clock = clock
        self._private = private
        self._resolver = Resolver()
        self._resolve = resolve or self._resolver
        self._hooks: dict[str, WebhookRecord] = {}
        self._wanted: dict[type, tuple[str, ...]] = {}
        self.dispatcher = Dispatcher(
            store,
            clock,
            lambda: self._hooks,
            self.refresh,
            private=private,
            counted=counted,
            resolve=self._resolve,
            timeout_s=timeout_s,
        )

    async def open(self) -> None:
        """Load the webhooks and begin to send.

        Raises:
            StoreError: the database cannot be read.
        """
        await self.refresh()
        self.dispatcher.start()

    async def close(self) -> None:
        """End; what is not delivered yet goes on after the next start. Idempotent."""
        await self.dispatcher.close()
        self._resolver.close()

    async def refresh(self) -> None:
        """Read the webhooks again."""
        hooks = await self._outbox.webhooks()
        self._hooks = {hook.id: hook for hook in hooks}
        wanted: dict[type, list[str]] = {}
        for kind, tag in _TAGS.items():
            if ids := [hook.id for hook in hooks if hook.enabled and tag in hook.events]:
                wanted[kind] = ids
        self._wanted = {kind: tuple(ids) for kind, ids in wanted.items()}

    def on_event(self, event: events.Event, encoded: bytes) -> None:
        """Put `event`, whose JSON is `encoded`, into the outbox of those who want it.

        Called right after the event itself was recorded, so that both are in the same batch.
        """
        ids = self._wanted.get(type(event))
        if ids is None or event.seq == 0 or (isinstance(event, events.Transcript) and not event.final):
            return
        tag = _TAGS[type(event)]
        payload = _payload(tag, event.at, encoded.decode())
        for webhook_id in ids:
            row = (new_id("msg"), webhook_id, tag, payload, event.at, event.at, 0)
            self._store.writer.put(Write.WEBHOOK_DELIVERY, row)
        self.dispatcher.wake(fresh=True)

    # -- what operators do; each raises SessionError `unknown_webhook` where there is none

    async def all(self) -> list[WebhookRecord]:
        """All webhooks, newest first."""
        return await self._outbox.webhooks()

    async def get(self, webhook_id: str) -> WebhookRecord:
        """The webhook with that id."""
        return _found(await self._outbox.webhook(webhook_id), webhook_id)

    async def create(
        self, url: str, wanted: Iterable[str] | None = None, *, description: str = ""
    ) -> tuple[WebhookRecord, str]:
        """A new webhook for the events `wanted`, and its secret: to be shown once.

        Raises:
            ConfigError: the address or an event is wrong (`bad_url`, `unknown_host`, `address_refused`,
                `unknown_event`), or there are too many (`too_many_webhooks`).
        """
        chosen = _chosen(DEFAULT_EVENTS if wanted is None else wanted)
        url = await self._checked(url)
        if len(await self._outbox.webhooks()) >= MOST:
            raise ConfigError(f"There are {MOST} webhooks already.", code="too_many_webhooks", fix="Delete some.")
        secret = _new_secret()
        record = WebhookRecord(
            id=new_id("whk"),
            url=url,
            description=description,
            events=chosen,
            secrets=[Secret(secret)],
            created_at=self._clock.wall_ms(),
        )
        await self._outbox.add(record)
        await self.refresh()
        return record, secret

    async def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        wanted: Iterable[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> WebhookRecord:
        """Change what is given; to enable it again forgets that it failed.

        Raises:
            ConfigError: as for `create`.
        """
        record = await self.get(webhook_id)
        values: dict[str, Any] = {}
        if url is not None:
            values["url"] = await self._checked(url)
        if wanted is not None:
            values["events"] = _chosen(wanted)
        if description is not None:
            values["description"] = description
        if enabled is True:
            values |= {"disabled_at": None, "disabled_reason": None, "failing_since": None}
        elif enabled is False and record.enabled:
            values |= {"disabled_at": self._clock.wall_ms(), "disabled_reason": "Disabled by an operator."}
        changed = await self._outbox.change(webhook_id, **values)
        await self.refresh()
        return _found(changed, webhook_id)

    async def delete(self, webhook_id: str) -> None:
        """Delete it; what still waits for it is not sent."""
        found = await self._outbox.delete(webhook_id)
        await self.refresh()
        if not found:
            raise _unknown(webhook_id)

    async def rotate(self, webhook_id: str, *, overlap_s: float) -> tuple[WebhookRecord, str]:
        """A new secret, and the webhook; the ones before also sign for another `overlap_s`."""
        record, now = await self.get(webhook_id), self._clock.wall_ms()
        until = now + round(overlap_s * 1000)
        old = [Secret(s.secret, until if s.until is None else min(s.until, until)) for s in record.secrets]
        secret = _new_secret()
        kept = [Secret(secret), *(s for s in old if s.until is None or s.until > now)][:_MOST_SECRETS]
        changed = await self._outbox.change(webhook_id, secrets=kept)
        await self.refresh()
        return _found(changed, webhook_id), secret

    async def test(self, webhook_id: str) -> DeliveryRecord:
        """Send a `webhook.test` message; it is on its way.

        Raises:
            SessionError: it is disabled (`webhook_disabled`).
        """
        self._enabled(await self.get(webhook_id))
        now = self._clock.wall_ms()
        data = msgspec.json.encode({"webhook_id": webhook_id}).decode()
        delivery = DeliveryRecord(
            id=new_id("msg"),
            webhook_id=webhook_id,
            type=TEST,
            payload=_payload(TEST, now, data),
            created_at=now,
            next_attempt_at=now,
        )
        await self._outbox.put(delivery)
        self.dispatcher.wake()
        return delivery

    async def deliveries(self, webhook_id: str, limit: int, *, before: str | None = None) -> list[DeliveryRecord]:
        """At most `limit` deliveries, newest first; the next page is `before` the last id of this one."""
        await self.get(webhook_id)
        return await self._outbox.deliveries(webhook_id, limit, before=before)

    async def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Send a message again, under the id that it had.

        Raises:
            SessionError: there is none (`unknown_delivery`), or the webhook is disabled (`webhook_disabled`).
        """
        self._enabled(await self.get(webhook_id))
        delivery = await self._outbox.again(webhook_id, delivery_id, self._clock.wall_ms())
        if delivery is None:
            text = f"There is no delivery {delivery_id[:80]!r} of this webhook."
            raise SessionError(text, code="unknown_delivery", fix="GET the webhook's deliveries lists them.")
        self.dispatcher.wake()
        return delivery

    async def _checked(self, url: str) -> str:
        check_url = (await asyncio.to_thread(_posting)).check_url
        checked: str = await check_url(url, private=self._private, resolve=self._resolve)
        return checked

    @staticmethod
    def _enabled(record: WebhookRecord) -> None:
        if not record.enabled:
            raise SessionError(
                f"The webhook {record.id} is disabled. {record.disabled_reason}",
                code="webhook_disabled",
                fix='PATCH it with {"enabled": true}.',
            )


def _posting() -> Any:
    # It loads the HTTP client, which takes some tenths of a second.
    from rejoinder import posting

    return posting


def _payload(tag: str, at: int, data: str) -> str:
    when = datetime.fromtimestamp(at / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'{{"type":"{tag}","timestamp":"{when}","data":{data}}}'


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def _chosen(wanted: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(wanted))
    if unknown := [name for name in names if name not in EVENTS]:
        text = f"{unknown[0][:80]!r} cannot be subscribed to."
        raise ConfigError(text, code="unknown_event", fix=f"There are: {', '.join(EVENTS)}.")
    if not names:
        raise ConfigError(
            "A webhook needs at least one event.", code="unknown_event", fix=f"There are: {', '.join(EVENTS)}."
        )
    return names


def _found(record: WebhookRecord | None, webhook_id: str) -> WebhookRecord:
    if record is None:
        raise _unknown(webhook_id)
    return record


def _unknown(webhook_id: str) -> SessionError:
    text = f"There is no webhook {webhook_id[:80]!r}."
    return SessionError(text, code="unknown_webhook", fix="GET /v1/webhooks lists them.")
