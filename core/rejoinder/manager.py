"""The plugin manager: loads plugins, keeps broken ones out and says why, and answers typed questions about the rest."""

from __future__ import annotations

import inspect
import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import msgspec
import pluggy

from rejoinder import hookspecs
from rejoinder.discovery import Refused, find_plugins
from rejoinder.errors import RejoinderError, UnknownName, did_you_mean, sentence
from rejoinder.guard import FAULTS
from rejoinder.providers import KINDS, Capabilities, Kind, ModelFile, Provider, Tool, ToolSource
from rejoinder.settings import Agent, Settings
from rejoinder.tooling import FunctionTool

log = logging.getLogger(__name__)
T = TypeVar("T")

Stage = Literal[
    "import",
    "register",
    "configure",
    "warm_up",
    "startup",
    "hook",
    "answer",
    "block",
    "leak",
    "health",
    "shutdown",
]
"""Where something went wrong with a plugin."""
State = Literal["ok", "degraded", "failed", "disabled"]
"""`failed`: nothing of it is in use; `degraded`: something went wrong with a part of it."""
_MOST_PROBLEMS = 20
MAY_BE_ASYNC = ("startup", "shutdown", "health", "before_llm")
"""The hooks that are waited for."""
_WRONG_ARGUMENT = re.compile(r"for hook '(\w+)'.*?Argument\(s\) \{(.*?)\}", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(slots=True)
class Problem:
    """What went wrong with a plugin. `at` (Unix ms) and the texts are of the last time, `count` says how often."""

    stage: Stage
    subject: str
    """Which part of it: `tts:acme`, the name of a hook, or "" for all of it."""
    what: str
    """A sentence with the reason, and what to do."""
    details: str = ""
    """The traceback, or where it happened."""
    at: int = 0
    count: int = 1


@dataclass(slots=True)
class PluginInfo:
    """One plugin as found, and the problems there have been with it: of each part and stage the newest."""

    name: str
    distribution: str
    version: str
    problems: list[Problem] = field(default_factory=list)
    loaded: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    """How often something went wrong, by stage."""

    @property
    def state(self) -> State:
        """Whether it works."""
        if not self.loaded:
            return "failed"
        return "degraded" if self.problems else "ok"

    def may_offer(self, hook: str) -> bool:
        """Whether it might offer what nobody knows of, since `hook` failed, or all of it."""
        return not self.loaded or any(one.stage == "register" and one.subject.startswith(hook) for one in self.problems)

    @property
    def error(self) -> str | None:
        """The first problem in a sentence; None for a plugin that works."""
        return self.problems[0].what if self.problems else None

    @property
    def details(self) -> str:
        """The traceback of the first problem."""
        return self.problems[0].details if self.problems else ""


@dataclass(frozen=True, slots=True)
class Impl:
    """One plugin's implementation of a hook."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]

    def __call__(self, **arguments: Any) -> Any:
        """Call it with those of `arguments` that it wants."""
        return self.function(**{name: arguments[name] for name in self.arguments})


class Plugins:
    """A typed facade over pluggy. Built by `load_plugins`; a fresh one per process, none global."""

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self.disabled: set[str] = set()
        """The names of those that were found and, by the settings, not loaded."""
        self._order: dict[str, int] = {}
        self._forget()

    def _forget(self) -> None:
        self._providers: dict[tuple[Kind, str], Provider] | None = None
        self._tools: dict[str, Tool] | None = None
        self._agents: dict[str, Agent] | None = None
        self._settings: dict[str, type[msgspec.Struct]] | None = None
        self._owners: dict[tuple[str, str], str] = {}
        self._impls: dict[str, tuple[Impl, ...]] = {}

    def add(self, name: str, load: Callable[[], object], *, distribution: str = "", version: str = "") -> bool:
        """Load and register a plugin; a plugin that raises is kept out and remembered with its traceback."""
        info = self.infos[name] = PluginInfo(name, distribution, version)
        stage: Stage = "import"
        try:
            plugin = load()
            stage = "register"
            _check_version(plugin)
            self._pluggy.register(plugin, name)
            self._check_hooks(name)
        except FAULTS as error:
            # A stranger may raise anything; the server must start.
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(name=name)
            info.loaded = False
            self.report(name, stage, "", error)
            return False
        self._order[name] = len(self._order)
        self._forget()
        return True

    def _check_hooks(self, name: str) -> None:
        """Whether all that `name` implements is there and can be called.

        Raises:
            Refused: it is not.
        """
        plugin = self._pluggy.get_plugin(name)
        known = hook_names()
        for caller in self._pluggy.get_hookcallers(plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin_name != name:
                    continue
                if not caller.has_spec() and not impl.optionalhook:
                    hint = did_you_mean(caller.name, known).capitalize() or f"There are: {', '.join(known)}."
                    raise Refused(f"There is no hook {caller.name!r}.", fix=hint)
                if impl.hookwrapper or impl.wrapper:
                    raise Refused(f"{caller.name} is a wrapper.", fix="Implement the hook as a plain function.")
                _check_function(caller.name, impl.function)
        for hook in known:
            function = getattr(plugin, hook, None)
            unmarked = callable(function) and not hasattr(function, f"{hookspecs.PROJECT}_impl")
            # The other names are too common to be sure.
            if unmarked and hook.startswith(("register_", "before_")):
                raise Refused(f"{hook} is no hook as long as it is not marked.", fix="Write @hookimpl above it.")

    def module(self, name: str) -> object | None:
        """The plugin called `name` itself, mostly a module; None if it is not loaded."""
        return self._pluggy.get_plugin(name)

    # -- what they offer

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
            broken = [info.name for info in self.infos.values() if info.may_offer("register_providers")]
            fix = (
                f"Some plugins failed to load ({', '.join(broken)}): see `rejoinder plugins list`." if broken else None
            )
            raise UnknownName(f"{kind} provider", name, [n for k, n in providers if k == kind], fix=fix)
        return providers[kind, name]

    def tools(self) -> dict[str, Tool]:
        """All tools by name."""
        if self._tools is None:
            decorated = [(plugin, tool) for plugin in self._order for tool in self._decorated(plugin)]
            offered = [*decorated, *self._collect("register_tools", Tool)]
            offered.sort(key=lambda one: self._order[one[0]])
            self._tools = self._unique("tool", ((plugin, tool.name, tool) for plugin, tool in offered))
        return self._tools

    def tool_sources(self, runtime: object = None) -> list[ToolSource]:
        """All sources of tools that come and go; for `runtime`, if there is one."""
        offered = self._collect("register_tool_sources", ToolSource, runtime=runtime)
        return list(self._unique("tools", ((plugin, source.name, source) for plugin, source in offered)).values())

    def agents(self) -> Mapping[str, Agent]:
        """The agents that plugins bring, by name."""
        if self._agents is None:
            offered = []
            for impl in self.implementations("register_agents"):
                offered += [(impl.plugin, name, agent) for name, agent in self._items(impl, Agent, mapped=True)]
            self._agents = self._unique("agent", offered)
        return self._agents

    def settings(self) -> dict[str, type[msgspec.Struct]]:
        """The schemas of sections that belong to no provider and no tool, by name."""
        if self._settings is not None:
            return self._settings
        offered = []
        for impl in self.implementations("register_settings"):
            for name, schema in self._items(impl, type, mapped=True):
                others = {self.owner(kind, name) for kind in (*KINDS, "tool")} - {"", impl.plugin}
                if others:
                    what = f"[plugins.{name}] belongs to the plugin {others.pop()!r}"
                    self.report(
                        impl.plugin, "register", f"settings:{name}", what, fix="Name the section like your own."
                    )
                else:
                    offered.append((impl.plugin, name, schema))
        self._settings = self._unique("settings", offered)
        return self._settings

    def schemas(self) -> dict[str, list[type[msgspec.Struct]]]:
        """The settings of all that is offered, by the name of the section; several may share one."""
        offers: list[Provider | Tool | ToolSource] = [
            *self.providers(),
            *self.tools().values(),
            *self.tool_sources(),
        ]
        schemas: dict[str, list[type[msgspec.Struct]]] = {}
        for name, schema in (*((offer.name, offer.settings) for offer in offers), *self.settings().items()):
            known = schemas.setdefault(name, [])
            if schema not in known:
                known.append(schema)
        return schemas

    def models(self) -> dict[str, ModelFile]:
        """All model files by name."""
        offered = self._collect("register_models", ModelFile)
        return self._unique("model", ((plugin, model.name, model) for plugin, model in offered))

    def routes(self, runtime: object) -> list[tuple[str, Any]]:
        """All route handlers, each with the name of the plugin that brings it."""
        return list(self._collect("register_routes", object, runtime=runtime))

    def owner(self, kind: str, name: str) -> str:
        """The plugin that offers the provider of that name; "" if nobody does.

        `kind` may also be `tool`, `agent`, `settings`; and `tools` (a source of them) and `model` once asked for.
        """
        self._all_providers()
        self.tools()
        self.agents()
        return self._owners.get((kind, name), "")

    def offers(self, plugin: str) -> list[Provider]:
        """The providers that `plugin` offers."""
        return [p for p in self._all_providers().values() if self._owners.get((p.kind, p.name)) == plugin]

    def hooks_of(self, plugin: str) -> list[str]:
        """The names of the hooks that `plugin` implements."""
        return [hook for hook in hook_names() if any(impl.plugin == plugin for impl in self.implementations(hook))]

    def implementations(self, hook: str) -> tuple[Impl, ...]:
        """Who implements `hook`, in the order in which they are called (see `hookspecs`)."""
        if hook not in self._impls:
            impls = sorted(
                getattr(self._pluggy.hook, hook).get_hookimpls(),
                key=lambda impl: (not impl.tryfirst, impl.trylast, self._order[impl.plugin_name]),
            )
            self._impls[hook] = tuple(Impl(impl.plugin_name, hook, impl.function, impl.argnames) for impl in impls)
        return self._impls[hook]

    # -- what is wrong with them

    def report(
        self, name: str, stage: Stage, subject: str, error: BaseException | str, *, details: str = "", fix: str = ""
    ) -> Problem:
        """Remember what went wrong with the plugin called `name`, and log it the first time."""
        what = sentence(_reason(error, self.infos[name].distribution if name in self.infos else ""))
        what = f"{what} {fix}".rstrip()
        if isinstance(error, BaseException) and not details:
            details = "".join(traceback.format_exception(error))
        info = self.infos.get(name) or PluginInfo(name, "", "")
        info.counts[stage] += 1
        old = next((p for p in info.problems if (p.stage, p.subject) == (stage, subject)), None)
        if old is None:
            # What is wrong from the start is told by whoever loads it.
            level = logging.DEBUG if stage in ("import", "register") else logging.WARNING
            log.log(level, "plugin %s: %s%s: %s", name, stage, f" of {subject}" if subject else "", what)
            log.debug("plugin %s:\n%s", name, details)
            old = Problem(stage, subject, what)
            # The first ones tell most, and what is wrong with all of it counts most.
            if len(info.problems) < _MOST_PROBLEMS:
                info.problems.append(old)
        else:
            old.count += 1
        old.what, old.details, old.at = what, details, time.time_ns() // 1_000_000
        return old

    def mended(self, name: str, stage: Stage, subject: str) -> None:
        """What went wrong there works now."""
        if info := self.infos.get(name):
            info.problems = [p for p in info.problems if (p.stage, p.subject) != (stage, subject)]

    # -- collecting

    def _decorated(self, plugin: str) -> Iterator[Tool]:
        """The `@tool`s of a module that does not say itself which tools it offers."""
        module = self._pluggy.get_plugin(plugin)
        if isinstance(module, ModuleType) and not hasattr(module, "register_tools"):
            for item in vars(module).values():
                # What the module has imported is offered where it was made.
                if isinstance(item, FunctionTool) and item.function.__module__ == module.__name__:
                    yield item

    def _all_providers(self) -> Mapping[tuple[Kind, str], Provider]:
        if self._providers is None:
            self._providers = {}
            offered = list(self._collect("register_providers", Provider))
            for plugin, provider in offered:
                if provider.kind not in KINDS:
                    what = f"There is no kind of provider {str(provider.kind)[:80]!r}; there are {', '.join(KINDS)}"
                    self.report(plugin, "register", provider.name, what)
            for kind in KINDS:
                own = ((plugin, p.name, p) for plugin, p in offered if p.kind == kind)
                self._providers |= {(kind, name): p for name, p in self._unique(kind, own).items()}
        return self._providers

    def _unique(self, kind: str, offered: Iterable[tuple[str, str, T]]) -> dict[str, T]:
        """The items by name; who comes second with a name is told."""
        found: dict[str, T] = {}
        for plugin, name, item in offered:
            if name in found:
                other = self._owners[kind, name]
                self.report(
                    plugin,
                    "register",
                    f"{kind}:{name}",
                    f"The name {kind}:{name} is taken by the plugin {other!r}",
                    fix=f"Name {other!r} in disabled_plugins if you want this one.",
                )
            else:
                found[name] = item
                self._owners[kind, name] = plugin
        return found

    def _collect(self, hook: str, kind: type[T], **arguments: Any) -> Iterator[tuple[str, T]]:
        """All items the implementations of `hook` return; one that raises or returns something else is left out."""
        for impl in self.implementations(hook):
            for _, item in self._items(impl, kind, **arguments):
                yield impl.plugin, item

    def _items(self, impl: Impl, kind: type[T], mapped: bool = False, **arguments: Any) -> list[tuple[str, T]]:
        try:
            result = impl(**arguments)
            items = list((result or {}).items()) if mapped else [("", item) for item in result or ()]
            for _, item in items:
                if not isinstance(item, kind):
                    raise TypeError(f"{impl.hook} must return {kind.__name__} objects, not {type(item).__name__}")
        except FAULTS as error:
            self.report(impl.plugin, "register", impl.hook, error)
            return []
        # Whether routes fit, the server finds out.
        return items if kind is object else [one for one in items if self._fits(impl, *one)]

    def _fits(self, impl: Impl, name: str, item: object) -> bool:
        """Whether the item is whole; what is wrong with it is told, and it is left out."""
        try:
            if wrong := misfit(name, item):
                raise Refused(wrong)
        except FAULTS as error:
            called = getattr(item, "name", name)
            self.report(impl.plugin, "register", f"{impl.hook}: {str(called)[:80]}", error)
            return False
        return True


def hook_names() -> list[str]:
    """The names of all hooks, in the order of their definition."""
    return [name for name, item in vars(hookspecs).items() if hasattr(item, f"{hookspecs.PROJECT}_spec")]


def settings_schema(settings: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a struct of settings; what is secret is marked `writeOnly`."""
    try:
        (schema,), parts = msgspec.json.schema_components((settings,), ref_template="#/$defs/{name}")
    except Exception:  # noqa: BLE001 - a type that has no schema is the author's business; the kit says so
        return {}
    own = parts.pop(settings.__name__, schema)
    for key in own.get("properties", {}).values():
        # Of `Secret | None` the mark would be hidden in one of the two.
        if any(choice.get("writeOnly") for choice in key.get("anyOf", ())):
            key["writeOnly"] = True
        if key.get("writeOnly"):
            # It may come from the environment.
            key.pop("default", None)
    return {**own, "$defs": parts} if parts else own


def load_plugins(disabled: Iterable[str] = (), folder: Path | None = None, modules: Iterable[str] = ()) -> Plugins:
    """All plugins that are found and not `disabled`; the built-in ones come by an entry point like anybody's."""
    plugins = Plugins()
    skip = set(disabled)
    for found in find_plugins(folder, modules):
        if found.name in skip:
            plugins.disabled.add(found.name)
        else:
            plugins.add(found.name, found.load, distribution=found.distribution, version=found.version)
    return plugins


def plugins_of(settings: Settings) -> Plugins:
    """The plugins of a process with these settings."""
    return load_plugins(settings.disabled_plugins, settings.plugins_dir, settings.plugin_modules)


def _check_version(plugin: object) -> None:
    """Whether `plugin` was made for these hooks.

    Raises:
        Refused: it needs others.
    """
    wanted = getattr(plugin, "REJOINDER_API", None)
    if wanted is None:
        return
    ours = _version(hookspecs.API_VERSION)
    try:
        theirs = _version(wanted)
    except (ValueError, AttributeError):
        raise Refused(
            f"REJOINDER_API is {wanted!r}.", fix=f'Write it as text: REJOINDER_API = "{hookspecs.API_VERSION}".'
        ) from None
    if theirs[0] == ours[0] and theirs <= ours:
        return
    newer = "Upgrade rejoinder" if theirs > ours else "Upgrade the plugin"
    raise Refused(f"It was made for plugin API {wanted}; this Rejoinder has {hookspecs.API_VERSION}.", fix=f"{newer}.")


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _reason(error: BaseException | str, distribution: str) -> str:
    """What happened, and what to do, in one line."""
    if isinstance(error, str):
        return error
    if isinstance(error, RejoinderError):
        return f"{error.message} {error.fix}" if error.fix else error.message
    if isinstance(error, pluggy.PluginValidationError) and (found := _WRONG_ARGUMENT.search(str(error))):
        may = ", ".join(inspect.signature(getattr(hookspecs, found[1])).parameters) or "nothing"
        return f"{found[1]} asks for {found[2]}, which there is not. It may ask for: {may}."
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"{sentence(text)} Install what it needs"
        packaged = distribution and not distribution.endswith(".py")
        return f"{what}: pip install --upgrade {distribution}" if packaged else f"{what} ({error.name})"
    return text


def _check_function(hook: str, function: Callable[..., object]) -> None:
    """Whether a hook's function can be called as hooks are: by name, with what it asks for.

    Raises:
        Refused: it cannot.
    """
    kinds = inspect.Parameter
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not kinds.POSITIONAL_OR_KEYWORD or parameter.default is not kinds.empty:
            raise Refused(f"{hook} has the parameter {parameter}.", fix="Take plain ones, without defaults and stars.")
    late = inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)
    if late and (hook not in MAY_BE_ASYNC or inspect.isasyncgenfunction(function)):
        raise Refused(f"{hook} must not be async: nobody would wait for it.", fix="Write it as a plain function.")


