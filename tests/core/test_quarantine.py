"""Providers that cannot be made, loaded or used: the server starts, the chain goes on, the reason is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoinder.app import Runtime
from rejoinder.clock import SystemClock
from rejoinder.errors import ConfigError, ProviderError, UnknownName
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins, load_plugins
from rejoinder.providers import Capabilities, Provider
from rejoinder.settings import Agent, Limits, Settings
from rejoinder.testing.scripted import ScriptedTts
from rejoinder.watchdog import Block, Owners, Watchdog, tasks_of_plugins

FALLBACK = Agent(
    vad="scripted", stt=("scripted",), llm=("scripted",), tts=("acme", "scripted"), tools=(), turn=(), interruption=()
)


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    speed: float = 1.0


class Acme:
    """A plugin with one provider, made by `create`."""

    def __init__(self, create: Callable[..., Any], kind: Any = "tts", **fields: Any) -> None:
        self._provider = Provider(kind, "acme", "Acme", create, Strict, **fields)

    @hookimpl
    def register_providers(self) -> list[Provider]:
        return [self._provider]


def plugins_with(acme: object) -> Plugins:
    plugins = load_plugins()
    assert plugins.add("acme", lambda: acme), plugins.infos
    return plugins


class Clock(SystemClock):
    """The time, moved on at will."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@asynccontextmanager
async def running(
    tmp_path: Path, plugins: Plugins, agent: Agent = FALLBACK, **changes: Any
) -> AsyncGenerator[Runtime, None]:
    clock = changes.pop("clock", None)
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path}/test.db",
        default_agent="host",
        agents={"host": agent},
        plugins_dir=tmp_path / "none",
        **changes,
    )
    async with Runtime(settings, plugins=plugins, listens=True, clock=clock) as runtime:
        yield runtime


class Unloadable(ScriptedTts):
    async def warm_up(self) -> None:
        raise RuntimeError("no GPU")


class Slow(ScriptedTts):
    async def warm_up(self) -> None:
        await asyncio.sleep(3600)


class NoRate(ScriptedTts):
    sample_rate = 0


class NoStream:
    sample_rate = 16_000

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...


def broken_create(context: Any) -> Any:
    raise OSError("no licence file")


