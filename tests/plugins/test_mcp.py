"""Tools of real MCP servers, as a program and over HTTP: calls, progress, cancelling, deaths and coming back."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("mcp")

from rejoinder.app import Runtime
from rejoinder.errors import MissingDependency
from rejoinder.manager import Plugins, load_plugins
from rejoinder.providers import ToolCall, ToolContext
from rejoinder.settings import Settings
from rejoinder.toolbox import Toolbox
from rejoinder.tools import ToolResult, run_tool
from rejoinder_plugins.tools import mcp, mcp_server
from rejoinder_plugins.tools.mcp import McpSettings, McpTools, ServerSettings

EXAMPLE = Path(__file__).with_name("mcp_example.py")
PATIENCE_S = 60.0


async def until(true: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - it is another process that changes it
            await asyncio.sleep(0.02)
    assert true(), what


class Example:
    """The example server, and what a test asks of it."""

    def __init__(self, folder: Path, over_http: bool) -> None:
        self.folder = folder
        self.over_http = over_http
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.told: list[tuple[str, float | None]] = []
        self.source: McpTools

    def serve(self) -> None:
        self.stop()
        (self.folder / "port").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, EXAMPLE, self.folder, str(self.port)])
        deadline = time.monotonic() + PATIENCE_S
        while not (self.folder / "port").exists() or not (self.folder / "port").read_text():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.port = int((self.folder / "port").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def settings(self, **more: Any) -> ServerSettings:
        if self.over_http:
            return ServerSettings(url=f"http://127.0.0.1:{self.port}/mcp", **more)
        return ServerSettings(command=sys.executable, args=(str(EXAMPLE), str(self.folder)), **more)

    def noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    @asynccontextmanager
    async def connected(self, **more: Any) -> AsyncIterator[Example]:
        before = asyncio.all_tasks()
        self.source = McpTools(McpSettings({"ex": self.settings(connect_timeout_s=PATIENCE_S, **more)}))
        try:
            await self.source.start()
            yield self
        finally:
            await self.source.close()
        assert asyncio.all_tasks() == before

    async def call(self, name: str, timeout_s: float = PATIENCE_S, /, **arguments: Any) -> ToolResult:
        call = ToolCall("c1", name, json.dumps(arguments))
        context = ToolContext("ses_1", told=lambda text, part: self.told.append((text, part)))
        return await run_tool(self.source.tools(), call, context, timeout_s)


@pytest.fixture(params=["stdio", "http"])
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Example]:
    served = Example(tmp_path, request.param == "http")
    if served.over_http:
        served.serve()
    try:
        yield served
    finally:
        served.stop()


def test_the_tools_of_a_server_are_offered_as_they_are(example: Example) -> None:
    async def main() -> None:
        async with example.connected(timeout_ms=30_000):
            tools = example.source.tools()
            add, book = tools["ex_add"], tools["ex_book_table"]
            assert (add.description, add.side_effects, add.timeout_ms) == ("Adds two numbers.", False, 30_000)
            assert add.parameters["properties"]["b"]["default"] == 1
            assert add.parameters["required"] == ["a"]
            assert book.side_effects
            assert await example.call("ex_add", a=2) == ToolResult("ok", "3")
            assert await example.call("ex_book_table", name="Ada") == ToolResult("ok", "booked for Ada")
            assert example.noted("booked") == ["Ada"]

    asyncio.run(main())


def test_what_a_server_says_no_to_is_a_failed_call(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            failed = await example.call("ex_fail")
            assert failed.status == "failed"
            assert "the oven is cold" in failed.text
            wrong = await example.call("ex_add", a="x")
            assert wrong.status == "failed"
            assert "valid integer" in wrong.text

    asyncio.run(main())


def test_progress_is_passed_on(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            assert await example.call("ex_count", to=4) == ToolResult("ok", "counted")
            assert example.told[0] == ("at 1", 0.25)

    asyncio.run(main())


def test_a_call_that_is_given_up_is_cancelled_at_the_server(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            call = asyncio.create_task(example.call("ex_wait"))
            await until(lambda: example.noted("waiting"), "the call has begun")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: example.noted("cancelled"), "the server was told")
            assert await example.call("ex_add", a=1) == ToolResult("ok", "2")
            late = await example.call("ex_wait", 0.2)
            assert late.text == "ex_wait did not answer within 0.2 seconds; it may or may not have taken effect."

    asyncio.run(main())


def test_a_tool_that_comes_later_is_offered_later(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            assert "ex_learned" not in example.source.tools()
            await example.call("ex_learn")
            await until(lambda: "ex_learned" in example.source.tools(), "the new tool is known")
            assert (await example.call("ex_learned")).text == "yes"

    asyncio.run(main())


def test_calls_run_side_by_side(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            waiting = asyncio.create_task(example.call("ex_wait"))
            await until(lambda: example.noted("waiting"), "the first call has begun")
            results = await asyncio.gather(*(example.call("ex_add", a=n) for n in range(20)))
            assert [result.text for result in results] == [str(n + 1) for n in range(20)]
            waiting.cancel()
            await asyncio.wait({waiting})

    asyncio.run(main())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a server is waited for."""
    monkeypatch.setattr(mcp_server, "WAIT_S", PATIENCE_S)
    monkeypatch.setattr(mcp_server, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(mcp_server, "LAST_RETRY_S", 0.2)


@pytest.mark.usefixtures("patient")
def test_a_server_that_was_started_anew_in_between_is_found_again(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            if example.over_http:
                await asyncio.to_thread(example.serve)
            else:
                (pid,) = example.noted("started")
                os.kill(int(pid), 9)
                await until(lambda: len(example.noted("started")) == 2, "it is started again")
            assert await example.call("ex_add", a=41) == ToolResult("ok", "42")

    asyncio.run(main())


@pytest.mark.usefixtures("patient")
def test_a_server_that_dies_in_a_call_fails_it_and_is_found_again(example: Example) -> None:
    async def main() -> None:
        async with example.connected():
            died = await example.call("ex_die")
            assert died.status == "failed"
            assert "it may or may not have taken effect" in died.text
            if example.over_http:
                await asyncio.to_thread(example.serve)
            assert await example.call("ex_add", a=41) == ToolResult("ok", "42")
            assert len(example.noted("started")) == 2

    asyncio.run(main())


def test_a_server_that_is_away_is_said_to_be(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_server, "WAIT_S", 0.05)
    monkeypatch.setattr(mcp_server, "FIRST_RETRY_S", 3600.0)

    async def main() -> None:
        async with example.connected():
            await example.call("ex_die")
            away = await example.call("ex_add", a=1)
            if example.over_http:
                # Only by that call it was found that nobody is there.
                assert away.status == "failed"
                await until(lambda: not example.source._servers[0]._ready.is_set(), "the loss is noticed")
                away = await example.call("ex_add", a=1)
            assert away == ToolResult("failed", "The server ex cannot be reached now. Nothing was done.")
            assert "ex_add" in example.source.tools()

    asyncio.run(main())


def test_no_program_is_left_behind(tmp_path: Path) -> None:
    example = Example(tmp_path, over_http=False)

    async def main() -> None:
        async with example.connected(env={"GREETING": "hello"}, cwd=str(tmp_path)):
            assert (await example.call("ex_environment", name="GREETING")).text == "hello"
            waiting = asyncio.create_task(example.call("ex_wait"))
            await until(lambda: example.noted("waiting"), "a call is running")
        assert (await waiting).status == "failed"

    asyncio.run(main())
    (pid,) = example.noted("started")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (ServerSettings(command="no-such-program"), ("No such file", "Does 'no-such-program' run by itself?")),
        (ServerSettings(command=sys.executable, args=("-c", "")), ("closed", "See command, args, env of")),
        (ServerSettings(url="http://127.0.0.1:1/mcp"), ("MCP server it: ", "Does it run at http://127.0.0.1:1/mcp?")),
        (
            ServerSettings(command=sys.executable, args=("-c", "input(); input()"), connect_timeout_s=0.3),
            ("no answer within 0.3 s", "[plugins.mcp.servers.it]"),
        ),
    ],
    ids=["missing", "ends", "refused", "silent"],
)
def test_a_server_that_cannot_be_reached_does_not_stop_the_start(
    settings: ServerSettings, told: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = McpTools(McpSettings({"it": settings}))
        async with asyncio.timeout(PATIENCE_S):
            await source.start()
            assert source.tools() == {}
            assert source.expects("it_add")
            assert not source.expects("other_add")
            await source.close()
        assert len(asyncio.all_tasks()) == 1

    with caplog.at_level(logging.WARNING, "rejoinder_plugins"):
        asyncio.run(main())
    for text in told:
        assert text in caplog.text


def test_an_agent_gets_the_tools_of_a_server_by_name_and_by_wildcard(tmp_path: Path) -> None:
    plugins = Plugins()
    assert plugins.add("mcp", lambda: mcp), plugins.infos
    server = {"command": sys.executable, "args": [str(EXAMPLE), str(tmp_path)], "connect_timeout_s": PATIENCE_S}

    async def main() -> None:
        box = Toolbox(plugins, {"mcp": {"servers": {"ex": server}}})
        box.check(["ex_add", "ex_later"])
        try:
            await box.start()
            assert set(box.choose(["ex_add", "ex_b*"])) == {"ex_add", "ex_book_table"}
        finally:
            await box.close()

    asyncio.run(main())


def test_a_runtime_connects_its_sessions_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scripted = {"vad": "scripted", "stt": "scripted", "llm": "scripted", "tts": "scripted", "turn": []}
    server = {"command": sys.executable, "args": [str(EXAMPLE), str(tmp_path)], "connect_timeout_s": PATIENCE_S}
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path}/test.db",
        default_agent="host",
        agents={"host": {**scripted, "tools": ["ex_*", "clock"]}},
        plugins={"mcp": {"servers": {"ex": server}}},
    )
    plugins = load_plugins()
    if "mcp" not in plugins.infos:
        plugins.add("mcp", lambda: mcp)

    async def main() -> None:
        async with Runtime(settings, plugins=plugins) as runtime:
            services = await runtime.services((await runtime.catalog.get()).definition)
            assert {"ex_add", "ex_book_table", "clock"} <= set(services.tools)
            wish = ToolCall("c", "ex_add", '{"a": 1}')
            assert (await run_tool(services.tools, wish, ToolContext("ses_1"), PATIENCE_S)).text == "2"
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    (pid,) = (tmp_path / "started").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": {"a": {}}},
        {"servers": {"a": {"command": "x", "url": "http://x"}}},
        {"servers": {"a b": {"command": "x"}}},
        {"servers": {"a": {"comand": "x"}}},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, McpSettings)


def test_without_the_package_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    McpTools(McpSettings())
    with pytest.raises(MissingDependency) as caught:
        McpTools(McpSettings({"a": ServerSettings(command="x")}))
    assert caught.value.fix == "pip install 'rejoinder[mcp]'"