def misfit(name: str, item: object) -> str:
    """What is wrong with something that a plugin offers (as `name`, where it does not say itself); "" if nothing is."""
    name = name if isinstance(item, type) else getattr(item, "name", name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"its name is {str(name)[:80]!r}: use letters, digits, _, - and ., at most 64"
    schema = item if isinstance(item, type) else getattr(item, "settings", None)
    if schema is not None and not isinstance(item, Agent):
        if not isinstance(schema, type) or not issubclass(schema, msgspec.Struct):
            return "its settings are no msgspec.Struct"
        required = [field.name for field in msgspec.structs.fields(schema) if field.required]
        if required:
            return f"its settings have no default for {', '.join(required)}"
    if isinstance(item, Provider) and not (callable(item.create) and isinstance(item.capabilities, Capabilities)):
        return "its `create` is no function, or its `capabilities` are no Capabilities"
    if isinstance(item, ToolSource) and not callable(item.create):
        return "its `create` is no function"
    if isinstance(item, Tool):
        if not callable(item.run) or not isinstance(item.parameters, Mapping):
            return "its `run` is no function, or its `parameters` are no JSON Schema object"
        msgspec.json.encode(item.parameters)
    return ""


def absent(plugins: Plugins) -> set[str]:
    """The plugins that are switched off or out of order: what they would offer is not known."""
    return {*plugins.disabled, *(info.name for info in plugins.infos.values() if info.may_offer("register_"))}
