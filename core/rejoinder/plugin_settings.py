"""Settings of plugins that are made in the panel: flag over environment over file over these over defaults."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from rejoinder.errors import ConfigError, SessionError, did_you_mean, listed
from rejoinder.manager import Plugins
from rejoinder.origins import is_secret, joint_schema, masked, origin_of, plain, values_of
from rejoinder.preflight import section_problems
from rejoinder.providers import KINDS
from rejoinder.settings import CONFIG_FILE, Settings
from rejoinder.store.plugin_settings import StoredSection, StoredSections
from rejoinder.store.store import Store

log = logging.getLogger(__name__)
_LARGEST = 65_536
"""Bytes of a section."""
Apply = Callable[[str], Awaitable[bool]]
"""Let the plugins take up a section that has changed; False: something of it waits for the next start."""


class PluginSection(msgspec.Struct):
    """The settings `[plugins.NAME]`, of a part of `plugin`, and where each comes from.

    Of a secret the value says only whether there is one. `restart`: what is stored takes effect at the next start.
    `updated_at` (Unix ms) and `updated_by` are of what is stored here; None where nothing is.
    """

    name: str
    plugin: str
    schema: dict[str, Any]
    values: dict[str, Any]
    origins: dict[str, Literal["env", "file", "panel", "default"]]
    restart: bool
    updated_at: int | None
    updated_by: str | None


class InvalidSettings(ConfigError):
    """Settings of a plugin are wrong; `problems` maps each wrong key to what is wrong."""

    code = "invalid_settings"

    def __init__(self, name: str, problems: Mapping[str, str]) -> None:
        found = listed(_named(problems.items()))
        super().__init__(f"The settings of {name!r} are wrong: {found}", fix="Correct the keys named.")
        self.problems = problems


class PluginSettings:
    """What is stored of the settings of `plugins`; `load()` it once the store is open.

    `sections` is what is in effect: what the settings of the process say, and under it what is stored.
    """

    def __init__(self, store: Store, settings: Settings, plugins: Plugins) -> None:
        self.sections: dict[str, dict[str, Any]] = {name: dict(given) for name, given in settings.plugins.items()}
        self._rows = StoredSections(store)
        self._settings = settings
        self._plugins = plugins
        self._stored: dict[str, StoredSection] = {}
        self._waiting: set[str] = set()
        """Sections that take effect at the next start."""
        self._lock = asyncio.Lock()

    async def load(self) -> list[str]:
        """Take up what is stored; the names of the sections that differ by it.

        What does not fit is told as the plugin's problem and left out: it must not keep a server from starting.

        Raises:
            StoreError: the database refused.
        """
        schemas = self._plugins.schemas()
        changed = []
        for stored in await self._rows.all():
            name = stored.name
            self._stored[name] = stored
            if name not in schemas:
                log.info("the panel's settings of %s are for nothing that is there", name)
                continue
            merged = {**stored.values, **self._given(name)}
            if problems := section_problems(merged, schemas[name]):
                self._plugins.report(
                    self._owner(name),
                    "configure",
                    f"settings:{name}",
                    f"what is stored for [plugins.{name}] is not used: {listed(_named(problems))}",
                    fix="Correct it in the panel.",
                )
            elif merged != self.sections.get(name, {}):
                self.sections[name] = merged
                changed.append(name)
        return changed

    def all(self) -> list[PluginSection]:
        """All sections that can be set, by name."""
        return [section for name in sorted(self._plugins.schemas()) if (section := self.get(name)).values]

    def get(self, name: str) -> PluginSection:
        """The section called `name`.

        Raises:
            SessionError: no plugin has such a section (`unknown_section`).
        """
        schemas = self._schemas(name)
        schema = joint_schema(schemas)
        section, given = self.sections.get(name, {}), self._given(name)
        values: dict[str, Any] = {}
        origins: dict[str, Literal["env", "file", "panel", "default"]] = {}
        for key, value in values_of(schemas, section).items():
            shown, secret = masked(value, schema.get("properties", {}).get(key, {}), schema, key)
            values[key] = value is not None and value != "" if secret else shown
            if key in given:
                # No flag is for a plugin; a program's own settings are like a file.
                origins[key] = "env" if origin_of(self._settings, ("plugins", name, key)) == "env" else "file"
            else:
                origins[key] = "panel" if key in section else "default"
        stored = self._stored.get(name)
        return PluginSection(
            name,
            self._owner(name),
            plain(schema),
            values,
            origins,
            name in self._waiting,
            stored.updated_at if stored is not None else None,
            stored.updated_by if stored is not None else None,
        )

    async def put(self, name: str, values: Mapping[str, Any], *, by: str, apply: Apply) -> list[str]:
        """Store `values` as the section, in place of what was stored; the names of the keys that are different now.

        Of a secret None (or True, as it is shown) leaves what there is, and "" removes it. A value that is the default
        is not stored.

        Raises:
            SessionError: there is no such section (`unknown_section`); or a key is pinned by the environment or the
                file, or only the file may have it (`setting_pinned`).
            InvalidSettings: values do not fit; all are named at once.
            StoreError: the database refused.
        """
        schemas = self._schemas(name)
        async with self._lock:
            old = self._stored[name].values if name in self._stored else {}
            given = self._given(name)
            new = self._new(name, values, old, given)
            if len(msgspec.json.encode(new)) > _LARGEST:
                raise InvalidSettings(name, {"": f"they are larger than {_LARGEST} bytes"})
            merged = {**new, **given}
            if problems := section_problems(merged, schemas):
                raise InvalidSettings(name, dict(problems))
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            stored = await self._rows.put(name, new, by=by)
            self._stored.pop(name, None)
            if new:
                self._stored[name] = stored
            self._plugins.mended(self._owner(name), "configure", f"settings:{name}")
            if changed:
                self.sections[name] = merged
                if await apply(name):
                    self._waiting.discard(name)
                else:
                    self._waiting.add(name)
            return changed

    def _new(
        self, name: str, values: Mapping[str, Any], old: Mapping[str, Any], given: Collection[str]
    ) -> dict[str, Any]:
        schemas = self._schemas(name)
        schema = joint_schema(schemas)
        properties: dict[str, Any] = schema.get("properties", {})
        now, defaults = values_of(schemas, self.sections.get(name, {})), values_of(schemas, {})
        new: dict[str, Any] = {}
        pinned = {}
        for key, value in values.items():
            if key not in now:
                # Told with all else that is wrong.
                new[key] = value
                continue
            own = properties.get(key, {})
            shown, secret = masked(now[key], own, schema, key)
            leaves = value is None or value is True if secret else value == shown and shown != now[key]
            if key in given:
                if not leaves and value not in (now[key], shown):
                    pinned[key] = "the environment or the file has it"
            elif leaves:
                if key in old:
                    new[key] = old[key]
            elif own.get("readOnly"):
                if value != now[key]:
                    pinned[key] = f"it can only be set in {CONFIG_FILE} or the environment"
            elif not (secret and value == "") and value != defaults[key] and not _means_default(value, own):
                new[key] = value
        if pinned:
            raise SessionError(
                f"These settings of {name!r} are not changed here: {listed(_named(pinned.items()))}",
                code="setting_pinned",
                fix=f"Change them in {CONFIG_FILE} or in the environment, and start the server again.",
            )
        for key, value in old.items():
            # A form need not send a secret at all.
            if key not in values and key not in given and key in now and is_secret(properties.get(key, {}), key):
                new[key] = value
        return new

    def _schemas(self, name: str) -> list[type[msgspec.Struct]]:
        schemas = self._plugins.schemas()
        if name not in schemas:
            hint = did_you_mean(name, schemas).capitalize()
            raise SessionError(
                f"No plugin has settings {name[:80]!r}.",
                code="unknown_section",
                fix=hint or "GET /v1/plugin_settings lists them.",
            )
        return schemas[name]

    def _given(self, name: str) -> Mapping[str, Any]:
        """What the environment and the file say of a section."""
        return self._settings.plugins.get(name, {})

    def _owner(self, name: str) -> str:
        for kind in (*KINDS, "tool", "tools", "settings"):
            if owner := self._plugins.owner(kind, name):
                return owner
        return ""


def _named(problems: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{key}: {what}" if key else what for key, what in problems]


def _means_default(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` is an empty field of a form rather than a value."""
    kinds = {schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ()))}
    return value is None and "null" not in kinds
