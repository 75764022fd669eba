"""docs/plugins is true: each block of code is run, what it names is there, what is there is named, links resolve."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click.testing
import httpx
import msgspec
import numpy as np
import pytest
import websockets

import rejoinder.testing
from rejoinder import audio, hooks, hookspecs, providers
from rejoinder.app import Runtime
from rejoinder.commands import plugin_new
from rejoinder.errors import ConfigError, MissingDependency, ProviderError
from rejoinder.events import Event, TurnCommitted, TurnMetrics
from rejoinder.manager import Plugins, load_plugins
from rejoinder.providers import LlmRequest, Message
from rejoinder.settings import Agent, Auth, Settings, TurnPolicy
from rejoinder.testing.conformance.rules import Suite
from rejoinder.testing.conformance.settings import check_settings
from rejoinder_adapters.server import listen, make_server

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r"# (.+)\n")
SUITES = [name for name in rejoinder.testing.__all__ if name.endswith("Conformance")]
RUNS = 20
"""Enough for the search for leaks to find what a use leaves behind."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@cache
def blocks(name: str) -> dict[str, str]:
    """The Python of a page by the first line of each block, which says where it belongs."""
    found = {}
    for text in BLOCK.findall(page(name)):
        title = TITLE.match(text)
        assert title, f"a block of {name} does not say in its first line which file it is: {text[:60]!r}"
        assert title[1] not in found, f"two blocks of {name} are {title[1]}"
        found[title[1]] = text
    return found


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`load(page, file)` imports a block as the file it says it is; its module is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def load(name: str, file: str) -> ModuleType:
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(blocks(name)[file], encoding="utf-8")
        importlib.invalidate_caches()
        monkeypatch.syspath_prepend(target.parent)
        return importlib.import_module(target.stem)

    yield load
    for module in set(sys.modules) - before:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[module]


def check(module: ModuleType) -> None:
    """Run the suites of a test file of the docs."""
    suites = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    assert suites
    for suite in suites:
        made = suite()
        assert isinstance(made, Suite)
        made.runs = RUNS  # type: ignore[attr-defined]
        outcomes = list(made.outcomes())
        assert outcomes
        assert {one.rule: f"{one.what} {one.fix}" for one in outcomes if one.state == "failed"} == {}


# --- every block is run -----------------------------------------------------------------------------------------

EXAMPLES = {
    "tts": ("beeper", "test_beeper"),
    "stt": ("keypad", "test_keypad"),
    "llm": ("parrot", "test_parrot"),
    "vad": ("loudness", "test_loudness"),
    "turn": ("radio", "test_radio"),
    "interruption": ("safe_word", "test_safe_word"),
    "tool": ("dice", "test_dice"),
    "adapter": ("ask", "test_ask"),
    "observer": ("slow_turns", "test_slow_turns"),
}
"""The complete example of each kind, and the test beside it."""
OTHERS = {
    "providers.md": {"check_in_warm_up.py", "pulled.py", "spoken_by_program.py"},
    "kinds/llm.md": {"over_http.py"},
    "kinds/adapter.md": {"line.py"},
    "kinds/observer.md": {"redact.py"},
    "testing.md": {"test_acme.py", "test_conversation.py", "by_hand.py"},
    "settings.md": {"acme_settings.py", "billing.py"},
    "versions.md": {"needs.py"},
    "README.md": {"commands.py", "concierge.py"},
    "tutorial.md": {
        "plugins/dice.py",
        "plugins/croupier.py",
        "into Settings, src/rejoinder_bell/__init__.py",
        "at the end of src/rejoinder_bell/__init__.py",
        "in src/rejoinder_bell/__init__.py",
        "src/rejoinder_bell/bell.py",
    },
}
"""What has a test of its own below."""


def test_every_block_of_code_is_run_by_one_of_these_tests() -> None:
    found = {(str(one.relative_to(DOCS)), title) for one in PAGES for title in blocks(str(one.relative_to(DOCS)))}
    tested = {(name, title) for name, titles in OTHERS.items() for title in titles}
    tested |= {(f"kinds/{kind}.md", f"{file}.py") for kind, files in EXAMPLES.items() for file in files}
    assert found == tested


