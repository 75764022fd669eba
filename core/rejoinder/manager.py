"""The plugin manager: finds plugins, keeps broken ones out and says why, and answers typed questions about the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import pluggy

from rejoinder import hookspecs
from rejoinder.errors import UnknownName
from rejoinder.events import ServerEvent
from rejoinder.providers import Kind, ModelFile, Provider, Tool, ToolSource
from rejoinder.tooling import FunctionTool

ENTRY_POINTS = "rejoinder"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin as found: `error` is None for one that works, else one line; `details` is the traceback."""

    name: str
    distribution: str
    version: str
    error: str | None = None
    details: str = ""


class Plugins:
    """A typed facade over pluggy. Built by `load_plugins`; a fresh one per process, none global."""

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self._providers: dict[tuple[Kind, str], Provider] | None = None
        self._tools: dict[str, Tool] | None = None
        self._observers: list[tuple[str, Callable[..., object]]] | None = None

    def add(self, name: str, load: Callable[[], object], *, distribution: str = "", version: str = "") -> bool:
        """Load and register a plugin; a plugin that raises is kept out and remembered with its traceback."""
        try:
            self._pluggy.register(load(), name)
            self._pluggy.check_pending()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger may raise anything; the server must start
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(name=name)
            text = f"{type(error).__name__}: {error}"
            self.infos[name] = PluginInfo(name, distribution, version, text, traceback.format_exc())
            return False
        self.infos[name] = PluginInfo(name, distribution, version)
        self._providers = self._tools = self._observers = None
        return True

    def providers(self, kind: Kind | None = None) -> list[Provider]:
        """All providers on offer (of one `kind`), by name."""
        return sorted(
            (p for p in self._all_providers().values() if kind in (None, p.kind)), key=lambda p: (p.kind, p.name)
        )

    def provider(self, kind: Kind, name: str) -> Provider:
        """The provider called `name`.

        Raises:
            UnknownName: nobody registered it (`unknown_stt_provider` and so on).
        """
        providers = self._all_providers()
        if (kind, name) not in providers:
            broken = [info.name for info in self.infos.values() if info.error]
            fix = (
                f"Some plugins failed to load ({', '.join(broken)}): see `rejoinder plugins list`." if broken else None
            )
            raise UnknownName(f"{kind} provider", name, [n for k, n in providers if k == kind], fix=fix)
        return providers[kind, name]

    def tools(self) -> dict[str, Tool]:
        """All tools by name."""
        if self._tools is None:
            self._tools = {tool.name: tool for tool in (*self._decorated(), *self._collect("register_tools", Tool))}
        return self._tools

    def tool_sources(self, runtime: object = None) -> list[ToolSource]:
        """All sources of tools that come and go; for `runtime`, if there is one."""
        return list(self._collect("register_tool_sources", ToolSource, runtime=runtime))

    def models(self) -> dict[str, ModelFile]:
        """All model files by name."""
        return {model.name: model for model in self._collect("register_models", ModelFile)}

    def routes(self, runtime: object) -> list[Any]:
        """All route handlers."""
        return list(self._collect("register_routes", object, runtime=runtime))

    def observe(self, session_id: str, event: ServerEvent) -> None:
        """Show `event` to every plugin that implements `on_event`; one that raises is not asked again."""
        if self._observers is None:
            impls = self._pluggy.hook.on_event.get_hookimpls()
            self._observers = [(impl.plugin_name, impl.function) for impl in impls]
        for entry in tuple(self._observers):
            name, function = entry
            try:
                function(session_id=session_id, event=event)
            except Exception as error:  # noqa: BLE001 - an observer must never hurt a call
                self._observers.remove(entry)
                self._fail(name, error)

    def _decorated(self) -> Iterator[Tool]:
        """The `@tool`s of modules that do not say themselves which tools they offer."""
        for _, plugin in self._pluggy.list_name_plugin():
            if isinstance(plugin, ModuleType) and not hasattr(plugin, "register_tools"):
                for item in vars(plugin).values():
                    # What the module has imported is offered where it was made.
                    if isinstance(item, FunctionTool) and item.function.__module__ == plugin.__name__:
                        yield item

    def _all_providers(self) -> Mapping[tuple[Kind, str], Provider]:
        if self._providers is None:
            self._providers = {(p.kind, p.name): p for p in self._collect("register_providers", Provider)}
        return self._providers

    def _collect(self, hook: str, kind: type[T], **arguments: Any) -> Iterator[T]:
        """All items the implementations of `hook` return; one that raises or returns something else is left out."""
        for impl in getattr(self._pluggy.hook, hook).get_hookimpls():
            try:
                items = list(impl.function(**{name: arguments[name] for name in impl.argnames}) or ())
                for item in items:
                    if not isinstance(item, kind):
                        raise TypeError(f"{hook} must return {kind.__name__} objects, not {type(item).__name__}")
                yield from items
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(impl.plugin_name, error)

    def _fail(self, name: str, error: Exception) -> None:
        old = self.infos.get(name) or PluginInfo(name, "", "")
        text = f"{type(error).__name__}: {error}"
        self.infos[name] = PluginInfo(name, old.distribution, old.version, text, traceback.format_exc())


class Found(NamedTuple):
    """A plugin that can be loaded. `distribution` is where it comes from: a package, or the path of a file."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]


def find_plugins(folder: Path | None = None) -> list[Found]:
    """The plugins of the entry-point group `rejoinder` and the files `*.py` in `folder`, each by name; none is loaded.

    A file is called like its plugin; those that begin with an underscore are left to the others to import. Where two
    have a name, the first one is loaded and the other is kept out, and says so.
    """
    found: dict[str, Found] = {}
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
        found.setdefault(entry.name, Found(entry.name, name, version, entry.load))
    files = sorted(folder.glob("*.py")) if folder is not None and folder.is_dir() else []
    for path in (path for path in files if not path.name.startswith("_")):
        name, other = path.stem, found.get(path.stem)
        if other is not None:
            name = path.name
            found[name] = Found(name, str(path), "", partial(_refuse, path, other))
        else:
            found[name] = Found(name, str(path), "", partial(_load_file, path))
    return list(found.values())


def load_plugins(disabled: Iterable[str] = (), folder: Path | None = None) -> Plugins:
    """All plugins that are found and not `disabled`; the built-in ones come by an entry point like anybody's."""
    plugins = Plugins()
    skip = set(disabled)
    for found in find_plugins(folder):
        if found.name not in skip:
            plugins.add(found.name, found.load, distribution=found.distribution, version=found.version)
    return plugins


def _load_file(path: Path) -> ModuleType:
    name = f"rejoinder_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: structs and dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refuse(path: Path, other: Found) -> object:
    raise ImportError(f"there is another plugin called {other.name!r} ({other.distribution}): rename {path}")
