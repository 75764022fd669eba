"""Writes docs/plugins/hooks.md from core/rejoinder/hookspecs.py: `python docs/plugins/generate.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rejoinder import hooks, hookspecs
from rejoinder.manager import MAY_BE_ASYNC
from rejoinder.settings import Limits

PAGE = Path(__file__).parent / "hooks.md"

HEAD = """\
# Hooks

<!-- Made from core/rejoinder/hookspecs.py by `python docs/plugins/generate.py`; do not edit this page. -->

A plugin implements the hooks it wants, as functions marked with `@hookimpl` (`from rejoinder import hookimpl`), in a
module or as methods of an object. All are optional.

**Arguments** are passed by name; an implementation takes those it wants and leaves out the others, as plain
parameters.

A plugin is **refused**, all of it, for a function that is called like a `register_` or `before_` hook but has no mark,
for a marked one that is called like no hook, for wrappers (`hookwrapper`, `wrapper`), for parameters with defaults or
stars and keyword-only ones, and for `async` hooks, which nobody would wait for (but {may_wait}).

## Order

{order}

`shutdown` goes the other way round. Filters are a chain: each gets what the one before it returned.

## Time

What the hooks of conversations take is measured for each plugin and told in microseconds with every answered turn
(`hooks` in [`turn.metrics`](../reference/protocol.md): what they took since the reply before ended) and in
[Prometheus](../reference/metrics.md). A call that holds up the event loop for {slow} ms or more counts as failed; after
one of {block} ms or more the hook rests at once. What an `async` filter does after its first `await` is not measured
for that: if it holds up the loop there, the [watchdog](quarantine.md#a-plugin-that-blocks-the-event-loop) sees it, and
from {block} ms on it rests, too. Work that takes long belongs in a thread or in a task.

## Failing

Whatever a hook raises, `SystemExit` and `CancelledError` too, counts as its failure; so does a result of a wrong type.
A hook of a conversation that fails three times in a row **rests** for {rest} s: it is not called. Then one call is the
trial: if that fails the hook rests twice as long, at most {longest} min; if it works, all is forgotten. A rest for
holding up the loop doubles the same way, and ends with its time only: calls that were under way and worked do not
end it. Failures of calls that began before the rest do not count again. Failures more than five minutes apart are not
in a row. The plugin's other hooks and what it offers are not touched.

What went wrong is kept: the type of the exception and the place, since its text may hold what somebody said; text and
traceback are in the details, which only `admin` sees (and the log at level `debug`). See
[quarantine](quarantine.md).

Work that is late is cancelled; if it ignores that it is let go 0.1 s later, and the log says so.

"""


class Facts(NamedTuple):
    """What the docstring of a hook does not say."""

    called: str
    counted: str
    raises: str
    blocks: str
    late: str


LEADS = {
    "what a plugin offers": "Asked for when a server starts, and by commands (`rejoinder plugins list`). Some are "
    "asked several times in a process: be quick, and return the same each time.",
    "its life": "Called once each, but for `health`.",
    "conversations": "Called on the event loop while somebody waits.",
}
"""What stands below a heading."""
_AGAIN = "Several times: when settings are checked, when plugins are listed, at each `runtime.section(...)`"
_OFFERED = Facts(
    called="Once in a process, when it is first asked for.",
    counted="nowhere: no call waits for it.",
    raises="All that this hook of the plugin would offer is left out, with a problem of the stage `register`; so is a "
    "result of which one item has the wrong type. An item that is not whole (its name, settings, functions) is left "
    "out alone. What the plugin's other hooks offer stays. See [quarantine](quarantine.md#what-is-looked-at).",
    blocks="Whoever asks waits; mostly, starting takes longer.",
    late="There is no deadline.",
)
FACTS = {
    "register_providers": _OFFERED,
    "register_tools": _OFFERED,
    "register_tool_sources": _OFFERED._replace(
        called=f"{_AGAIN}, always with `runtime` None; and with the runtime once, when that is made.",
    ),
    "register_agents": _OFFERED,
    "register_settings": _OFFERED._replace(
        called=f"{_AGAIN}. A section that is named like a provider or tool of another plugin is left out.",
    ),
    "register_models": _OFFERED._replace(called="When the server starts, and when models are listed or pulled."),
    "register_routes": _OFFERED._replace(
        called="Once, when the server's application is built, after `startup`; not where there is no server. If one "
        "does not fit (see [adapters](kinds/adapter.md#contract)), all of the plugin's are left out, with a problem.",
        raises="The plugin has no routes, with a problem of the stage `register`. What its other hooks offer stays.",
    ),
    "startup": Facts(
        called="Once, when the runtime starts, one plugin after the other, after the providers of the default agent "
        "are ready and before sessions are taken.",
        counted="nowhere: no call waits for it.",
        raises="A problem of the stage `startup`; the server starts all the same, and its other hooks are called. If "
        "the plugin is one of `required_plugins` the server does not start.",
        blocks="Starting takes longer.",
        late=f"After {hooks.STARTUP_S:g} s it is cancelled, which counts as failed.",
    ),
    "shutdown": Facts(
        called="Once, when the runtime stops, one plugin after the other, after the last session has ended; also where "
        "`startup` failed.",
        counted="nowhere.",
        raises="A problem of the stage `shutdown`, logged; the others are called all the same.",
        blocks="Stopping takes longer.",
        late=f"After {hooks.SHUTDOWN_S:g} s it is cancelled.",
    ),
    "health": Facts(
        called="By `GET /v1/plugins`, at most every 5 s; all plugins at once.",
        counted="nowhere.",
        raises="The type and text of the exception are the line that is shown (of any line, 500 characters).",
        blocks="Every call is held up: answer from what is known, or be `async`.",
        late=f"After {hooks.HEALTH_S:g} s it is cancelled, and that is the line that is shown.",
    ),
    "on_event": Facts(
        called="At each event of each session, inline. It must not be `async`.",
        counted="in `turn.metrics` (of a reply, up to its `reply.finished`), and Prometheus.",
        raises="The event goes to the others; see [failing](#failing).",
        blocks="Every call is held up; see [time](#time).",
        late="There is no deadline: it is waited for.",
    ),
    "before_llm": Facts(
        called="Before each request to the LLM, also of answers that are only prepared; each round of tool calls is a "
        'request. Also for the OpenAI chat completions, which have no session: there `session_id` is `""`.',
        counted="in `turn.metrics` and Prometheus, what an `async` one waits for included; of chat completions in "
        "Prometheus only. It also lies in the turn's `response_us`.",
        raises="The request goes on as it was before this plugin; see [failing](#failing). A result that is neither an "
        "`LlmRequest` nor None counts as failed.",
        blocks="Every call is held up; see [time](#time).",
        late=f"An `async` one has `limits.hook_ms` ({Limits().hook_ms}); then it is cancelled, which counts as failed.",
    ),
    "before_tts": Facts(
        called="Before each chunk of an answer is spoken, when there is somebody who listens; also for each chunk of "
        "the phrases that are rendered ahead beside a conversation (greeting, fillers, apologies, nudges), whether or "
        "not they are heard. It must not be `async`.",
        counted="in `turn.metrics` and Prometheus. It also lies in the turn's `response_us`.",
        raises="The chunk is spoken as it was before this plugin; see [failing](#failing). A result that is no text "
        "counts as failed.",
        blocks="Every call is held up; see [time](#time).",
        late="There is no deadline: it is waited for.",
    ),
    "before_storage": Facts(
        called="For each text of each event, before it is written down: what the user said, the answer and what was "
        "heard of it, names, arguments, results and progress of tools, the texts of `error`, the reason of "
        "`session.ended`. Arguments and results that are JSON objects or arrays are given value by value (and key by "
        "key; a number as its text), and stay JSON. Without being asked, `reply.text`, the text of "
        "`user.interruption` and transcripts that are not final are stored without their text: a secret may lie "
        "across their ends. What was heard of an answer that was cut off is stored as far as it agrees with the whole "
        "answer as it is stored. A text that itself ends in the middle of a secret (a generation that was cut off) "
        "comes as it is: match the beginning of a secret at the end of a text if that matters. It is not asked for "
        "what `on_event` sees and what stands in the log. It must not be `async`.",
        counted="in `turn.metrics` (of a reply, up to its `reply.finished`), and Prometheus.",
        raises='**The text is stored as ""**: nobody knows what would have been hidden. As long as the plugin rests, '
        'all texts are stored as "". A plugin that is not loaded hides nothing: name it in `required_plugins`, and '
        "the server does not start without it.",
        blocks="Every call is held up; see [time](#time).",
        late="There is no deadline: it is waited for.",
    ),
}


def specifications() -> Iterator[tuple[str, Any]]:
    """The hooks in the order of the source, each with the heading it stands under."""
    source = inspect.getsource(hookspecs)
    heading = ""
    for line in source.splitlines():
        if found := re.match(r"# --- (.*?) -+$", line):
            heading = found[1]
        elif found := re.match(r"(?:async )?def (\w+)\(", line):
            yield heading, getattr(hookspecs, found[1])


def order() -> str:
    """The order of hooks, from the module's docstring."""
    text = " ".join((hookspecs.__doc__ or "").split())
    return text[text.index("Hooks are called in this order") :]


def signature(hook: Any) -> str:
    """Its first line, as it would be written."""
    text = re.sub(r"'([^']*)'", r"\1", str(inspect.signature(hook)))
    return f"def {hook.__name__}{text}"


def page() -> str:
    """The page, as it is to be."""
    parts = [
        HEAD.format(
            order=order(),
            slow=round(hooks.SLOW_S * 1000),
            block=round(hooks.BLOCK_S * 1000),
            may_wait=", ".join(f"`{name}`" for name in MAY_BE_ASYNC),
            rest=round(hooks._REST_S),
            longest=round(hooks._LONGEST_REST_S / 60),
        )
    ]
    before = None
    for heading, hook in specifications():
        if heading != before:
            before = heading
            title = heading.partition(":")[0]
            parts.append(f"## {title[0].upper()}{title[1:]}\n\n{LEADS[title]}\n\n")
        facts = FACTS[hook.__name__]
        parts.append(
            f"### `{hook.__name__}`\n\n```\n{signature(hook)}\n```\n\n{inspect.getdoc(hook)}\n\n"
            f"- **Called**: {facts.called}\n"
            f"- **Its time** is counted {facts.counted}\n"
            f"- **If it raises**: {facts.raises}\n"
            f"- **If it blocks**: {facts.blocks}\n"
            f"- **If it is late**: {facts.late}\n\n"
        )
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
