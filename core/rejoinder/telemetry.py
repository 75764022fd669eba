"""Prometheus metrics of one process, fed from the event stream; labels are bounded and never hold ids or text."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from rejoinder import __version__, events
from rejoinder.clock import Clock
from rejoinder.hooks import Hooks
from rejoinder.store.store import Store

log = logging.getLogger(__name__)
RESPONSE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 6, 10)
SPAN_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 4, 10)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
OTHER = "other"
"""The label of what is not told apart."""
MOST_LABELS = 200
"""A metric has at most so many combinations of labels."""
_KEPT = 8
_SAMPLE_S = 0.5
_LAGS = 120
"""Samples of a minute."""


class _Labelled:
    """The children of a metric by their labels, made once; beyond `MOST_LABELS` all others are one."""

    def __init__(self, metric: Any, size: int) -> None:
        self._metric = metric
        self._rest = (OTHER,) * size
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, *labels: str) -> Any:
        child = self._children.get(labels)
        if child is None:
            if len(self._children) >= MOST_LABELS:
                labels = self._rest
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class _Live:
    """What must be known of a live session: its agent, and which of its newest turns were measured."""

    __slots__ = ("agent", "measured")

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.measured: dict[str, None] = {}


class Telemetry:
    """The metrics of one process, in a registry of its own; `start()` and `close()` it on the loop it watches.

    `tools()` are the names of the tools there are; what a model calls otherwise is counted as `other`.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        sessions: Callable[[], int],
        tools: Callable[[], Collection[str]],
        hooks: Hooks,
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._tools = tools
        self._known_tools: frozenset[str] = frozenset()
        self._tools_asked = float("-inf")
        self._live: dict[str, _Live] = {}
        self._task: asyncio.Task[None] | None = None
        self._broken = False
        self._started = _Labelled(self._counter("sessions_started", "Sessions that began.", "agent"), 1)
        self._response = _Labelled(
            self._histogram(
                "turn_response_seconds",
                "From the user's last speech to the first sound of the answer.",
                RESPONSE_BUCKETS,
                "agent",
            ),
            1,
        )
        self._span = _Labelled(
            self._histogram("turn_span_seconds", "Each piece of a turn's response time.", SPAN_BUCKETS, "span"), 1
        )
        self._interruptions = _Labelled(
            self._counter("interruptions", "Times that the user spoke over the agent.", "accepted"), 1
        )
        self._switches = _Labelled(
            self._counter("provider_switches", "Providers that failed or were late.", "kind", "provider", "cause"),
            3,
        )
        self._errors = _Labelled(self._counter("errors", "Errors that sessions told.", "code"), 1)
        self._tool_calls = _Labelled(self._counter("tool_calls", "Tool calls that ended.", "tool", "status"), 2)
        self._webhooks = _Labelled(
            self._counter("webhook_deliveries", "Attempts to deliver a webhook's message.", "outcome"), 1
        )
        self.streams = 0
        """How many event streams are open."""
        self._sse_readers: Gauge = Gauge("rejoinder_sse_readers", "Open event streams.", registry=self.registry)
        self._lags: deque[float] = deque(maxlen=_LAGS)
        self._lag = self._histogram(
            "event_loop_lag_seconds", f"How late the event loop was, sampled each {_SAMPLE_S:g} s.", LAG_BUCKETS
        )
        self.registry.register(_Observed(store, sessions, hooks))
        self._handlers: dict[type, Callable[[str, Any], None]] = {
            events.SessionStarted: self._session_started,
            events.SessionEnded: self._session_ended,
            events.Interruption: self._interruption,
            events.ToolReturned: self._tool_returned,
            events.TurnMetrics: self._turn_metrics,
            events.ProviderSwitched: self._provider_switched,
            events.Error: self._error,
        }

    def start(self) -> None:
        """Begin to sample the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._sample(), name="event-loop-lag")

    async def close(self) -> None:
        """Sample no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def on_event(self, session_id: str, event: events.Event) -> None:
        """Count `event`; never fails."""
        handle = self._handlers.get(type(event))
        if handle is None:
            return
        try:
            handle(session_id, event)
        except Exception:
            if not self._broken:
                log.exception("metrics could not count %s", type(event).__name__)
            self._broken = True

    def stream(self, change: Literal[1, -1]) -> None:
        """Count an event stream that was opened, or closed."""
        self.streams += change
        self._sse_readers.set(self.streams)

    def lag_p99_ms(self) -> float | None:
        """The 99th percentile of how late the event loop was in the last minute; None before it was looked at."""
        late = sorted(self._lags)
        return round(late[(99 * len(late) - 1) // 100] * 1000, 2) if late else None

    def webhook(self, outcome: str) -> None:
        """Count an attempt to deliver: `delivered`, `retried` or `failed`."""
        self._webhooks(outcome).inc()

    def _session_started(self, session_id: str, event: events.SessionStarted) -> None:
        # One that is taken up again says so once more.
        if session_id not in self._live:
            self._live[session_id] = _Live(event.agent)
            self._started(event.agent).inc()

    def _session_ended(self, session_id: str, event: events.SessionEnded) -> None:
        self._live.pop(session_id, None)

    def _interruption(self, session_id: str, event: events.Interruption) -> None:
        self._interruptions("true" if event.accepted else "false").inc()

    def _tool_returned(self, session_id: str, event: events.ToolReturned) -> None:
        self._tool_calls(self._tool(event.name), event.status).inc()

    def _turn_metrics(self, session_id: str, event: events.TurnMetrics) -> None:
        live = self._live.get(session_id)
        if live is None or event.turn_id in live.measured:
            # As in the database, a turn is measured once: the user waited for its first answer.
            return
        live.measured[event.turn_id] = None
        if len(live.measured) > _KEPT:
            del live.measured[next(iter(live.measured))]
        self._response(live.agent).observe(event.response_us / 1e6)
        for span in event.spans:
            self._span(span.name).observe(span.us / 1e6)

    def _provider_switched(self, session_id: str, event: events.ProviderSwitched) -> None:
        self._switches(event.kind, event.provider, event.cause).inc()

    def _error(self, session_id: str, event: events.Error) -> None:
        self._errors(event.code).inc()

    def _tool(self, name: str) -> str:
        """`name` if it is a tool's; models call what does not exist."""
        if name not in self._known_tools and self._clock.monotonic() - self._tools_asked >= 1:
            self._tools_asked = self._clock.monotonic()
            self._known_tools = frozenset(self._tools())
        return name if name in self._known_tools else OTHER

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_S
            await asyncio.sleep(_SAMPLE_S)
            late = max(0.0, loop.time() - due)
            self._lag.observe(late)
            self._lags.append(late)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"rejoinder_{name}", text, labels, buckets=tuple(buckets), registry=self.registry)


class _Observed(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, store: Store, sessions: Callable[[], int], hooks: Hooks) -> None:
        self._store = store
        self._hooks = hooks
        self._sessions = sessions

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known to be free, and the store may not be open yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        writer = self._store.writer
        yield GaugeMetricFamily("rejoinder_sessions_active", "Live sessions.", value=self._sessions())
        yield GaugeMetricFamily(
            "rejoinder_store_rows_waiting", "Rows taken and not yet committed.", value=writer.waiting
        )
        yield CounterMetricFamily(
            "rejoinder_store_rows_dropped", "Rows lost because the database could not keep up.", value=writer.dropped
        )
        yield CounterMetricFamily(
            "rejoinder_store_rows_rejected", "Rows that the database refused.", value=writer.rejected
        )
        time_of_hooks = CounterMetricFamily(
            "rejoinder_plugin_hook_seconds", "Time that hooks of plugins took.", labels=("plugin", "hook")
        )
        for (plugin, hook), ns in self._hooks.totals.items():
            time_of_hooks.add_metric((plugin, hook), ns / 1e9)
        yield time_of_hooks
        problems = CounterMetricFamily(
            "rejoinder_plugin_problems", "Times that something went wrong with a plugin.", labels=("plugin", "stage")
        )
        for info in self._hooks.plugins.infos.values():
            for stage, count in info.counts.items():
                problems.add_metric((info.name, stage), count)
        yield problems
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("rejoinder_build", "What runs here.", value=build)
