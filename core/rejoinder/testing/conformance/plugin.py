"""The rules for every plugin, whatever it offers: importing it costs little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rejoinder.testing.conformance.rules import NotChecked, Seen, Suite, Violation, rule
from rejoinder.testing.conformance.subject import Subject, installed, subject_of

IMPORT_MS = 150.0
HEAVY = frozenset(
    [
        "numpy",
        "scipy",
        "pandas",
        "torch",
        "torchaudio",
        "tensorflow",
        "jax",
        "onnxruntime",
        "transformers",
        "librosa",
        "soundfile",
        "sklearn",
        "numba",
        "cv2",
        "openai",
        "anthropic",
        "google",
        "boto3",
        "av",
    ]
)
"""Packages that take long enough to be noticed by everybody who runs `rejoinder --help`."""
BRINGS = ("rejoinder.manager", "rejoinder.tooling")
SERVER = ("rejoinder.app", "litestar")
"""What has been imported anyway."""
_IMPORT_S = 60.0
_SCRIPT = """
import importlib, importlib.util, json, sys, time
paths, before, module, file = json.loads(sys.argv[1])
sys.path[:] = paths
for name in before:
    importlib.import_module(name)
known = set(sys.modules)
print("-- now", file=sys.stderr, flush=True)
began = time.perf_counter()
try:
    if file:
        spec = importlib.util.spec_from_file_location(module, file)
        made = importlib.util.module_from_spec(spec)
        sys.modules[module] = made
        spec.loader.exec_module(made)
    else:
        importlib.import_module(module)
except ImportError as error:
    print(json.dumps([None, str(error)]))
else:
    print(json.dumps([(time.perf_counter() - began) * 1000, sorted(set(sys.modules) - known)]))
"""


class PluginConformance(Suite):
    """What all suites have in common. Set `plugin` (and what the suite of a kind asks for) in a subclass."""

    plugin: Any = None
    """The name to import it by, or the module or object itself; None: found as the server finds it."""
    settings: Mapping[str, Any] = {}
    """`[plugins.NAME]`, over what the settings of this directory and environment say."""
    language = "en"
    runs = 200
    """How often it is used in the search for leaks."""
    most_s = 60.0
    """That search ends early after this many seconds, and says so."""
    given: Subject | None = None
    """The plugin, where it has been loaded already."""

    def subject(self) -> Subject:
        """The plugin, loaded.

        Raises:
            ConfigError: it cannot be loaded, or there is none.
        """
        if self.given is None:
            self.given = installed(self.wanted()) if self.plugin is None else subject_of(self.plugin)
        return self.given

    def roots(self) -> tuple[Path, ...]:
        """Where the author's code is."""
        return self.subject().roots

    def wanted(self) -> str:
        """What it must offer: `kind:name`."""
        raise NotImplementedError

    @rule
    def test_import_is_light(self) -> Seen:
        """Importing the plugin is quick and imports nothing heavy; what is heavy is imported in `warm_up`."""
        subject = self.subject()
        # One that brings routes is only of use where there is a server.
        brings = (*BRINGS, *SERVER) if "adapter" in subject.offers() else BRINGS
        tries = [_import_cost(subject, brings) for _ in range(3)]
        ms, modules, slowest = min(tries, key=lambda one: one[0])
        heavy = sorted({name.partition(".")[0] for name in modules} & HEAVY)
        if heavy or ms > IMPORT_MS:
            what = f"importing {subject.module} takes {ms:.0f} ms"
            if heavy:
                what += f" and imports {', '.join(heavy)}"
            if slowest:
                what += f"; slowest: {slowest}"
            raise Violation(
                what,
                f"import {', '.join(heavy) or slowest or 'what is slow'} inside `warm_up` (in a thread), not at the "
                f"top of the module: at most {IMPORT_MS:.0f} ms, since many commands of `rejoinder` import it",
                import_ms=ms,
            )
        return Seen(f"{ms:.0f} ms", import_ms=ms)


def _import_cost(subject: Subject, brings: tuple[str, ...]) -> tuple[float, list[str], str]:
    """Milliseconds, the modules that came, and the slowest package among them."""
    importable = _importable(subject.module, subject.file)
    if not importable and subject.file is None:
        raise NotChecked(f"{subject.module} cannot be imported anew: it was made in this process")
    file = None if importable else str(subject.file)
    request = json.dumps([sys.path, brings, subject.module, file])
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _SCRIPT, request],
        capture_output=True,
        text=True,
        timeout=_IMPORT_S,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        check=False,
    )
    try:
        ms, found = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise NotChecked(f"it cannot be imported in a fresh interpreter: {run.stderr[-300:].strip()}") from None
    if ms is None:
        raise NotChecked(f"it cannot be imported in a fresh interpreter: {found}")
    return ms, found, _slowest(run.stderr, subject.module)


@cache
def _importable(module: str, file: Path | None) -> bool:
    from importlib.util import find_spec

    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None or spec.name != module:
        return False
    loaded = sys.modules.pop(module)
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
    finally:
        sys.modules[module] = loaded


def _slowest(trace: str, own: str) -> str:
    """The other package that took most of its own time in the output of `-X importtime`, with its ms."""
    took: dict[str, int] = {}
    for line in trace.rpartition("-- now")[2].splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().partition(".")[0]
            took[package] = took.get(package, 0) + int(parts[0])
    took.pop(own.partition(".")[0], None)
    if not took:
        return ""
    name = max(took, key=lambda package: took[package])
    return f"{name} ({took[name] / 1000:.0f} ms)"
