"""The audit log, read back: who did what, to what, from where."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.params import FromQuery, QueryParameter

from rejoinder.app import Runtime
from rejoinder.store.audit import AuditRecord
from rejoinder_adapters.security import needs

Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Before = Annotated[int | None, QueryParameter(ge=1, le=2**53)]


class AuditList(msgspec.Struct):
    """Rows, newest first; `next_cursor` is the `before` of the next page."""

    items: list[AuditRecord]
    next_cursor: str | None


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/audit`."""

    @get("/v1/audit", guards=[needs("admin")])
    async def list_audit(
        limit: Limit = 50,
        before: Before = None,
        actor: FromQuery[str | None] = None,
        action: FromQuery[str | None] = None,
        subject: FromQuery[str | None] = None,
    ) -> AuditList:
        """Who did what; rows are only ever added."""
        items = await runtime.audit.rows(limit, before=before, actor=actor, action=action, subject=subject)
        return AuditList(items, str(items[-1].id) if len(items) == limit else None)

    return [list_audit]
