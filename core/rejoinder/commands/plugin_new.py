"""`rejoinder plugins new`: writes a complete project for a plugin, from the templates that come with Rejoinder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from rejoinder import __version__
from rejoinder.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = {
    "stt": "Speech recognition (STT)",
    "llm": "A language model (LLM)",
    "tts": "A voice (TTS)",
    "vad": "Voice activity detection (VAD)",
    "turn": "A detector of the end of a turn",
    "interruption": "A judge of interruptions",
    "tool": "Tools that agents use",
    "adapter": "A door into the server",
    "observer": "An observer of conversations",
}
"""What a plugin of each kind is."""
NUMPY = ("stt", "tts", "vad")
"""Kinds whose template computes with it."""
LONGEST = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".tmpl"
_HIDDEN = ("gitignore", "github")
"""What has a dot before its name in a project; here it has none, since packaging tools leave out such files."""


@click.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What it is to offer.")
@click.option(
    "--path",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where the project's folder is made.  [default: here]",
)
def command(name: str, kind: str, parent: Path) -> None:
    """Write a project for a plugin: the folder rejoinder-NAME, with source, tests, CI and a README.

    It works at once and needs no model. NAME is what it will be called in the settings of agents: lower-case letters,
    digits and - between them.
    """
    _check_name(name)
    folder = parent / f"rejoinder-{name}"
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"{folder} is there already; nothing was written.",
            code="folder_exists",
            fix="Choose another name, or another folder with --path.",
        )
    _check_free(name)
    files = dict(render(name, kind))
    try:
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # "x": whatever happens meanwhile, nothing is overwritten.
            with target.open("xb") as file:
                file.write(content)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror or error}.",
            code="cannot_write",
            fix="Choose another folder with --path.",
        ) from None
    click.echo(f"{folder} is written: {KINDS[kind]}, {len(files)} files. It works as it is. Next:\n")
    click.echo(f"  cd {_quoted(folder)}\n  rejoinder plugins test .\n  pip install -e .\n")
    click.echo("README.md says how to use it; the source says what to replace by your own.")


def render(name: str, kind: str) -> Iterator[tuple[str, bytes]]:
    """The files of the project `rejoinder-NAME` of that kind: path (with /) and content of each."""
    from importlib.resources import files

    identifier = name.replace("-", "_")
    templates = files("rejoinder") / "templates"
    words = {
        "name": name,
        "id": identifier,
        "NAME": identifier.upper(),
        "module": f"rejoinder_{identifier}",
        "kind": kind,
        "summary": KINDS[kind],
        "dependencies": _dependencies(kind),
        "use": (templates / kind / f"use.md{_SUFFIX}").read_text("utf-8"),
        "settings": (templates / kind / f"settings.md{_SUFFIX}").read_text("utf-8"),
    }
    for part in ("common", kind):
        for path, content in _walk(templates / part):
            # In a folder of its own, what has a place in the project; the rest are pieces of its README.
            if part == "common" or "/" in path:
                place = _place(path, words["module"])
                if place.endswith(_SUFFIX):
                    yield place.removesuffix(_SUFFIX), _fill(content.decode(), words).encode()
                else:
                    yield place, content
    yield f"src/{words['module']}/py.typed", b""


def _dependencies(kind: str) -> str:
    major, minor, *_ = __version__.split(".")
    needed = [f"rejoinder>={major}.{minor}", *(["numpy>=2.1"] if kind in NUMPY else [])]
    return ", ".join(f'"{one}"' for one in needed)


def _walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in `folder`, in order."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{above}{entry.name}/")
        else:
            yield f"{above}{entry.name}", entry.read_bytes()


def _place(path: str, module: str) -> str:
    first, *others = PurePosixPath(path).parts
    first = f".{first}" if first.removesuffix(_SUFFIX) in _HIDDEN else first
    return "/".join([first, *(module if part == "__module__" else part for part in others)])


def _fill(text: str, words: dict[str, str]) -> str:
    # Twice: what is put into the README has words of its own.
    for _ in range(2):
        text = re.sub(r"\{\{(\w+)\}\}", lambda found: words[found[1]], text)
    return text


def _check_name(name: str) -> None:
    """Whether a project, a module and a plugin may be called so.

    Raises:
        ConfigError: they may not (`bad_name`).
    """
    if name.startswith(("rejoinder-", "rejoinder_")):
        raise ConfigError(
            f"The project is called rejoinder-NAME anyway, so {name!r} would be said twice.",
            code="bad_name",
            fix=f"rejoinder plugins new {name[len('rejoinder-') :] or 'NAME'} ...",
        )
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        proposal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST].strip("-")
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin: that begins with a lower-case letter, then come lower-case "
            f"letters, digits and single - between them, {LONGEST} characters at most.",
            code="bad_name",
            fix=f"For example {proposal or 'acme'!r}.",
        )


def _check_free(name: str) -> None:
    """Whether nothing that is installed here is called so already.

    Raises:
        ConfigError: something is (`name_taken`).
    """
    from importlib.util import find_spec

    from rejoinder.manager import load_plugins

    identifier = name.replace("-", "_")
    module = f"rejoinder_{identifier}"
    plugins = load_plugins()
    taken = {info.name: f"the plugin {info.name!r} of {info.distribution}" for info in plugins.infos.values()}
    taken |= {offer.name: f"the {offer.kind} provider {offer.name!r}" for offer in plugins.providers()}
    taken |= {tool: f"the tool {tool!r}" for tool in plugins.tools()}
    taken |= {source.name: f"the source of tools {source.name!r}" for source in plugins.tool_sources()}
    if find_spec(module) is not None:
        taken.setdefault(identifier, f"the module {module!r}")
    if identifier in taken:
        raise ConfigError(
            f"The name {name!r} is taken: there is {taken[identifier]} already, and a server would have two of them.",
            code="name_taken",
            fix=f"Choose another one, such as 'my-{name}'.",
        )


def _quoted(path: Path) -> str:
    from shlex import quote

    return quote(str(path))
