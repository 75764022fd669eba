"""A server's runtime for the suites of adapters and observers: the built-in plugins and the one that is tested."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rejoinder.app import Runtime
from rejoinder.discovery import OURS, find_plugins
from rejoinder.manager import Plugins, Stage
from rejoinder.settings import Agent, Auth, Settings, load_settings
from rejoinder.testing.conformance.plugin import PluginConformance
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, rule
from rejoinder.testing.conformance.settings import check_settings
from rejoinder.testing.conformance.subject import Subject

AGENT = "scripted"


class LiveConformance(PluginConformance):
    """What the suites of plugins without providers have in common. Set `plugin` in a subclass."""

    section: str | None = None
    """The NAME of its `[plugins.NAME]`, which `settings` are; None: the plugin's own."""

    @asynccontextmanager
    async def running(self, auth: Literal["keys", "none"] = "none", *, alone: bool = False) -> AsyncIterator[Runtime]:
        """A runtime that has been started, with the plugin (`alone`: without it)."""
        subject = self.subject()
        name = AGENT
        agent = Agent(vad=name, stt=(name,), llm=(name,), tts=(name,), turn=(), interruption=(), tools=())
        sections = dict(load_settings().plugins)
        if self.settings:
            section = self.section or subject.name
            sections[section] = {**sections.get(section, {}), **self.settings}
        with tempfile.TemporaryDirectory(prefix="rejoinder-test-") as folder:
            settings = Settings(
                database_url=f"sqlite+aiosqlite:///{Path(folder) / 'test.db'}",
                default_agent=name,
                agents={name: agent},
                plugins=sections,
                auth=Auth(mode=auth, dev_key_file=Path(folder) / "key"),
            )
            plugins = with_builtin(None if alone else subject, without=subject.plugin)
            async with Runtime(settings, plugins=plugins) as runtime:
                yield runtime

    @rule
    def test_settings(self) -> Seen:
        """Its sections' fields all have defaults, refuse unknown keys, can come from the environment, hide secrets."""
        plugins = self.subject().plugins
        sections = plugins.settings()
        refused = [one.what for info in plugins.infos.values() for one in info.problems if "settings" in one.subject]
        if refused:
            raise Violation(refused[0], "return msgspec Structs whose fields have defaults")
        if not sections:
            raise NotChecked("it has no section of its own (`register_settings`)")
        return Seen("; ".join(check_settings(name, schema) for name, schema in sections.items()))

    @rule
    async def test_life(self) -> Seen:
        """The server starts and stops with it, and its hooks `startup` and `shutdown` do not fail."""
        async with self.running() as runtime:
            problem = problem_of(runtime.plugins, self.subject(), "startup")
        problem = problem or problem_of(runtime.plugins, self.subject(), "shutdown")
        if problem:
            raise Violation(problem, "catch what may fail; free in `shutdown` what `startup` has made")
        hooks = runtime.plugins.hooks_of(self.subject().name)
        return Seen(", ".join(hooks))


def with_builtin(subject: Subject | None, *, without: object) -> Plugins:
    """The built-in plugins but `without`, and `subject`."""
    plugins = Plugins()
    for found in find_plugins():
        if found.distribution == OURS:
            plugins.add(found.name, found.load, distribution=found.distribution, version=found.version)
    ours = {name for name in plugins.infos if plugins.module(name) is without}
    if not ours and subject is not None:
        plugins.add(subject.name, lambda: subject.plugin)
    if ours and subject is None:
        kept = Plugins()
        for found in find_plugins():
            if found.distribution == OURS and found.name not in ours:
                kept.add(found.name, found.load, distribution=found.distribution, version=found.version)
        return kept
    return plugins


def problem_of(plugins: Plugins, subject: Subject, stage: Stage) -> str:
    """What went wrong with the plugin in `stage`; "" if nothing did."""
    info = plugins.infos.get(subject.name)
    return next((one.what for one in info.problems if one.stage == stage), "") if info else ""


def renamed(subject: Subject, plugins: Plugins) -> Subject:
    """`subject` under the name that it has in `plugins`: a built-in one is called by its entry point."""
    name = next((name for name in plugins.infos if plugins.module(name) is subject.plugin), subject.name)
    return replace(subject, name=name)


def texts() -> dict[str, Any]:
    """Texts that nobody expects, by what is odd about them."""
    return {
        "no text": "",
        "spaces": " \n\t",
        "a lone surrogate": "hello \ud800",
        "control characters": "\x00\x07\x1b[31m",
        "right to left": "שלום \u202eabc",
        "emoji": "👩‍👩‍👧 🎉",
        "numbers": "4111 1111 1111 1111, +1 (555) 010-9999, a@example.com",
        "a very long text": "all work and no play " * 2_000,
        "markup": "<b>{x}</b> %s $1 \\1 [](",
    }
