"""What is tested: a plugin as it is found, what it offers, and its providers as a server makes them."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rejoinder.discovery import find_plugins
from rejoinder.errors import ConfigError, RejoinderError, UnknownName
from rejoinder.manager import Plugins
from rejoinder.models import ModelCache
from rejoinder.providers import AnyProvider, LlmProvider, Provider, ProviderContext, Tool
from rejoinder.settings import load_settings
from rejoinder.supply import missing_parts
from rejoinder.testing.conformance.measure import Block, LoopWatch, raised_at
from rejoinder.testing.conformance.rules import NotChecked
from rejoinder.toolbox import read_section

CLOSE_S = 10.0
OBSERVING = ("on_event", "before_llm", "before_tts", "before_storage")
"""The hooks of observers and filters."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A plugin that was loaded, on its own. `origin` is how another interpreter can import it, if it can."""

    name: str
    plugin: object
    plugins: Plugins
    module: str
    file: Path | None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where the author's code is: the folder of the plugin's package, or its file."""
        found = set()
        for name in {self.module.partition(".")[0], self.module}:
            file = getattr(sys.modules.get(name), "__file__", None)
            if file:
                path = Path(file)
                found.add(path.parent if path.name == "__init__.py" else path)
        if self.file is not None:
            found.add(self.file)
        return tuple(found)

    @property
    def problem(self) -> str:
        """What went wrong when it was asked what it offers; "" if nothing did."""
        return next((info.error for info in self.plugins.infos.values() if info.error), "")

    def providers(self) -> list[Provider]:
        """What it offers."""
        return self.plugins.providers()

    def offers(self) -> list[str]:
        """What can be tested of it: `kind:name`, `tool:name`, `adapter` and `observer`."""
        hooks = set(self.plugins.hooks_of(self.name))
        return [
            *(f"{one.kind}:{one.name}" for one in self.providers()),
            *(f"tool:{name}" for name in self.tools()),
            *(["adapter"] if "register_routes" in hooks else []),
            *(["observer"] if hooks & set(OBSERVING) else []),
        ]

    def tools(self) -> dict[str, Tool]:
        """The tools it offers."""
        return self.plugins.tools()


def subject_of(plugin: object, name: str = "") -> Subject:
    """The plugin given as the name to import it by (`package.module`, `module:attribute`), or as itself.

    Raises:
        ConfigError: it cannot be imported, or is refused as a plugin (`plugin_failed`).
    """
    name = name or (plugin if isinstance(plugin, str) else _name_of(plugin))
    return loaded(name, lambda: _import(plugin) if isinstance(plugin, str) else plugin)


def loaded(name: str, load: Callable[[], object]) -> Subject:
    """The plugin that `load` gives, called `name`.

    Raises:
        ConfigError: it raises, or gives what is refused as a plugin (`plugin_failed`).
    """
    try:
        plugin = load()
    except (Exception, SystemExit) as error:
        at = raised_at(error, ())
        raise ConfigError(
            f"The plugin {name!r} cannot be loaded: {type(error).__name__}: {error}{at}.",
            code="plugin_failed",
            fix=_missing(error) or "Correct it; `--debug` shows the traceback.",
        ) from error
    plugins = Plugins()
    plugins.add(name, lambda: plugin)
    info = plugins.infos[name]
    if not info.loaded:
        raise ConfigError(f"The plugin {name!r} is refused: {info.error}", code="plugin_failed")
    return _subject(name, plugin, plugins)


def _missing(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install what brings {error.name!r}, and name it in the dependencies of the plugin."
    return ""


def installed(offers: str) -> Subject:
    """The installed plugin (or the file in the folder of plugins) that offers `offers`: `kind:name`, `tool:name`.

    Raises:
        UnknownName: none does.
    """
    broken = []
    settings = load_settings()
    for found in find_plugins(settings.plugins_dir, settings.plugin_modules):
        try:
            subject = loaded(found.name, found.load)
        except ConfigError:
            broken.append(found.name)
            continue
        if offers in subject.offers():
            return subject
    kind, _, name = offers.partition(":")
    fix = f"These plugins do not load: {', '.join(broken)}; see `rejoinder plugins list -v`." if broken else None
    raise UnknownName(f"{kind} provider" if kind != "tool" else kind, name, (), fix=fix)


def _subject(name: str, plugin: object, plugins: Plugins) -> Subject:
    module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    if isinstance(plugin, type):
        module = plugin.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return Subject(name, plugin, plugins, module, Path(file) if file else None)


def _name_of(plugin: object) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType | type) else type(plugin).__name__


def _import(name: str) -> object:
    module, _, attribute = name.partition(":")
    found: object = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


# --- providers as a server makes them -----------------------------------------------------------------------------

_first_blocks: dict[tuple[str, str, str], Block] = {}
"""How long the loop stood still in the very first `warm_up` of a provider in this process: only that one imports."""


class Workshop:
    """Makes one provider with what a server gives it, and takes all of it away again.

    `settings` are its `[plugins.NAME]`, over those of this directory and environment.
    """

    def __init__(self, subject: Subject, offer: Provider, settings: Mapping[str, Any]) -> None:
        self.subject = subject
        self.offer = offer
        configured = load_settings()
        self._sections = {**configured.plugins, offer.name: {**configured.plugins.get(offer.name, {}), **settings}}
        self._models = ModelCache(configured.models_dir, subject.plugins.models())
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._others: list[Workshop] = []
        self._made: list[LlmProvider] = []

    def make(self) -> AnyProvider:
        """The provider, not warmed up.

        Raises:
            ConfigError: the settings do not fit.
        """
        return self.offer.create(self.context())

    def context(self) -> ProviderContext:
        """What `create` gets.

        Raises:
            ConfigError: the settings do not fit.
        """
        others = self.subject.plugins.schemas().get(self.offer.name, ())
        settings = read_section(self._sections, self.offer.name, self.offer.settings, others)
        return ProviderContext(settings, self._models, self._executor, self._llm)

    def _executor(self, name: str, workers: int) -> Executor:
        if name not in self._pools:
            self._pools[name] = ThreadPoolExecutor(workers, thread_name_prefix=name)
        return self._pools[name]

    def _llm(self, name: str) -> LlmProvider:
        offers = {one.name: one for one in self.subject.providers() if one.kind == "llm"}
        if name in offers:
            other = Workshop(self.subject, offers[name], {})
        else:
            found = installed(f"llm:{name}")
            other = Workshop(found, found.plugins.provider("llm", name), {})
        self._others.append(other)
        made = cast(LlmProvider, other.make())
        self._made.append(made)
        return made

    async def close(self) -> None:
        """Close what the provider handed over to, and end the pools; waits for their threads for a bounded time."""
        for made in self._made:
            await asyncio.wait_for(made.close(), CLOSE_S)
        self._made.clear()
        for other in self._others:
            await other.close()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        names = tuple(f"{name}_" for name in self._pools)
        for thread in threading.enumerate():
            if names and thread.name.startswith(names):
                await asyncio.to_thread(thread.join, CLOSE_S)
        self._pools.clear()


@asynccontextmanager
async def warm(subject: Subject, offer: Provider, settings: Mapping[str, Any]) -> AsyncIterator[Any]:
    """The provider, made and warmed up; closed on leaving.

    Raises:
        NotChecked: it cannot be made or warmed up; there are rules of their own for that.
    """
    workshop = Workshop(subject, offer, settings)
    try:
        try:
            provider = workshop.make()
            await watched_warm_up(subject, offer, provider)
            if missing := missing_parts(offer.kind, provider):
                raise NotChecked(f"it lacks {' and '.join(missing)}; see `warm-up`")
        except NotChecked:
            raise
        except RejoinderError as error:
            raise NotChecked(f"it does not start: {error.explain()}") from None
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; a rule of its own tells of it
            raise NotChecked(f"it does not start: {type(error).__name__}: {error}") from None
        try:
            yield provider
        finally:
            try:
                await asyncio.wait_for(provider.close(), CLOSE_S)
            except Exception:  # noqa: BLE001 - as above: `shutdown` is the rule for that
                pass
    finally:
        await workshop.close()


async def watched_warm_up(subject: Subject, offer: Provider, provider: Any) -> Block:
    """Warm `provider` up and say how long the loop stood still."""
    key = (subject.module, offer.kind, offer.name)
    async with LoopWatch(subject.roots) as watch:
        await asyncio.ensure_future(provider.warm_up())
    _first_blocks.setdefault(key, watch.longest)
    return watch.longest


def first_block(subject: Subject, offer: Provider) -> Block:
    """How long the loop stood still when it was warmed up for the first time in this process."""
    return _first_blocks.get((subject.module, offer.kind, offer.name), Block(0.0, ""))
