"""Build hook: puts the web pages into the wheel and the sdist."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _web(root: str) -> ModuleType:
    """`admin/web/build.py`, which is no part of any package."""
    spec = importlib.util.spec_from_file_location("rejoinder_web_build", Path(root, "admin", "web", "build.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class WebPages(BuildHookInterface[Any]):
    """Builds them unless they are there: built before (in an sdist, or by `make web`), or not asked for."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node.js as a package, where the machine has none and it is needed."""
        web = _web(self.root)
        return [] if self._is_done(web) or web.own_npm() else [web.NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; an editable install has them from `make web`.

        Raises:
            SystemExit: they could not be built.
        """
        web = _web(self.root)
        if version == "editable" or self._is_done(web):
            return
        try:
            web.build()
        except web.BuildError as failure:
            sys.exit(f"error: {failure}")

    def _is_done(self, web: ModuleType) -> bool:
        if os.environ.get("REJOINDER_UI") == "skip":
            return True
        from_sdist = Path(self.root, "PKG-INFO").exists() and web.is_built()
        return bool(from_sdist or web.is_current())
