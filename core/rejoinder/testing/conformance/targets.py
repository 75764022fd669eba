"""What `rejoinder plugins test` is pointed at: a project folder, a file or the name of an installed plugin."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from rejoinder.discovery import ENTRY_POINTS, find_plugins
from rejoinder.errors import ConfigError, UnknownName
from rejoinder.settings import load_settings
from rejoinder.testing.conformance.plugin import PluginConformance
from rejoinder.testing.conformance.subject import Subject, loaded, subject_of

PROJECT = "pyproject.toml"
OWN = Path("tests", "test_conformance.py")
"""Where a project's own suites are: with its samples, arguments, language."""
Own = Sequence[type[PluginConformance]]


def subjects(target: str) -> list[Subject]:
    """The plugins that `target` names, loaded.

    Raises:
        ConfigError: there is none, or one cannot be loaded.
    """
    path = Path(target)
    if path.is_dir():
        return _project(path)
    if path.suffix == ".py":
        return [_file(path)]
    settings = load_settings()
    found = find_plugins(settings.plugins_dir, settings.plugin_modules)
    named = [one for one in found if one.name == target] or [one for one in found if one.distribution == target]
    if not named:
        raise UnknownName(
            "plugin", target, [one.name for one in found], fix="Give a project folder, a file, or the name of a plugin."
        )
    return [loaded(one.name, one.load) for one in named]


def own_suites(target: str) -> Own:
    """The suites that the project in the folder `target` has in `tests/test_conformance.py`, for pytest; maybe none.

    Raises:
        ConfigError: that file cannot be loaded.
    """
    file = Path(target) / OWN
    if not file.is_file():
        return ()
    name = "rejoinder_own_conformance"
    spec = spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{str(file)!r} cannot be loaded: {type(error).__name__}: {error}.",
            code="plugin_failed",
            fix="Correct it: its suites are used here, too.",
        ) from error
    found = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name]
    return [one for one in found if issubclass(one, PluginConformance)]


def suites(
    subject: Subject, only: tuple[str, ...], runs: int | None, own: Own = ()
) -> Iterator[tuple[str, PluginConformance]]:
    """What there is to test of `subject` (`kind:name` and the suite for it); with `only`, those alone.

    Of the suites in `own` all that are of that kind and name are taken, where there are any.
    """
    for offer in subject.offers():
        if only and offer not in only:
            continue
        kind, _, name = offer.partition(":")
        module = import_module(f"rejoinder.testing.conformance.{kind}")
        general: type[PluginConformance] = getattr(module, f"{kind.capitalize()}Conformance")
        which = "tool" if kind == "tool" else "provider"
        fitting = [one for one in own if issubclass(one, general) and (not name or getattr(one, which) == name)]
        for made in fitting or [general]:
            suite: Any = made()
            suite.plugin = subject.plugin
            suite.given = subject
            if name:
                setattr(suite, which, name)
            if runs is not None:
                suite.runs = runs
            yield offer, suite


def _project(folder: Path) -> list[Subject]:
    """The plugins of a project that need not be installed: the entry points in its pyproject.toml."""
    file = folder / PROJECT
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {PROJECT} in {str(folder)!r}.",
            fix="Give the folder of a project, a file such as plugins/acme.py, or the name of an installed plugin; "
            "`rejoinder plugins new` writes a project.",
        ) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error}.") from None
    entries = project.get("entry-points", {}).get(ENTRY_POINTS, {})
    if not entries:
        raise ConfigError(
            f"{str(file)!r} offers no plugin.",
            fix=f'Write in it: [project.entry-points.{ENTRY_POINTS}] and below: acme = "rejoinder_acme".',
        )
    source = folder / "src" if (folder / "src").is_dir() else folder
    sys.path.insert(0, str(source.resolve()))
    return [subject_of(str(value), name) for name, value in entries.items()]


def _file(path: Path) -> Subject:
    if not path.is_file():
        raise ConfigError(f"There is no file {str(path)!r}.", fix="Check the path.")
    # As it would be found in the folder `plugins`.
    found = next((one for one in find_plugins(path.parent) if one.distribution == str(path)), None)
    if found is None:
        raise ConfigError(f"{str(path)!r} is no plugin.", fix="Its name must not begin with an underscore.")
    return loaded(path.stem, found.load)
