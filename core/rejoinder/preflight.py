"""Finds what is misspelt in the settings and in the environment, all of it at once, before anything is loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import BaseModel

from rejoinder.catalog import fixed_agents
from rejoinder.errors import ConfigError, UnknownName, did_you_mean, listed
from rejoinder.manager import Plugins, absent
from rejoinder.providers import KINDS, NoSettings, Tool, ToolSource
from rejoinder.settings import AGENT_NAME, CONFIG_FILE, ENV_PREFIX, Agent, Settings
from rejoinder.store.agents import Agents
from rejoinder.toolbox import Toolbox, from_text

Voices = Callable[[str], Collection[str] | None]
"""The voices of the TTS provider of that name, None where they are not known."""
_OTHER_VARIABLES = ("CONFIG", "API_KEY")
"""What is read besides the settings."""
_TESTS = "TEST_"
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")


@dataclass(slots=True)
class Findings:
    """What was found: `problems` are to be refused; `warnings` are what may be meant so.

    `transfers` are those to agents that the settings do not define, as (agent, to whom): see `settle`.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    transfers: list[tuple[str, str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """The sections `[plugins.NAME]` that are wrong."""

    def error(self) -> ConfigError:
        """All problems as one error."""
        return ConfigError(f"The settings are wrong: {listed(self.problems)}", fix="Correct what is named.")

    async def settle(self, stored: Agents | None, fixed: Collection[str]) -> None:
        """Judge `transfers` by the agents in SQL (None: there is no database yet).

        Where agents are defined over REST, one that is not there may come or come back: a warning.
        """
        transfers, self.transfers = self.transfers, []
        if not transfers:
            return
        known = {one.name for one in await stored.all()} if stored else set()
        for agent, to in transfers:
            if to in known:
                continue
            expected = stored is not None and bool(known or await stored.versions(to))
            fix = f"define [agents.{to}] in {CONFIG_FILE}"
            hint = did_you_mean(to, {*known, *fixed}) or fix
            text = f"agents.{agent}.transfers: There is no agent {to!r}; {hint}"
            (self.warnings if expected else self.problems).append(text)


@dataclass(frozen=True, slots=True)
class BadName:
    """A name in an agent's field that nobody registered; `near` says whether a known one looks like it."""

    field: str
    name: str
    what: str
    near: bool


def examine(settings: Settings, plugins: Plugins, environ: Iterable[str]) -> Findings:
    """What is wrong with the variables called `environ` and with the sections of `plugins`."""
    found = Findings(problems=list(_variables(environ)))
    schemas = plugins.schemas()
    missing = absent(plugins)
    for name in settings.disabled_plugins:
        if name not in plugins.disabled:
            hint = did_you_mean(name, plugins.infos)
            found.warnings.append(f"disabled_plugins: there is no plugin {name!r}{f', {hint}' if hint else ''}")
    for name in settings.required_plugins:
        info = plugins.infos.get(name)
        if info is None or info.may_offer(""):
            why = info.error if info is not None else "it is not installed, or disabled"
            found.problems.append(f"required_plugins: {name}: {why}")
    for name in sorted({*settings.plugins, *_eager(plugins)}):
        if name not in schemas:
            hint = did_you_mean(name, schemas)
            text = f"plugins.{name}: nothing is called {name!r}{f', {hint}' if hint else ''}"
            (found.warnings if _excused(name, bool(hint), missing) else found.problems).append(text)
        elif wrong := _section(name, settings.plugins.get(name, {}), schemas[name]):
            found.problems += wrong
            found.broken.add(name)
    return found


def examine_agents(found: Findings, settings: Settings, plugins: Plugins, toolbox: Toolbox, voices: Voices) -> None:
    """Add to `found` what is wrong with the agents of `settings`."""
    missing = absent(plugins)
    fixed = fixed_agents(settings, plugins)
    unclear = any(source.name in found.broken for source in plugins.tool_sources())
    for name, agent in settings.agents.items():
        for bad in bad_names(agent, plugins, toolbox, voices, fixed):
            # Of a source whose settings are wrong nobody knows what its tools would be called.
            if bad.field == "tools" and unclear and not bad.near:
                continue
            text = f"agents.{name}.{bad.field}: {bad.what}"
            excused = bad.field not in ("voice", "transfers") and _excused(bad.name, bad.near, missing)
            (found.warnings if excused else found.problems).append(text)
        found.transfers += [(name, to) for to in agent.transfers if to not in fixed and AGENT_NAME.match(to)]


def bad_names(
    agent: Agent, plugins: Plugins, toolbox: Toolbox, voices: Voices, fixed: Collection[str]
) -> list[BadName]:
    """What `agent` names that nobody registered; `fixed` are the agents of the settings.

    Its voice must be one of its first TTS provider's; the others speak with their own where they do not have it. An
    agent to transfer to may be defined later, unless it can never be.
    """
    bad = []
    for kind in KINDS:
        for name in agent.names(kind):
            try:
                plugins.provider(kind, name)
            except UnknownName as error:
                near = bool(did_you_mean(name, [offer.name for offer in plugins.providers(kind)]))
                bad.append(BadName(kind, name, error.message, near))
    for name in agent.tools:
        try:
            toolbox.check((name,))
        except UnknownName as error:
            bad.append(BadName("tools", name, error.message, bool(did_you_mean(name, toolbox.tools()))))
    if agent.voice is not None and (known := voices(agent.tts[0])) is not None and agent.voice not in known:
        hint = did_you_mean(agent.voice, known)
        what = f"{agent.tts[0]} has no voice {agent.voice!r}; {hint or 'known: ' + ', '.join(sorted(known))}"
        bad.append(BadName("voice", agent.voice, what, bool(hint)))
    bad += _bad_languages(agent, plugins)
    for name in agent.transfers:
        if name not in fixed and not AGENT_NAME.match(name):
            bad.append(BadName("transfers", name, UnknownName("agent", name, fixed).message, False))
    return bad


def _bad_languages(agent: Agent, plugins: Plugins) -> Iterable[BadName]:
    """Kinds of which none of the agent's providers has its language, as far as they say so."""
    offers = {(offer.kind, offer.name): offer.capabilities for offer in plugins.providers()}
    for kind in ("stt", "tts"):
        known = [(name, offers[kind, name]) for name in agent.names(kind) if (kind, name) in offers]
        if known and not any(stated.speaks(agent.language) for _, stated in known):
            can = "; ".join(f"{name}: {', '.join(stated.languages or ()) or 'none'}" for name, stated in known)
            what = f"no {kind} provider of its has {agent.language!r} ({can})"
            yield BadName("language", agent.language, what, True)


def by_field(bad: Iterable[BadName]) -> dict[str, str]:
    """What is wrong by the name of the field."""
    fields: dict[str, list[str]] = {}
    for one in bad:
        fields.setdefault(one.field, []).append(one.what)
    return {name: listed(problems).removesuffix(".") for name, problems in fields.items()}


# -- plugins that are not there


def _excused(name: str, near: bool, missing: Collection[str]) -> bool:
    """Whether `name` may be of a plugin that is `missing`: what it would offer is not known."""
    return name in missing or bool(missing and not near)


# -- sections


def _eager(plugins: Plugins) -> set[str]:
    """The names of tools, sources and sections of their own: they are read from the start, also where none is set."""
    offers: list[Tool | ToolSource] = [*plugins.tools().values(), *plugins.tool_sources()]
    return {*plugins.settings(), *(offer.name for offer in offers if offer.settings is not NoSettings)}


def _section(name: str, section: Mapping[str, Any], schemas: Iterable[type[msgspec.Struct]]) -> list[str]:
    return [f"plugins.{name}{f'.{key}' if key else ''}: {text}" for key, text in section_problems(section, schemas)]


def section_problems(section: Mapping[str, Any], schemas: Iterable[type[msgspec.Struct]]) -> list[tuple[str, str]]:
    """What is wrong in a section `[plugins.NAME]` that the owners of `schemas` share: the keys, and what it is."""
    fields = {schema: {one.encode_name: one for one in msgspec.structs.fields(schema)} for schema in schemas}
    known = {key for own in fields.values() for key in own}
    problems: list[tuple[str, str]] = []
    for key in section:
        if key not in known:
            hint = did_you_mean(key, known) or f"known: {', '.join(sorted(known)) or 'none'}"
            problems.append((key, f"unknown key, {hint}"))
    for schema, own in fields.items():
        given = {key: value for key, value in from_text(section, schema).items() if key in own}
        # One by one: the first that is wrong would hide the others.
        wrong = [(key, text) for key in given if (text := _misfit(given[key], own[key].type))]
        if not wrong and (text := _misfit(given, schema)):
            wrong = [("", text)]
        problems += [problem for problem in wrong if problem not in problems]
    return problems


def _misfit(value: Any, kind: Any) -> str:
    """Why `value` is no `kind`; "" if it is one."""
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _UNKNOWN_FIELD.search(text)
        hint = did_you_mean(found[1], _inner_fields(kind)) if found else ""
        return f"{text}, {hint}" if hint else text
    return ""


def _inner_fields(kind: Any) -> set[str]:
    """The names of all fields of the structs in `kind`."""
    try:
        _, parts = msgspec.json.schema_components((kind,))
    except TypeError:
        return set()
    return {name for part in parts.values() for name in part.get("properties", ())}


# -- the environment


def _variables(environ: Iterable[str]) -> Iterable[str]:
    heads = {name.upper(): one.default for name, one in Settings.model_fields.items()}
    whole = {*heads, *_OTHER_VARIABLES}
    for head, default in heads.items():
        if isinstance(default, BaseModel):
            whole |= {f"{head}__{name.upper()}" for name in type(default).model_fields}
    for variable in sorted(environ):
        # As pydantic reads them: in any case.
        name = variable.upper().removeprefix(ENV_PREFIX)
        head, *inner = name.split("__", 1)
        if not variable.upper().startswith(ENV_PREFIX) or name in whole or name.startswith(_TESTS):
            continue
        if inner and isinstance(heads.get(head), dict):
            continue
        near = difflib.get_close_matches(name, sorted(whole), n=1)
        if not near:
            near = ["__".join((other, *inner)) for other in difflib.get_close_matches(head, sorted(heads), n=1)]
        yield f"{variable}: unknown variable" + (f", did you mean {ENV_PREFIX + near[0]!r}?" if near else "")