CASES = {
    "create raises": (Acme(broken_create), "configure", "OSError: no licence file"),
    "warm_up raises": (Acme(lambda context: Unloadable()), "warm_up", "RuntimeError: no GPU"),
    "warm_up hangs": (Acme(lambda context: Slow()), "warm_up", "was not ready within 0.2 s"),
    "no sample rate": (Acme(lambda context: NoRate(sample_rate=0)), "warm_up", "its sample_rate is 0"),
    "another rate": (
        Acme(lambda context: ScriptedTts(sample_rate=16_000), capabilities=Capabilities(sample_rates=(24_000,))),
        "warm_up",
        "16000 Hz, its capabilities name 24000",
    ),
    "no stream": (Acme(lambda context: NoStream()), "warm_up", "has stream; this one has not"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_server_starts_and_the_next_of_the_chain_answers(tmp_path: Path, case: str) -> None:
    acme, stage, what = CASES[case]
    plugins = plugins_with(acme)

    async def main() -> None:
        async with running(tmp_path, plugins, limits=Limits(warm_up_s=0.2)) as runtime:
            services = await runtime.services(FALLBACK)
            assert list(services.tts) == ["scripted"]
            (problem,) = plugins.infos["acme"].problems
            assert (problem.stage, problem.subject) == (stage, "tts:acme")
            assert what in problem.what
            assert "Traceback" in problem.details
            assert plugins.infos["acme"].state == "degraded"

    asyncio.run(main())


def test_one_that_has_nobody_behind_it_is_an_error_that_says_why(tmp_path: Path) -> None:
    agent = FALLBACK.model_copy(update={"tts": ("acme",)})

    async def main() -> None:
        with pytest.raises(ProviderError, match="no licence file"):
            async with running(tmp_path, plugins_with(Acme(broken_create)), agent):
                pass

    asyncio.run(main())


def test_without_turn_detectors_the_silence_decides(tmp_path: Path) -> None:
    class Detector(Unloadable):
        wants_text = True

    agent = FALLBACK.model_copy(update={"tts": ("scripted",), "turn": ("acme",)})
    plugins = plugins_with(Acme(lambda context: Detector(), kind="turn"))

    async def main() -> None:
        async with running(tmp_path, plugins, agent) as runtime:
            assert (await runtime.services(agent)).turn == {}

    asyncio.run(main())


def test_it_is_tried_again_beside_the_calls_and_comes_back(tmp_path: Path) -> None:
    tries = []

    class Flaky(ScriptedTts):
        async def warm_up(self) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise RuntimeError("not yet")

    clock = Clock()
    plugins = plugins_with(Acme(lambda context: Flaky()))

    async def main() -> None:
        async with running(tmp_path, plugins, clock=clock) as runtime:

            async def asked(after_s: float) -> list[str]:
                clock.ahead += after_s
                found = list((await runtime.services(FALLBACK)).tts)
                while runtime.supply.trials:
                    await asyncio.wait(tuple(runtime.supply.trials))
                return found

            assert await asked(0) == ["scripted"]
            assert len(tries) == 1, "not with every session"
            assert await asked(6) == ["scripted"], "nobody waits for the second try"
            assert len(tries) == 2
            assert await asked(6) == ["scripted"]
            assert len(tries) == 2, "the pause is twice as long now"
            assert await asked(6) == ["scripted"]
            assert await asked(0) == ["acme", "scripted"]
            assert plugins.infos["acme"].state == "ok"

    asyncio.run(main())


def test_a_chain_goes_on_without_a_plugin_that_does_not_load(tmp_path: Path) -> None:
    plugins = load_plugins()
    plugins.add("acme", lambda: __import__("acme_engine_that_is_nowhere"))

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            assert list((await runtime.services(FALLBACK)).tts) == ["scripted"]

    asyncio.run(main())


def test_a_name_that_is_only_misspelt_is_refused(tmp_path: Path) -> None:
    good = FALLBACK.model_copy(update={"tts": ("scripted",)})
    bad = FALLBACK.model_copy(update={"tts": ("acmee", "scripted")})

    async def main() -> None:
        with pytest.raises(ConfigError, match="acmee"):
            async with running(tmp_path, load_plugins(), bad):
                pass
        async with running(tmp_path, load_plugins(), good) as runtime:
            with pytest.raises(UnknownName):
                await runtime.services(bad)

    asyncio.run(main())


def test_failures_in_conversations_are_kept_until_it_works_again(tmp_path: Path) -> None:
    plugins = plugins_with(Acme(lambda context: ScriptedTts()))

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            runtime.breaker.failed("tts", "acme", ProviderError("acme", "the line is dead"))
            (problem,) = plugins.infos["acme"].problems
            assert (problem.stage, problem.subject, problem.what) == ("answer", "tts:acme", "acme: the line is dead.")
            runtime.breaker.worked("tts", "acme")
            assert plugins.infos["acme"].problems == []

    asyncio.run(main())


# -- the event loop


def test_the_watchdog_names_the_code_that_held_up_the_loop(tmp_path: Path) -> None:
    plugin = tmp_path / "sleepy.py"
    plugin.write_text("import time\n\n\ndef think():\n    time.sleep(0.4)\n")
    plugins = load_plugins(folder=tmp_path)
    module: Any = plugins.module("sleepy")
    owners = Owners(plugins)
    assert owners.of(str(plugin)) == "sleepy"
    assert owners.of(__file__) == ""
    hibari: Any = plugins.module("hibari")
    assert owners.of(hibari.__file__) == "hibari"
    openai: Any = plugins.module("openai")
    assert owners.of(str(Path(openai.__file__).parent / "tts.py")) == "openai", "a package with all its modules"

    async def main() -> None:
        blocks: list[Block] = []
        watchdog = Watchdog(blocks.append)
        watchdog.start()
        try:
            # A busy machine may hide one from the watching thread, not all of them.
            for _ in range(5):
                await asyncio.sleep(0.1)
                module.think()
                await asyncio.sleep(0.1)
                if blocks:
                    break
        finally:
            watchdog.close()
            watchdog.close()
        found = [block for block in blocks if {stack[-1].name for stack in block.stacks} == {"think"}]
        assert found
        assert 0.3 < found[0].seconds < 2
        assert owners.innermost(found[0].stacks[0])[0] == "sleepy"
        assert len(found[0].stacks) > 1

    asyncio.run(main())


def test_a_plugin_that_blocks_is_asked_last(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(
        "import time\n"
        "from rejoinder import hookimpl\n"
        "from rejoinder.providers import Provider\n"
        "from rejoinder.testing.scripted import ScriptedTts\n"
        "@hookimpl\n"
        "def register_providers():\n"
        "    return [Provider('tts', 'acme', 'sleeps', lambda context: ScriptedTts())]\n"
        "def think():\n"
        "    time.sleep(0.4)\n"
    )
    plugins = load_plugins(folder=tmp_path)
    module: Any = plugins.module("sleepy")

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            for _ in range(5):
                await asyncio.sleep(0.1)
                module.think()
                await asyncio.sleep(0.1)
                if plugins.infos["sleepy"].problems:
                    break
            (problem,) = plugins.infos["sleepy"].problems
            assert problem.stage == "block"
            assert "think" in problem.what
            assert "sleepy.py:9" in problem.what
            assert "to_thread" in problem.what
            assert runtime.breaker.order("tts", ["acme", "scripted"]) == ["scripted", "acme"]

    asyncio.run(main())


def test_a_plugin_that_forgets_tasks_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(
        "import asyncio\n"
        "async def pump():\n"
        "    await asyncio.sleep(3600)\n"
        "def leak(n):\n"
        "    return [asyncio.create_task(pump()) for _ in range(n)]\n"
    )
    plugins = load_plugins(folder=tmp_path)
    module: Any = plugins.module("leaky")

    async def main() -> None:
        agent = FALLBACK.model_copy(update={"tts": ("scripted",)})
        async with running(tmp_path, plugins, agent) as runtime:
            few = module.leak(10)
            assert tasks_of_plugins(Owners(plugins))["leaky"].total() == 10
            runtime._audit()
            assert plugins.infos["leaky"].state == "ok"
            many = module.leak(100)
            runtime._audit()
            (problem,) = plugins.infos["leaky"].problems
            assert problem.stage == "leak"
            assert "110 tasks of it are alive with 0 sessions" in problem.what
            assert "pump" in problem.what
            assert "leaky.py:2" in problem.what
            for task in (*few, *many):
                task.cancel()
            await asyncio.gather(*few, *many, return_exceptions=True)

    asyncio.run(main())


# -- what a stranger's code may do


class Quits(ScriptedTts):
    async def warm_up(self) -> None:
        raise SystemExit("no licence")


class CancelsItself(ScriptedTts):
    async def warm_up(self) -> None:
        raise asyncio.CancelledError


class Stubborn(ScriptedTts):
    async def warm_up(self) -> None:
        while not self.spoken:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.spoken.append("cancelled")
                await asyncio.sleep(3600)


def quits(context: Any) -> Any:
    raise SystemExit("no licence")


@pytest.mark.parametrize("create", [quits, lambda _: Quits(), lambda _: CancelsItself(), lambda _: Stubborn()])
def test_a_provider_that_quits_or_hangs_is_left_out(tmp_path: Path, create: Callable[..., Any]) -> None:
    plugins = plugins_with(Acme(create))

    async def main() -> None:
        async with asyncio.timeout(10), running(tmp_path, plugins, limits=Limits(warm_up_s=0.2)) as runtime:
            assert list((await runtime.services(FALLBACK)).tts) == ["scripted"]
            assert plugins.infos["acme"].problems[0].subject == "tts:acme"

    asyncio.run(main())


def test_closing_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clings(ScriptedTts):
        async def close(self) -> None:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if self.closed:
                        raise
                    self.closed += 1

    monkeypatch.setattr("rejoinder.supply.CLOSE_S", 0.1)
    plugins = plugins_with(Acme(lambda context: Clings()))

    async def main() -> None:
        async with asyncio.timeout(5), running(tmp_path, plugins) as runtime:
            assert list((await runtime.services(FALLBACK)).tts) == ["acme", "scripted"]

    asyncio.run(main())


def test_what_is_loaded_too_late_is_freed(tmp_path: Path) -> None:
    log: list[str] = []
    loaded = asyncio.Event()

    class Slow(ScriptedTts):
        async def warm_up(self) -> None:
            await loaded.wait()
            log.append("warm")

        async def close(self) -> None:
            log.append("closed")

    plugins = plugins_with(Acme(lambda context: Slow()))

    async def main() -> None:
        agent = FALLBACK.model_copy(update={"tts": ("scripted",)})
        async with running(tmp_path, plugins, agent) as runtime:
            asking = asyncio.create_task(runtime.provider("tts", "acme"))
            await asyncio.sleep(0.01)
        assert log == ["closed"]
        loaded.set()
        with pytest.raises(ProviderError, match="stopping"):
            await asking
        assert log == ["closed", "warm", "closed"]
        with pytest.raises(ProviderError, match="stopping"):
            await runtime.provider("tts", "acme")

    asyncio.run(main())


def test_an_error_that_is_told_again_does_not_grow(tmp_path: Path) -> None:
    plugins = plugins_with(Acme(broken_create))

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            for _ in range(50):
                await runtime.services(FALLBACK)
            error = runtime.supply._failures["tts", "acme"].error
            depth, trace = 0, error.__traceback__
            while trace is not None:
                depth, trace = depth + 1, trace.tb_next
            assert depth < 10

    asyncio.run(main())


def test_plugins_that_must_not_be_missing(tmp_path: Path) -> None:
    async def start(plugins: Plugins) -> None:
        agent = FALLBACK.model_copy(update={"tts": ("scripted",)})
        async with running(tmp_path, plugins, agent, required_plugins=("redact",)):
            pass

    with pytest.raises(ConfigError, match="redact: it is not installed, or disabled"):
        asyncio.run(start(load_plugins()))

    broken = load_plugins()
    broken.add("redact", lambda: __import__("a_package_that_is_nowhere"))
    with pytest.raises(ConfigError, match=r"redact: .*a_package_that_is_nowhere"):
        asyncio.run(start(broken))

    class Tired:
        @hookimpl
        def startup(self) -> None:
            raise OSError("no key")

    tired = load_plugins()
    tired.add("redact", Tired)
    with pytest.raises(ConfigError, match="redact: OSError: no key"):
        asyncio.run(start(tired))

    fine = load_plugins()
    fine.add("redact", object)
    asyncio.run(start(fine))


def test_a_class_may_be_a_plugin(tmp_path: Path) -> None:
    class Watcher:
        @staticmethod
        @hookimpl
        def on_event(event: Any) -> None: ...

    plugins = load_plugins()
    plugins.add("watcher", lambda: Watcher)

    async def main() -> None:
        agent = FALLBACK.model_copy(update={"tts": ("scripted",)})
        async with running(tmp_path, plugins, agent) as runtime:
            assert await runtime.health() == {}
            assert runtime._owners is not None
            assert runtime._owners.of(__file__) == "watcher"

    asyncio.run(main())
