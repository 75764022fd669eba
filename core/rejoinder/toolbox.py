"""The tools of one process, those of plugins and those that come and go, with their settings; an agent's choice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

from rejoinder.errors import ConfigError, UnknownName, sentence
from rejoinder.guard import FAULTS, bounded
from rejoinder.manager import Plugins, Stage
from rejoinder.providers import LiveTools, NoSettings, Tool

log = logging.getLogger(__name__)
S = TypeVar("S", bound=msgspec.Struct)
START_S, CLOSE_S = 60.0, 5.0
"""A source of tools that takes longer to start or to close is not waited for."""
Sections = Mapping[str, Mapping[str, Any]]


def from_text(section: Mapping[str, Any], schema: type[msgspec.Struct]) -> dict[str, Any]:
    """`section` with lists and tables where the environment has given JSON text for them."""
    kinds = {field.encode_name: field.type for field in msgspec.structs.fields(schema)}
    values = dict(section)
    for key, value in section.items():
        if isinstance(value, str) and value[:1] in ("[", "{") and key in kinds:
            try:
                msgspec.convert(value, kinds[key], strict=False)
            except msgspec.ValidationError:
                try:
                    values[key] = msgspec.json.decode(value)
                except msgspec.DecodeError:
                    # What is wrong with the text is said of the text.
                    continue
    return values


def read_section(sections: Sections, name: str, schema: type[S], others: Iterable[type[msgspec.Struct]] = ()) -> S:
    """The settings `[plugins.NAME]`, all defaults where there are none.

    `others` may share the section: what is for them is not looked at.

    Raises:
        ConfigError: they do not fit `schema`.
    """
    own, theirs = _keys(schema), {key for other in others for key in _keys(other)}
    section = {key: value for key, value in sections.get(name, {}).items() if key in own or key not in theirs}
    try:
        return msgspec.convert(from_text(section, schema), schema, strict=False)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(schema)) or "none"
        raise ConfigError(sentence(f"[plugins.{name}]: {error}"), fix=f"Its settings are: {fields}.") from None


def _keys(schema: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(schema)}


class Toolbox:
    """All tools by name. `start()` it for those that come and go, and `close()` it then.

    `runtime` is the process's; None where tools are only named and listed. Of what is called one of `broken` the
    settings are known to be wrong: they are not read, and sources called so are left out.

    Raises (when made):
        ConfigError: the settings of a tool or of a source are wrong.
    """

    def __init__(
        self, plugins: Plugins, sections: Sections, runtime: object = None, *, broken: Collection[str] = ()
    ) -> None:
        self._plugins = plugins
        self._sections = sections
        self._broken = broken
        self._schemas = plugins.schemas()
        self._fixed()
        self._sources: dict[str, LiveTools] = {}
        for source in plugins.tool_sources(runtime):
            if source.name in broken:
                continue
            configured = read_section(sections, source.name, source.settings, self._schemas[source.name])
            try:
                self._sources[source.name] = source.create(configured)
            except FAULTS as error:
                self._report(source.name, "configure", error)

    def _report(self, source: str, stage: Stage, error: BaseException) -> None:
        self._plugins.report(self._plugins.owner("tools", source), stage, f"tools:{source}", error)

    async def start(self) -> None:
        """Look for the tools of all sources at once; what cannot be reached is logged."""

        async def begin(name: str, source: LiveTools) -> None:
            try:
                await bounded(source.start(), START_S, f"start of {name}")
            except Exception as error:  # noqa: BLE001 - a stranger's; the others go on
                self._report(name, "warm_up", error)

        await asyncio.gather(*(begin(name, source) for name, source in self._sources.items()))

    async def close(self) -> None:
        """Free everything; call once."""
        for name, source in self._sources.items():
            try:
                await bounded(source.close(), CLOSE_S, f"closing of {name}")
            except Exception:
                log.exception("the tool source %s did not close", name)

    def has_source(self, name: str) -> bool:
        """Whether tools that come and go are brought by what is called `name`."""
        return name in self._sources

    def tools(self) -> dict[str, Tool]:
        """The tools there are now; one of a plugin hides those of sources with its name."""
        live: dict[str, Tool] = {}
        for name, source in self._sources.items():
            try:
                live.update(source.tools())
            except FAULTS as error:
                self._report(name, "answer", error)
        return {**live, **self._fixed()}

    def choose(self, wanted: Iterable[str]) -> dict[str, Tool]:
        """The tools called `wanted`, where `*` stands for any letters: all that match it now, maybe none.

        One that a source has not got now is left out and logged.

        Raises:
            UnknownName: there is no such tool, and there never will be.
        """
        tools = self.tools()
        chosen: dict[str, Tool] = {}
        for name in wanted:
            if name in tools:
                chosen[name] = tools[name]
            elif "*" in name:
                chosen.update({known: tools[known] for known in sorted(tools) if fnmatchcase(known, name)})
            elif self._expected(name):
                log.warning("the tool %s is not there now; this session does without it", name)
            else:
                raise UnknownName("tool", name, tools)
        return chosen

    def check(self, wanted: Iterable[str]) -> None:
        """Look whether `choose(wanted)` would raise, now or later.

        Raises:
            UnknownName: there is no tool of that name, and there never will be.
        """
        for name in wanted:
            if name not in self._plugins.tools() and "*" not in name and not self._expected(name):
                raise UnknownName("tool", name, self.tools())

    def _expected(self, tool: str) -> bool:
        for name, source in self._sources.items():
            try:
                if source.expects(tool):
                    return True
            except FAULTS as error:
                self._report(name, "answer", error)
        return False

    def _fixed(self) -> dict[str, Tool]:
        tools = dict(self._plugins.tools())
        for name, tool in tools.items():
            if tool.settings is not NoSettings and name not in self._broken:
                tools[name] = replace(
                    tool, configured=read_section(self._sections, name, tool.settings, self._schemas[name])
                )
        return tools
