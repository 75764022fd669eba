"""`/metrics`: what Prometheus reads is what the database says, with bounded labels; and what an event costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import text
from tests.receivers import receiving

from rejoinder import __version__, events
from rejoinder.clock import SystemClock
from rejoinder.hooks import Hooks
from rejoinder.manager import Plugins
from rejoinder.settings import Auth, WebhookOptions
from rejoinder.store.store import Store
from rejoinder.telemetry import MOST_LABELS, RESPONSE_BUCKETS, Telemetry
from rejoinder.testing.scripted import noise, silence, tone

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: LiveServer) -> Samples:
    answer = httpx.get(f"{server.http}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(answer.text)


def read(exposed: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(exposed)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"rejoinder_{name}", tuple(sorted(labels.items()))), 0.0)


def sql(server: LiveServer, query: str) -> Any:
    async def ask() -> Any:
        async with server.runtime.store.reading() as connection:
            return [tuple(row) for row in (await connection.execute(text(query))).all()]

    return server.call(ask())


def test_what_prometheus_reads_is_what_the_database_says(serve: Serve) -> None:
    from tests.adapters.conftest import AGENT

    server = serve(
        {"repeat": 10, "ms_per_word": 40},
        agents={"other": AGENT.model_copy(update={"greeting": "Hello there."})},
        webhooks=WebhookOptions(allow_private=True),
    )

    async def main() -> None:
        async with receiving() as (_, url), httpx.AsyncClient(base_url=server.http) as http:
            assert (await http.post("/v1/webhooks", json={"url": url})).status_code == 201
            for agent in ("scripted", "scripted", "other"):
                async with server.caller(configure={"agent": agent}) as caller:
                    await caller.tell("text", text="go on")
                    while not caller.audio():
                        await caller.receive()
                    pcm = noise(300) + silence(500) if agent == "scripted" else tone(400) + silence(200)
                    for start in range(0, len(pcm), 640):
                        await caller.ws.send(pcm[start : start + 640])
                        await asyncio.sleep(0.02)
                    await caller.until("user.interruption")
                    assert of(await asyncio.to_thread(scrape, server), "sessions_active") == 1
                    await caller.tell("dtmf", digits="1")
                    await caller.until("error")
                    await caller.tell("end")
                    await caller.until("session.ended")

    asyncio.run(main())
    rows = dict(sql(server, "SELECT agent, count(*) FROM sessions GROUP BY agent"))
    assert rows == {"scripted": 2, "other": 1}
    metrics = scrape(server)
    for agent, count in rows.items():
        assert of(metrics, "sessions_started_total", agent=agent) == count
        response = "FROM turns JOIN sessions ON sessions.id = session_id WHERE response_us IS NOT NULL"
        ((n, total),) = sql(server, f"SELECT count(*), sum(response_us) {response} AND agent = '{agent}'")
        assert of(metrics, "turn_response_seconds_count", agent=agent) == n > 0
        assert of(metrics, "turn_response_seconds_sum", agent=agent) == pytest.approx(total / 1e6)
        for bucket in RESPONSE_BUCKETS:
            ((below,),) = sql(
                server, f"SELECT count(*) {response} AND agent = '{agent}' AND response_us <= {bucket * 1e6}"
            )
            assert of(metrics, "turn_response_seconds_bucket", agent=agent, le=str(float(bucket))) == below
    for span, n, total in sql(server, "SELECT name, count(*), sum(us) FROM spans GROUP BY name"):
        assert of(metrics, "turn_span_seconds_count", span=span) == n
        assert of(metrics, "turn_span_seconds_sum", span=span) == pytest.approx(total / 1e6)
    for accepted, n in sql(server, "SELECT accepted, count(*) FROM interruptions GROUP BY accepted"):
        assert of(metrics, "interruptions_total", accepted="true" if accepted else "false") == n
    for code, n in sql(
        server, "SELECT json_extract(data, '$.code'), count(*) FROM events WHERE type = 'error' GROUP BY 1"
    ):
        assert of(metrics, "errors_total", code=code) == n
    assert of(metrics, "sessions_active") == 0
    assert of(metrics, "store_rows_dropped_total") == of(metrics, "store_rows_rejected_total") == 0
    assert sum(v for (name, _), v in metrics.items() if name == "rejoinder_webhook_deliveries_total") > 0
    ((name, labels),) = [key for key in metrics if key[0] == "rejoinder_build_info"]
    assert (name, dict(labels)["version"]) == ("rejoinder_build_info", __version__)
    assert of(metrics, "event_loop_lag_seconds_count") > 0
    told = str(metrics)
    assert "ses_" not in told
    assert "go on" not in told


def test_open_event_streams_are_counted(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with server.caller() as caller, httpx.AsyncClient(base_url=server.http) as http:
            path = f"/v1/sessions/{caller.events('session.started')[0]['session_id']}/events"
            async with http.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
                pieces = stream.aiter_raw()
                await anext(pieces)
                assert of(await asyncio.to_thread(scrape, server), "sse_readers") == 1
                await caller.tell("end")
                async for _ in pieces:
                    pass
            async with asyncio.timeout(10):
                while True:
                    if of(await asyncio.to_thread(scrape, server), "sse_readers") == 0:
                        break
                    await asyncio.sleep(0.02)

    asyncio.run(main())


def test_reading_metrics_needs_the_scope(serve: Serve, tmp_path: Path) -> None:
    server = serve(auth=Auth(dev_key_file=tmp_path / "key"))
    keys = server.runtime.gate.keys
    for scope, status in (("read", 200), ("talk", 403)):
        _, key = server.call(keys.create(scope, [scope]))
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{server.http}/metrics", headers=headers).status_code == status
    assert httpx.get(f"{server.http}/metrics").status_code == 401


def test_openmetrics_for_those_who_ask(server: LiveServer) -> None:
    answer = httpx.get(f"{server.http}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "rejoinder_sessions_active" in {family.name for family in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]


def telemetry(*tools: str) -> Telemetry:
    store, hooks = Store("sqlite+aiosqlite:///:memory:"), Hooks(Plugins())
    return Telemetry(store, SystemClock(), sessions=lambda: 0, tools=lambda: tools, hooks=hooks)


def value(counted: Telemetry, name: str, **labels: str) -> float | None:
    of_it = counted.registry.restricted_registry([f"rejoinder_{name}"])
    return next((s.value for family in of_it.collect() for s in family.samples if s.labels == labels), None)


def test_labels_are_bounded() -> None:
    counted = telemetry("clock")
    for number in range(3 * MOST_LABELS):
        counted.on_event("s", events.Error(code=f"code {number}", message=""))
        counted.on_event(
            "s", events.ToolReturned(reply_id="r", call_id="c", name=f"made up {number}", status="failed", result="")
        )
        counted.on_event("s", events.ProviderSwitched(kind="llm", provider="a", to="b", cause=f"cause {number}"))
    counted.on_event("s", events.ToolReturned(reply_id="r", call_id="c", name="clock", status="ok", result=""))
    assert value(counted, "errors_total", code="code 0") == 1
    assert value(counted, "errors_total", code="other") == 2 * MOST_LABELS
    assert value(counted, "provider_switches_total", kind="other", provider="other", cause="other") == 2 * MOST_LABELS
    assert value(counted, "tool_calls_total", tool="other", status="failed") == 3 * MOST_LABELS
    assert value(counted, "tool_calls_total", tool="clock", status="ok") == 1
    assert len(counted._errors._children) == MOST_LABELS + 1, "what is remembered is bounded, too"


def test_a_turn_is_measured_once_and_a_session_that_is_taken_up_again_counted_once() -> None:
    counted = telemetry()
    metrics = events.TurnMetrics(turn_id="t", reply_id="r", response_us=300_000, spans=[events.Span("llm", 300_000)])
    start = events.SessionStarted(agent="a", input_rate=16_000, output_rate=24_000)
    for event in (start, metrics, start, metrics):
        counted.on_event("s", event)
    assert value(counted, "sessions_started_total", agent="a") == 1
    assert value(counted, "turn_response_seconds_count", agent="a") == 1
    counted.on_event("s", events.SessionEnded(reason="x"))
    assert not counted._live, "nothing is kept of a session that is over"


def test_counting_never_fails(caplog: pytest.LogCaptureFixture) -> None:
    counted = telemetry()
    for _ in range(3):
        counted.on_event("s", events.Error(code=None, message=""))  # type: ignore[arg-type]
        counted.on_event("s", events.ToolReturned(reply_id="r", call_id="c", name=[], status="ok", result=""))  # type: ignore[arg-type]
    assert len(caplog.records) == 1, "said once"


def test_every_metric_is_documented(serve: Serve) -> None:
    page = DOCS.read_text(encoding="utf-8")
    server = serve()
    families = {family.name for family in parse(httpx.get(f"{server.http}/metrics").text)}
    assert len(families) >= 14
    for name in families:
        documented = name.removesuffix("_created")
        assert f"`{documented}" in page, name


def test_nothing_of_one_runtime_is_seen_in_another() -> None:
    one, two = telemetry(), telemetry()
    one.on_event("s", events.Error(code="x", message=""))
    assert value(one, "errors_total", code="x") == 1
    assert value(two, "errors_total", code="x") is None
