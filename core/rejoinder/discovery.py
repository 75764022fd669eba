"""Finds plugins without loading them: entry points of packages, modules named in the settings, files in a folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rejoinder.errors import RejoinderError

ENTRY_POINTS = "rejoinder"
OURS = "rejoinder"
"""The distribution of the built-in plugins."""


class Refused(RejoinderError):
    """A plugin that is found and must not be loaded."""

    code = "plugin_refused"


class Found(NamedTuple):
    """A plugin that can be loaded. `distribution` is where it comes from: a package, a module or the path of a file."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]


def find_plugins(folder: Path | None = None, modules: Iterable[str] = ()) -> list[Found]:
    """All plugins in the order in which they are loaded and called; none is imported.

    First the built-in ones and those of other packages, by the names of their entry points in the group `rejoinder`;
    then `modules`, by import name; then the files `*.py` in `folder`, each called like its file (those that begin with
    an underscore are left to the others to import). Where two have a name, the first one is loaded; the other is kept
    out, and says so.
    """
    found: dict[str, Found] = {}

    def add(name: str, distribution: str, version: str, load: Callable[[], object], place: str) -> None:
        other = found.get(name)
        if other is None:
            found[name] = Found(name, distribution, version, load)
        elif place not in found:
            found[place] = Found(place, distribution, version, partial(_refuse, place, other))

    entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    for entry in sorted(entries, key=lambda entry: (_distribution(entry)[0] != OURS, entry.name, entry.value)):
        distribution, version = _distribution(entry)
        add(entry.name, distribution, version, entry.load, f"{entry.name} ({distribution})")
    for module in modules:
        add(module, module, "", partial(_load_module, module), f"{module} (module)")
    for path in sorted(folder.glob("*.py")) if folder is not None and folder.is_dir() else []:
        if not path.name.startswith("_"):
            add(path.stem, str(path), "", partial(_load_file, path), path.name)
    return list(found.values())


def _distribution(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    # Of a package without metadata, both may be None.
    return (entry.dist.name or "", entry.dist.version or "") if entry.dist else ("", "")


def _load_module(name: str) -> ModuleType:
    # `rejoinder` is a program of its own: unlike with `python -m`, the folder it is started in is not on the path.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


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


def _refuse(place: str, other: Found) -> object:
    raise Refused(
        f"There is another plugin called {other.name!r} ({other.distribution}).",
        fix=f"Rename {place}, or uninstall one of them.",
    )
