"""`rejoinder knowledge`: add, list, remove and search the documents that agents may look up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from rejoinder.errors import ConfigError, RejoinderError

if TYPE_CHECKING:
    from rejoinder.store.knowledge import Document, Knowledge

T = TypeVar("T")

_collection = click.option("--collection", metavar="NAME", help="Only documents of this collection.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")


@click.group("knowledge")
def command() -> None:
    """Manage the documents that agents may look up."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--collection", default="default", metavar="NAME", show_default=True, help="Where to put them.")
@click.pass_context
def add(context: click.Context, files: tuple[Path, ...], collection: str) -> None:
    """Add FILES (text, Markdown, HTML) and all such files in folders.

    A file that was added before is replaced by what it says now.
    """
    from rejoinder.commands.documents import find, read

    # The same file is the same source, from wherever it is named; links stay what they are called.
    found = list(dict.fromkeys(Path(os.path.abspath(path)) for path in find(files)))

    async def work(knowledge: Knowledge) -> int:
        failed = 0
        for path in found:
            try:
                title, text = read(path)
                made = await knowledge.add(title, text, collection=collection, source=str(path))
            except RejoinderError as error:
                failed += 1
                name = "" if str(path) in error.message else f"{path}: "
                click.echo(f"error: {name}{error.explain()}", err=True)
            else:
                click.echo(f"{made.id}  {made.title}: {_count(made.passages, 'passage')}")
        return failed

    failed = _with_knowledge(work, make=True)
    click.echo(f"{_count(len(found) - failed, 'document')} added to {collection!r}.", err=True)
    context.exit(1 if failed else 0)


@command.command("list")
@_collection
@_json
def list_documents(collection: str | None, as_json: bool) -> None:
    """List the documents, newest first."""

    async def work(knowledge: Knowledge) -> list[Document]:
        documents = page = await knowledge.documents(collection=collection)
        while page:
            page = await knowledge.documents(collection=collection, before=page[-1].id)
            documents = documents + page
        return documents

    documents = _with_knowledge(work)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(documents))
        return
    if not documents:
        click.echo("There are no documents. Add some: rejoinder knowledge add FILES...", err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("id", "collection", "title", "passages", "source"):
        justify: Literal["left", "right"] = "right" if column == "passages" else "left"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=column == "id")
    for document in documents:
        cells = (document.id, document.collection, document.title, str(document.passages), document.source or "")
        table.add_row(*map(Text, cells))
    Console().print(table)


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def remove(ids: tuple[str, ...]) -> None:
    """Remove documents by their ids."""

    async def work(knowledge: Knowledge) -> None:
        for document_id in ids:
            if not await knowledge.remove(document_id):
                raise ConfigError(
                    f"There is no document {document_id!r}.",
                    code="unknown_document",
                    fix="See `rejoinder knowledge list`.",
                )
            click.echo(f"Removed {document_id}.")

    _with_knowledge(work)


@command.command()
@click.argument("query", nargs=-1, required=True, metavar="QUERY...")
@_collection
@click.option("--limit", default=5, type=click.IntRange(1, 100), show_default=True, help="Passages, at most.")
@_json
def search(query: tuple[str, ...], collection: str | None, limit: int, as_json: bool) -> None:
    """Print the passages that fit QUERY best, as an agent would find them."""
    collections = None if collection is None else [collection]
    found = _with_knowledge(
        lambda knowledge: knowledge.search(" ".join(query), collections=collections, limit=limit),
    )
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found))
        return
    if not found:
        click.echo("Nothing was found.", err=True)
    for number, passage in enumerate(found, 1):
        under = f" / {passage.heading}" if passage.heading not in ("", passage.title) else ""
        click.echo(f"{number}. {passage.title}{under} ({passage.collection}, score {passage.score:.3g})")
        click.echo(click.wrap_text(passage.text, 100, "   ", "   ", preserve_paragraphs=True))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _with_knowledge(work: Callable[[Knowledge], Awaitable[T]], *, make: bool = False) -> T:
    """What `work` returns, with the documents of the database in the settings (`make`: which may be a new one)."""
    from rejoinder.commands.database import open_database
    from rejoinder.settings import load_settings
    from rejoinder.store.knowledge import Knowledge

    async def main() -> T:
        async with open_database(load_settings(), make=make) as store:
            return await work(Knowledge(store))

    return asyncio.run(main())
