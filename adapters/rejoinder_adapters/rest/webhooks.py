"""Webhooks: made (the secret is shown once), changed, rotated, tried out; what was delivered, and sent again."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from rejoinder.app import Runtime
from rejoinder.store.outbox import DeliveryRecord, WebhookRecord
from rejoinder_adapters.security import audit, needs

Asked = Request[Any, Any, State]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
Description = Annotated[str, msgspec.Meta(max_length=500)]
EventNames = Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]


class NewWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """A webhook to be made: where messages go, and of which events (None: a session's start and end)."""

    url: Url
    events: EventNames | None = None
    description: Description = ""


class WebhookChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be changed of a webhook; None leaves it. To enable it forgets that it failed."""

    url: Url | None = None
    events: EventNames | None = None
    description: Description | None = None
    enabled: bool | None = None


class SecretRotation(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the old secret signs beside the new one."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400)] = 86_400


class Webhook(msgspec.Struct):
    """A webhook; times are Unix ms. `failing_since`: every attempt since then has failed."""

    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    created_at: int
    failing_since: int | None
    disabled_at: int | None
    disabled_reason: str | None


class MadeWebhook(msgspec.Struct):
    """A webhook with its new `secret`, which is not shown again."""

    secret: str
    webhook: Webhook


class WebhookList(msgspec.Struct):
    """Webhooks, newest first."""

    items: list[Webhook]


class Delivery(msgspec.Struct):
    """A message: `state` is `pending`, `delivered` or `failed`; times are Unix ms.

    `id` is sent as `webhook-id`; `status` is the last HTTP status of the receiver, `error` what went wrong last.
    """

    id: str
    type: str
    state: str
    created_at: int
    next_attempt_at: int | None
    attempts: int
    delivered_at: int | None
    status: int | None
    error: str | None
    payload: dict[str, Any]


class DeliveryList(msgspec.Struct):
    """Messages, newest first; `next_cursor` is the `before` of the next page."""

    items: list[Delivery]
    next_cursor: str | None


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/webhooks`."""
    hooks = runtime.webhooks
    guards = [needs("admin")]

    @post("/v1/webhooks", guards=guards)
    async def create_webhook(request: Asked, data: JSONBody[NewWebhook]) -> MadeWebhook:
        """Make a webhook. Its secret is in this answer and nowhere else."""
        record, secret = await hooks.create(data.url, data.events, description=data.description)
        audit(request, "webhook.create", record.id, url=record.url)
        return MadeWebhook(secret, _view(record))

    @get("/v1/webhooks", guards=guards)
    async def list_webhooks() -> WebhookList:
        """All webhooks."""
        return WebhookList([_view(record) for record in await hooks.all()])

    @get("/v1/webhooks/{webhook_id:str}", guards=guards)
    async def get_webhook(webhook_id: FromPath[str]) -> Webhook:
        """A webhook."""
        return _view(await hooks.get(webhook_id))

    @patch("/v1/webhooks/{webhook_id:str}", guards=guards)
    async def change_webhook(webhook_id: FromPath[str], request: Asked, data: JSONBody[WebhookChange]) -> Webhook:
        """Change a webhook, disable it or enable it again."""
        record = await hooks.change(
            webhook_id, url=data.url, wanted=data.events, description=data.description, enabled=data.enabled
        )
        changed = {name: value for name, value in msgspec.structs.asdict(data).items() if value is not None}
        audit(request, "webhook.change", record.id, **changed)
        return _view(record)

    @delete("/v1/webhooks/{webhook_id:str}", guards=guards)
    async def delete_webhook(webhook_id: FromPath[str], request: Asked) -> None:
        """Delete a webhook; what still waits for it is not sent."""
        await hooks.delete(webhook_id)
        audit(request, "webhook.delete", webhook_id)

    @post("/v1/webhooks/{webhook_id:str}/rotate", guards=guards)
    async def rotate_webhook_secret(
        webhook_id: FromPath[str], request: Asked, data: JSONBody[SecretRotation | None] = None
    ) -> MadeWebhook:
        """Make a new secret; for the overlap messages are signed with the old one, too."""
        record, secret = await hooks.rotate(webhook_id, overlap_s=(data or SecretRotation()).overlap_s)
        audit(request, "webhook.rotate", webhook_id)
        return MadeWebhook(secret, _view(record))

    @post("/v1/webhooks/{webhook_id:str}/test", guards=guards, status_code=202)
    async def test_webhook(webhook_id: FromPath[str], request: Asked) -> Delivery:
        """Send a `webhook.test` message; how that went is in the deliveries."""
        delivery = _delivery(await hooks.test(webhook_id))
        audit(request, "webhook.test", webhook_id)
        return delivery

    @get("/v1/webhooks/{webhook_id:str}/deliveries", guards=guards)
    async def list_deliveries(
        webhook_id: FromPath[str], limit: Limit = 50, before: FromQuery[str | None] = None
    ) -> DeliveryList:
        """Messages to a webhook, newest first."""
        items = [_delivery(record) for record in await hooks.deliveries(webhook_id, limit, before=before)]
        return DeliveryList(items, items[-1].id if len(items) == limit else None)

    @post("/v1/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}/redeliver", guards=guards, status_code=202)
    async def redeliver(webhook_id: FromPath[str], delivery_id: FromPath[str], request: Asked) -> Delivery:
        """Send a message again, under the same id, as often as a new one."""
        delivery = _delivery(await hooks.redeliver(webhook_id, delivery_id))
        audit(request, "webhook.redeliver", webhook_id, delivery=delivery_id)
        return delivery

    return [
        create_webhook,
        list_webhooks,
        get_webhook,
        change_webhook,
        delete_webhook,
        rotate_webhook_secret,
        test_webhook,
        list_deliveries,
        redeliver,
    ]


def _view(record: WebhookRecord) -> Webhook:
    return Webhook(
        record.id,
        record.url,
        record.events,
        record.description,
        record.enabled,
        record.created_at,
        record.failing_since,
        record.disabled_at,
        record.disabled_reason,
    )


def _delivery(record: DeliveryRecord) -> Delivery:
    state = "pending" if record.next_attempt_at is not None else "delivered" if record.delivered_at else "failed"
    return Delivery(
        record.id,
        record.type,
        state,
        record.created_at,
        record.next_attempt_at,
        record.attempts,
        record.delivered_at,
        record.status,
        record.error,
        msgspec.json.decode(record.payload),
    )
