"""Writes docs/plugins/hooks.md from core/rejoinder/hookspecs.py: `python docs/plugins/generate.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rejoinder import hooks, hookspecs
from rejoinder.settings import Limits

PAGE = Path(__file__).parent / "hooks.md"

HEAD = """\
# Hooks

<!-- Made from core/rejoinder/hookspecs.py by `python docs/plugins/generate.py`; do not edit this page. -->

A plugin implements the hooks it wants, as functions marked with `@hookimpl` (`from rejoinder import hookimpl`), in a
module or as methods of an object. All are optional. Refused are a function that is called like a `register_` or
`before_` hook but has no mark, a marked one that is called like no hook, and wrappers (`hookwrapper`, `wrapper`).

**Arguments** are passed by name; an implementation takes those it wants and leaves out the others.

## Order

{order}

`shutdown` goes the other way round. Filters are a chain: each gets what the one before it returned.

## Time

What the hooks of conversations take is measured for each plugin and told in microseconds with every answered turn
(`hooks` in [`turn.metrics`](../reference/protocol.md)) and in [Prometheus](../reference/metrics.md). A call that holds
up the event loop for {slow} ms or more counts as failed; after one of {block} ms or more the hook rests at once. Work
that takes long belongs in a thread or in a task.

## Failing

A hook of a conversation that fails three times in a row **rests** for {rest} s: it is not called. Then it is tried
again; if it fails again it rests twice as long, at most {longest} min. One success forgets the failures. The plugin's
other hooks and what it offers are not touched. What went wrong is kept, with its traceback: see
[quarantine](quarantine.md).

"""


class Facts(NamedTuple):
    """What the docstring of a hook does not say."""

    called: str
    counted: str
    raises: str
    blocks: str
    late: str


_OFFERED = Facts(
    called="Once, when it is first asked for: when the server starts, or by a command (`rejoinder plugins list`).",
    counted="nowhere: no call waits for it.",
    raises="All that this hook of the plugin would offer is left out, with a problem of the stage `register`; so is a "
    "result of which one item has the wrong type. What the plugin's other hooks offer stays.",
    blocks="Starting takes longer.",
    late="There is no deadline.",
)
FACTS = {
    "register_providers": _OFFERED,
    "register_tools": _OFFERED,
    "register_tool_sources": _OFFERED._replace(
        called="With `runtime` None wherever sources are only listed, and with the runtime once when it is made.",
    ),
    "register_agents": _OFFERED,
    "register_settings": _OFFERED._replace(
        called="When settings are checked: at the start, and where plugins are listed."
    ),
    "register_models": _OFFERED._replace(called="When a model is looked for or listed."),
    "register_routes": _OFFERED._replace(
        called="Once, when the server's application is built, after `startup`; not where there is no server. Routes "
        "that Litestar refuses are left out with their plugin's others, with a problem."
    ),
    "startup": Facts(
        called="Once, when the runtime starts, one plugin after the other, after the providers of the default agent "
        "are ready and before sessions are taken.",
        counted="nowhere: no call waits for it.",
        raises="A problem of the stage `startup`; the server starts all the same, and its other hooks are called.",
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
        raises="The type and text of the exception are the line that is shown.",
        blocks="Every call is held up: answer from what is known, or be `async`.",
        late=f"After {hooks.HEALTH_S:g} s it is cancelled, and that is the line that is shown.",
    ),
    "on_event": Facts(
        called="At each event of each session, inline. It must not be `async`.",
        counted="in `turn.metrics` of the next answered turn, and Prometheus.",
        raises="The event goes to the others; see [failing](#failing).",
        blocks="Every call is held up; see [time](#time).",
        late="There is no deadline: it is waited for.",
    ),
    "before_llm": Facts(
        called="Before each request to the LLM, also of answers that are only prepared; each round of tool calls is a "
        "request.",
        counted="in `turn.metrics` and Prometheus, what an `async` one waits for included. It also lies in the turn's "
        "`response_us`.",
        raises="The request goes on as it was before this plugin; see [failing](#failing). A result that is neither an "
        "`LlmRequest` nor None counts as failed.",
        blocks="Every call is held up; see [time](#time).",
        late=f"An `async` one has `limits.hook_ms` ({Limits().hook_ms}); then it is cancelled, which counts as failed.",
    ),
    "before_tts": Facts(
        called="Before each chunk of an answer is spoken, when there is somebody who listens; not for phrases that are "
        "rendered ahead. It must not be `async`.",
        counted="in `turn.metrics` and Prometheus. It also lies in the turn's `response_us`.",
        raises="The chunk is spoken as it was before this plugin; see [failing](#failing). A result that is no text "
        "counts as failed.",
        blocks="Every call is held up; see [time](#time).",
        late="There is no deadline: it is waited for.",
    ),
    "before_storage": Facts(
        called="For each text of each event, before it is written down. It must not be `async`.",
        counted="in `turn.metrics` of the next answered turn, and Prometheus.",
        raises='**The text is stored as ""**: nobody knows what would have been hidden. As long as the plugin rests, '
        'all texts are stored as "".',
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
            rest=round(hooks._REST_S),
            longest=round(hooks._LONGEST_REST_S / 60),
        )
    ]
    before = None
    for heading, hook in specifications():
        if heading != before:
            before = heading
            parts.append(f"## {heading[0].upper()}{heading[1:]}\n\n")
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