@pytest.mark.models
@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_example_of_a_kind_is_found_and_keeps_its_rules(kind: str, load: Any, tmp_path: Path) -> None:
    name, test = EXAMPLES[kind]
    if kind == "stt":
        audio.write_wav(tmp_path / "one-two-three.wav", keys("123"), audio.ENGINE_RATE)
    module = load(f"kinds/{kind}.md", f"{name}.py")
    plugins = load_plugins(folder=tmp_path)
    assert plugins.infos[name].problems == []
    assert getattr(module, "REJOINDER_API", None) == hookspecs.API_VERSION
    if kind in providers.KINDS:
        assert [(one.kind, one.name) for one in plugins.offers(name)] == [(kind, name)]
    check(load(f"kinds/{kind}.md", f"{test}.py"))


def keys(digits: str) -> bytes:
    """The sound of telephone keys, each 200 ms, with silence between."""
    times = np.arange(audio.ENGINE_RATE // 5) / audio.ENGINE_RATE
    parts = [np.zeros(4000)]
    for digit in digits:
        row, column = divmod("123456789*0#".index(digit), 3)
        hz = ((697, 770, 852, 941)[row], (1209, 1336, 1477)[column])
        parts += [np.sin(np.outer(2 * np.pi * np.array(hz), times)).sum(axis=0) * 0.3, np.zeros(2000)]
    return audio.from_float(np.concatenate([*parts, np.zeros(4000)]).astype(np.float32))


def test_what_is_missing_is_told_in_warm_up(load: Any) -> None:
    acme = load("providers.md", "check_in_warm_up.py")

    class Given(msgspec.Struct):
        api_key: str | None = None

    nothing: Any = None
    with pytest.raises(ConfigError, match="needs an API key"):
        asyncio.run(acme.Acme(providers.ProviderContext(Given(), nothing, nothing, nothing)).warm_up())
    with pytest.raises(MissingDependency, match="acme-engine"):
        asyncio.run(acme.Acme(providers.ProviderContext(Given("k"), nothing, nothing, nothing)).warm_up())


def test_a_blocking_iterator_is_pulled_and_told_to_stop(load: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pulled = load("providers.md", "pulled.py").pulled
    made, stopped = [], []

    def make(stop: Any) -> Iterator[bytes]:
        stopped.append(stop)
        for number in range(100):
            made.append(number)
            yield bytes([number])

    async def main() -> list[bytes]:
        with ThreadPoolExecutor(1) as pool:
            async with aclosing(pulled(pool, make)) as stream:
                return [await anext(stream) for _ in range(3)]

    assert asyncio.run(main()) == [b"\0", b"\1", b"\2"]
    assert made == [0, 1, 2]
    assert stopped[0].is_set()


def test_a_program_is_read_and_killed(load: Any) -> None:
    output = load("providers.md", "spoken_by_program.py").output
    echo = "import sys; sys.stdout.write(sys.stdin.read())"
    slow = "import time; print('12345', flush=True); time.sleep(60)"

    async def all_of(*arguments: str, text: str = "") -> bytes:
        return b"".join([piece async for piece in output(*arguments, text=text)])

    async def cut() -> float:
        async with aclosing(output(sys.executable, "-c", slow)) as stream:
            await anext(stream)
            began = time.monotonic()
        return time.monotonic() - began

    assert asyncio.run(all_of(sys.executable, "-c", echo, text="four")) == b"four"
    assert asyncio.run(cut()) < 5
    with pytest.raises(ProviderError, match="status 3"):
        asyncio.run(all_of(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(ProviderError, match="is not installed"):
        asyncio.run(all_of("surely-no-such-program"))


@pytest.mark.parametrize(
    ("status", "lines", "expected"),
    [
        (200, ['{"text": "Good "}', '{"text": "day.", "done": true}'], "Good day."),
        (200, ['{"text": "Good "}'], ProviderError),
        (200, ["nonsense"], ProviderError),
        (401, [], ProviderError),
        (503, [], ProviderError),
    ],
)
def test_an_answer_over_http(load: Any, status: int, lines: list[str], expected: Any) -> None:
    answers = load("kinds/llm.md", "over_http.py").answers

    def serve(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["messages"] == [{"role": "user", "content": "Hello"}]
        return httpx.Response(status, text="\n".join(lines))

    async def main() -> str:
        request = LlmRequest((Message("user", "Hello"),))
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as client:
            return "".join([piece async for piece in answers(client, "http://acme.example/chat", request)])

    if isinstance(expected, str):
        assert asyncio.run(main()) == expected
    else:
        with pytest.raises(expected):
            asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is `true`."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - whoever makes it true tells nobody
            await asyncio.sleep(0.01)


def test_adapters_answer_in_writing_and_in_sound(load: Any, tmp_path: Path) -> None:
    ask, line = load("kinds/adapter.md", "ask.py"), load("kinds/adapter.md", "line.py")
    plugins = load_plugins()
    assert plugins.add("ask", lambda: ask)
    assert plugins.add("line", lambda: line)
    script = {"reply": "It is open.", "transcript": "tell me", "start_ms": 60, "end_silence_ms": 100, "ms_per_word": 20}
    agent = Agent(vad="scripted", stt="scripted", llm="scripted", tts="scripted", tools=(), greeting="Hello there.")
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path}/t.db",
        default_agent="host",
        agents={"host": agent.model_copy(update={"turns": TurnPolicy(pause_ms=40)})},
        plugins={"scripted": script},
        auth=Auth(mode="none", dev_key_file=tmp_path / "key"),
    )

    async def main() -> tuple[Any, bytes]:
        async with Runtime(settings, plugins=plugins) as runtime:
            server, sock = make_server(runtime), listen("127.0.0.1", 0)
            serving = asyncio.create_task(server.serve(sockets=[sock]))
            try:
                place = f"127.0.0.1:{sock.getsockname()[1]}"
                async with httpx.AsyncClient() as client:
                    answer = await client.post(f"http://{place}/acme/ask", json={"text": "Are you open?"}, timeout=20)
                async with asyncio.timeout(20), websockets.connect(f"ws://{place}/acme/line", proxy=None) as socket:
                    await socket.send(bytes(320))
                    heard = b""
                    while len(heard) < 600:
                        piece = await socket.recv()
                        assert isinstance(piece, bytes)
                        heard += piece
                await until(lambda: not runtime.sessions)
                return answer, heard
            finally:
                server.should_exit = True
                await serving

    answer, heard = asyncio.run(asyncio.wait_for(main(), 60))
    assert (answer.status_code, answer.json()) == (200, {"text": "It is open."})
    assert any(heard)


def test_the_observer_writes_down_slow_turns(load: Any, tmp_path: Path) -> None:
    module = load("kinds/observer.md", "slow_turns.py")
    plugins = Plugins()
    assert plugins.add("slow_turns", lambda: module)
    served = hooks.Hooks(plugins)

    class Process:
        def section(self, name: str, schema: type[msgspec.Struct]) -> msgspec.Struct:
            assert module.register_settings() == {name: schema}
            return schema()

    def turn(us: int) -> TurnMetrics:
        return TurnMetrics(turn_id=f"turn_{us}", reply_id="rep_1", response_us=us, spans=[])

    async def main() -> None:
        await served.startup(Process())
        session = served.session("ses_1")
        session.observe(turn(200_000))
        session.observe(turn(2_000_000))
        await until((tmp_path / "slow-turns.log").exists)
        await served.shutdown(Process())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert (tmp_path / "slow-turns.log").read_text().startswith("ses_1 turn_2000000 2000 ms")
    assert plugins.infos["slow_turns"].problems == []


def test_filters_change_what_they_say(load: Any) -> None:
    module = load("kinds/observer.md", "redact.py")
    plugins = Plugins()
    assert plugins.add("redact", lambda: module)
    session = hooks.Hooks(plugins).session("ses_1", "host")
    request = LlmRequest((Message("user", "My card is 4111 1111 1111 1111."),))

    async def main() -> LlmRequest:
        return await session.before_llm(request)

    assert asyncio.run(main()).messages == (Message("user", "My card is [number]."),)
    assert session.before_tts("ACME is open.") == "Ack-me is open."
    committed = TurnCommitted(turn_id="turn_1", text="4111-1111-1111-1111")
    assert session.stored(committed, b"")[0] == TurnCommitted(turn_id="turn_1", text="[number]")
    check(_module(type("Test", (rejoinder.testing.ObserverConformance,), {"plugin": module, "__module__": "tutorial"})))


def test_the_conversation_in_virtual_time(load: Any) -> None:
    load("testing.md", "test_conversation.py").test_the_user_interrupts()


def test_a_provider_by_hand(load: Any) -> None:
    by_hand, beeper = load("testing.md", "by_hand.py"), load("kinds/tts.md", "beeper.py")
    provider = beeper.Beeper(by_hand.context(beeper.BeeperSettings()))
    assert len(by_hand.speech(provider, "Good morning")) > beeper.RATE


def test_the_attributes_in_pytest_are_those_of_the_suites(load: Any) -> None:
    suite = load("testing.md", "test_acme.py").TestAcme
    assert [name for name in vars(suite) if not name.startswith("__") and not hasattr(suite.__mro__[1], name)] == []


def test_the_settings_of_acme_keep_the_rules(load: Any) -> None:
    settings = load("settings.md", "acme_settings.py").AcmeSettings
    assert "api_key" in check_settings("acme", settings)
    secret = msgspec.json.schema_components((settings,))[1]["AcmeSettings"]["properties"]["api_key"]
    assert "writeOnly" in json.dumps(secret)
    assert "writeOnly" in page("settings.md")


def test_a_plugin_without_a_provider_has_settings(load: Any, tmp_path: Path) -> None:
    module = load("settings.md", "billing.py")
    plugins = load_plugins()
    assert plugins.add("billing", lambda: module)
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path}/t.db",
        default_agent="host",
        agents={
            "host": Agent(vad="scripted", stt="scripted", turn=(), interruption=(), llm="scripted", tts="scripted")
        },
        plugins={"billing": {"token": "t"}},
    )

    async def main() -> None:
        async with Runtime(settings, plugins=plugins) as runtime:
            assert not runtime.examine().problems

    asyncio.run(main())
    assert module.settings["billing"].token == "t"


def test_the_api_that_is_asked_for_is_there(load: Any) -> None:
    module = load("versions.md", "needs.py")
    plugins = Plugins()
    assert plugins.add("needs", lambda: module)
    assert f"plugin API {hookspecs.API_VERSION}" in page("versions.md")


def test_agents_are_brought(load: Any) -> None:
    module = load("README.md", "concierge.py")
    plugins = Plugins()
    assert plugins.add("concierge", lambda: module)
    assert plugins.agents()["concierge"].llm == ("openai", "guide")


def test_the_command_is_one(load: Any) -> None:
    command = load("README.md", "commands.py").acme
    assert click.testing.CliRunner().invoke(command, ["hello"]).output == "hello\n"


# --- the tutorial -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "suite"), [("dice", "ToolConformance"), ("croupier", "LlmConformance")])
def test_single_files_of_the_tutorial_keep_the_rules(file: str, suite: str, load: Any, tmp_path: Path) -> None:
    module = load("tutorial.md", f"plugins/{file}.py")
    plugins = load_plugins(folder=tmp_path / "plugins")
    assert plugins.infos[file].problems == []
    named = {"tool": "roll_dice"} if file == "dice" else {"provider": "croupier", "wish": "Two dice, please"}
    test = type("Test", (getattr(rejoinder.testing, suite),), {"plugin": module, **named, "__module__": "tutorial"})
    check(_module(test))


def _module(test: type) -> ModuleType:
    module = ModuleType("tutorial")
    module.Test = test  # type: ignore[attr-defined]
    return module


def test_the_first_plugin_has_ten_lines() -> None:
    lines = [one for one in blocks("tutorial.md")["plugins/dice.py"].splitlines() if one.strip()]
    assert len(lines) <= 10


@pytest.fixture
def bell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The project of the tutorial after its fifth step, imported."""
    for path, content in plugin_new.render("bell", "tts"):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    steps = {title: text.partition("\n")[2] for title, text in blocks("tutorial.md").items()}
    package = tmp_path / "src" / "rejoinder_bell"
    text = (package / "__init__.py").read_text(encoding="utf-8")
    before, _, after = text.partition("\n\n\ndef _create(")
    text = f"{before}\n{steps['into Settings, src/rejoinder_bell/__init__.py']}\n\ndef _create({after}"
    imported, _, create = steps["in src/rejoinder_bell/__init__.py"].partition("\n\n\n")
    text, lines = re.subn(r"^from rejoinder\.providers import .*$", imported.strip(), text, flags=re.MULTILINE)
    assert lines == 1, "the tutorial says `beside Provider`"
    text, lines = re.subn(r"^def _create\(.*?(?=\n\n\n@hookimpl)", create.strip(), text, flags=re.MULTILINE | re.DOTALL)
    assert lines == 1, "the tutorial says `let _create return it`"
    text += "\n\n" + steps["at the end of src/rejoinder_bell/__init__.py"]
    (package / "__init__.py").write_text(text, encoding="utf-8")
    (package / "bell.py").write_text(steps["src/rejoinder_bell/bell.py"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    yield importlib.import_module("rejoinder_bell")
    for name in [name for name in sys.modules if name.partition(".")[0] == "rejoinder_bell"]:
        del sys.modules[name]


def test_the_project_of_the_tutorial_keeps_the_rules(bell: ModuleType, tmp_path: Path) -> None:
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    for name in re.findall(r"^\| `([^`]+)`", page("tutorial.md").partition("## 4.")[0].partition("## 3.")[2], re.M):
        assert name in names
    test = type(
        "Test", (rejoinder.testing.TtsConformance,), {"plugin": bell, "provider": "bell", "__module__": "tutorial"}
    )
    check(_module(test))


def test_the_project_of_the_tutorial_rings(bell: ModuleType, tmp_path: Path) -> None:
    plugins = Plugins()
    assert plugins.add("bell", lambda: bell)
    offer = plugins.provider("tts", "bell")
    (model,) = plugins.models().values()
    audio.write_wav(tmp_path / "bell.wav", audio.from_float(np.full(bell.RATE, 0.25, np.float32)), bell.RATE)

    class Models:
        def path(self, name: str) -> Path:
            assert name == model.name
            return tmp_path / "bell.wav"

    async def speak(ring_ms: float) -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor

        nothing: Any = None
        with ThreadPoolExecutor(1) as pool:
            settings = offer.settings(ring_ms=ring_ms)
            tts: Any = offer.create(providers.ProviderContext(settings, Models(), lambda name, n: pool, nothing))
            await tts.warm_up()
            found = [delta async for delta in tts.stream("Good morning", voice=None, language="en")]
            await tts.close()
            return found

    plain, rung = asyncio.run(speak(0)), asyncio.run(speak(400))
    times = [[one.start_ms for one in found if not isinstance(one, bytes)] for found in (plain, rung)]
    assert times[1] == [start + 400 for start in times[0]]
    lengths = [sum(len(one) for one in found if isinstance(one, bytes)) for found in (plain, rung)]
    assert lengths[1] - lengths[0] == audio.byte_count(400, bell.RATE)


# --- what is there is named -------------------------------------------------------------------------------------


def test_the_hook_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_hooks", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert page("hooks.md") == generate.page(), "renew it: python docs/plugins/generate.py"


def hook_names() -> list[str]:
    return [name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec")]


def test_every_hook_is_described() -> None:
    assert sorted(re.findall(r"^### `(\w+)`", page("hooks.md"), re.M)) == sorted(hook_names())
    for name in hook_names():
        part = page("hooks.md").partition(f"### `{name}`")[2].partition("\n### ")[0]
        for what in ("Called", "Its time", "If it raises", "If it blocks", "If it is late"):
            assert f"**{what}**" in part


FIELDS = {
    "Provider": "providers.md",
    "Capabilities": "providers.md",
    "ProviderContext": "providers.md",
    "ModelFile": "providers.md",
    "VadAdvice": "kinds/vad.md",
    "TurnSoFar": "kinds/turn.md",
    "Overlap": "kinds/interruption.md",
    "Judgement": "kinds/interruption.md",
    "LlmRequest": "kinds/llm.md",
    "Message": "kinds/llm.md",
    "ToolCall": "kinds/llm.md",
    "ToolSchema": "kinds/llm.md",
    "WordTime": "kinds/tts.md",
    "Tool": "kinds/tool.md",
    "ToolContext": "kinds/tool.md",
    "ToolSource": "kinds/tool.md",
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_public_field_is_named(name: str) -> None:
    text = page(FIELDS[name])
    for field in dataclasses.fields(getattr(providers, name)):
        assert re.search(rf"[`(, ]{field.name}\b", text), f"{FIELDS[name]} does not name {name}.{field.name}"


def test_every_class_with_fields_has_a_page() -> None:
    classes = {name for name, one in vars(providers).items() if dataclasses.is_dataclass(one)}
    assert classes == set(FIELDS)


PROTOCOLS = {
    "Vad": "kinds/vad.md",
    "VadProvider": "kinds/vad.md",
    "SttStream": "kinds/stt.md",
    "SttProvider": "kinds/stt.md",
    "TurnDetector": "kinds/turn.md",
    "InterruptionJudge": "kinds/interruption.md",
    "LlmProvider": "kinds/llm.md",
    "Prefilling": "kinds/llm.md",
    "TtsProvider": "kinds/tts.md",
    "LiveTools": "kinds/tool.md",
    "ModelPaths": "providers.md",
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_member_of_a_protocol_is_named(name: str) -> None:
    protocol = getattr(providers, name)
    members = {*inspect.get_annotations(protocol), *(one for one in vars(protocol) if not one.startswith("_"))}
    assert members
    for member in members:
        assert re.search(rf"\b{member}\b", page(PROTOCOLS[name])), f"{PROTOCOLS[name]} does not name {name}.{member}"


def test_every_protocol_has_a_page() -> None:
    found = {
        name for name, one in vars(providers).items() if getattr(one, "_is_protocol", False) and name != "Protocol"
    }
    assert found == set(PROTOCOLS)


def test_what_is_public_is_named_and_there() -> None:
    rows = re.findall(r"^\| `(rejoinder[\w.]*)` \| (.+) \|$", page("versions.md"), re.M)
    named: dict[str, set[str]] = {}
    for module, cell in rows:
        names = set(re.findall(r"`(\w+)`", cell))
        named[module] = names
        owner, _, attribute = module.rpartition(".")
        place = getattr(importlib.import_module(owner), attribute) if attribute[:1].isupper() else None
        place = place or importlib.import_module(module)
        made = inspect.getsource(place)
        # What is set in `__init__` is there, too.
        assert [
            one
            for one in names
            if not hasattr(place, one) and f"self.{one} " not in made and f"self.{one}:" not in made
        ] == []
    own = {name for name, one in vars(providers).items() if getattr(one, "__module__", "") == providers.__name__}
    assert {one for one in own if not one.startswith("_")} <= named["rejoinder.providers"]
    for name in re.findall(r"`(rejoinder\.[\w.]+)`", page("versions.md")):
        parent, _, last = name.rpartition(".")
        assert (
            importlib.util.find_spec(name)
            if last[:1].islower() and "API" not in last and last != "commands"
            else parent
        )


def test_every_event_that_is_named_is_one() -> None:
    known = {one.__struct_config__.tag for one in Event.__subclasses__()}
    for name in re.findall(r"`((?:user|turn|reply|tool|session|provider|agent)\.[a-z_]+)`", page("kinds/observer.md")):
        assert name in known


# --- the rules --------------------------------------------------------------------------------------------------


def rules_of(heading: str) -> set[str]:
    """The rules in the table under a heading of testing.md."""
    text = page("testing.md").partition(f"### {heading}\n")[2].partition("\n#")[0]
    return {
        rule
        for row in re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", text, re.M)
        for rule in re.findall(r"`([a-z-]+)`", row)
    }


@pytest.mark.parametrize("name", SUITES)
def test_every_rule_is_explained_and_there_are_no_others(name: str) -> None:
    suite = getattr(rejoinder.testing, name)
    kind = name.removesuffix("Conformance")
    own = rules_of(kind if kind in ("Tool", "Turn", "Adapter", "Observer", "Interruption") else kind.upper())
    assert own
    found = {one.id for one in suite.rules()}
    shared = rules_of("All") | (rules_of("Providers") if getattr(suite, "kind", "") in providers.KINDS else set())
    assert own <= found
    assert found <= own | shared


@pytest.mark.parametrize("name", SUITES)
def test_every_attribute_of_a_suite_is_in_the_table(name: str) -> None:
    table = page("testing.md").partition("| attribute |")[2].partition("\n\n")[0]
    suite = getattr(rejoinder.testing, name)
    for one in dir(suite):
        value = inspect.getattr_static(suite, one)
        if (
            not one.startswith("_")
            and not callable(value)
            and not isinstance(value, classmethod)
            and one not in ("kind", "given")
        ):
            assert f"`{one}`" in table, f"{name}.{one}"


# --- links ------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The names of the headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_resolve(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.is_file(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{path.name}: {target}"


def test_every_page_can_be_reached_from_the_map() -> None:
    text = page("README.md")
    for path in PAGES:
        assert path.name == "README.md" or f"({path.relative_to(DOCS)})" in text
