"""What the server is set to, and where each setting comes from; the settings of plugins can be changed."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, put
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody

from rejoinder.app import Runtime
from rejoinder.origins import Setting, settings_list
from rejoinder.plugin_settings import PluginSection
from rejoinder_adapters.security import audit, needs, principal_of

Asked = Request[Any, Any, State]


class SettingList(msgspec.Struct):
    """All settings."""

    items: list[Setting]


class SectionList(msgspec.Struct):
    """The sections of plugins, by name."""

    items: list[PluginSection]


class NewSection(msgspec.Struct, forbid_unknown_fields=True):
    """The values of a section, in place of what was stored. Of a secret null leaves what there is, "" removes it."""

    values: dict[str, Any]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/settings` and `/v1/plugin_settings`."""
    plugins, stored = runtime.plugins, runtime.plugin_settings

    @get("/v1/settings", guards=[needs("admin")])
    async def list_settings() -> SettingList:
        """All settings with where they come from; of secrets no value."""
        return SettingList(settings_list(runtime.settings, plugins.schemas(), stored.sections))

    @get("/v1/plugin_settings", guards=[needs("admin")])
    async def list_plugin_settings() -> SectionList:
        """The settings of plugins; of secrets only whether there is one."""
        return SectionList(stored.all())

    @put("/v1/plugin_settings/{name:str}", guards=[needs("admin", proof=True)])
    async def put_plugin_settings(name: FromPath[str], data: JSONBody[NewSection], request: Asked) -> PluginSection:
        """Change the settings of a plugin, as far as neither the environment nor the file has them."""
        principal = await principal_of(request)
        keys = await stored.put(name, data.values, by=principal.name, apply=runtime.apply_settings)
        if keys:
            audit(request, "plugin_settings.put", name, keys=keys)
        return stored.get(name)

    return [list_settings, list_plugin_settings, put_plugin_settings]
