"""`rejoinder knowledge`: files become documents, and what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.linear import within

from rejoinder.commands import knowledge
from rejoinder.commands.documents import find, parse_html, read
from rejoinder.errors import ConfigError

PAGE = """<!doctype html><html><head><title>Our
 menu</title><style>p { color: red }</style><script>var hidden = "<p>no";</script></head><body>
<nav><a href="/">Home</a></nav><h1>Menu &amp; <em>prices</em></h1>
<p>Soup costs <b>five</b>
euros.<br>Bread is free.</p><table><tr><td>Tea</td><td>2</td></tr></table>
<h2>Hours</h2><ul><li>From nine<li>to six</ul><script>alert("no")</script></body></html>"""


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REJOINDER_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/test.db")


NAMED = "database: {}/test.db\n"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(knowledge.command, [str(arg) for arg in args])


def listed(*args: str) -> Any:
    return json.loads(run("list", "--json", *args).stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "deep" / "er").mkdir(parents=True)
    (made / ".git").mkdir()
    (made / "menu.HTML").write_text(PAGE, encoding="utf-8")
    (made / "deep" / "returns.md").write_text("---\ndraft: no\n---\n# Returns\n\nWithin 30 days.", encoding="utf-8")
    (made / "deep" / "er" / "hours.txt").write_text("\ufeffOpen from nine\r\nto six.", encoding="utf-8")
    (made / "photo.jpg").write_bytes(b"\xff\xd8\xff\x00")
    (made / ".git" / "notes.txt").write_text("hidden", encoding="utf-8")
    (made / ".hidden.md").write_text("hidden", encoding="utf-8")
    return made


def test_a_folder_is_added_listed_searched_and_removed(folder: Path) -> None:
    result = run("add", folder, "--collection", "shop")
    assert result.exit_code == 0, result.output
    assert "3 documents added to 'shop'." in result.stderr
    documents = {document["title"]: document for document in listed("--collection", "shop")}
    assert set(documents) == {"Our menu", "Returns", "hours"}
    assert documents["Returns"]["source"] == str(folder / "deep" / "returns.md")
    assert listed("--collection", "other") == []

    result = run("search", "how", "much", "is", "soup?", "--limit", "1")
    assert "1. Our menu / Menu & prices (shop, score" in result.stdout
    assert "Soup costs five euros. Bread is free." in result.stdout
    (found,) = json.loads(run("search", "thirty 30", "--json", "--limit", "1").stdout)
    assert found["title"] == "Returns"
    assert run("search", "soup", "--collection", "other").stderr == f"{NAMED}Nothing was found.\n".format(Path.cwd())
    assert "hours.txt" in "".join(run("list").stdout.split())

    assert run("remove", *(document["id"] for document in documents.values())).exit_code == 0
    assert "\nThere are no documents." in run("list").stderr


def test_a_file_that_changed_replaces_what_it_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("add", folder).exit_code == 0
    before = {document["source"]: document["id"] for document in listed()}
    (folder / "deep" / "returns.md").write_text("# No returns\n\nNever.", encoding="utf-8")
    monkeypatch.chdir(folder / "deep")
    added = run("add", "returns.md", Path("..") / "deep" / "returns.md").stderr
    assert added.splitlines()[1:] == ["1 document added to 'default'."]
    assert {document["source"]: document["id"] for document in listed()} == before
    assert {document["title"] for document in listed()} == {"Our menu", "No returns", "hours"}
    assert json.loads(run("search", "days", "--json").stdout) == []


def test_what_cannot_be_read_is_named_and_the_rest_is_added(folder: Path) -> None:
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "empty.md").write_text("\n", encoding="utf-8")
    result = run("add", folder, folder / "photo.jpg")
    assert result.exit_code == 1
    assert "3 documents added" in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [name in line for name, line in zip(("empty.md", "latin.txt", "photo.jpg"), errors, strict=True)] == [
        True
    ] * 3
    assert "[bad_document]" in errors[0]
    assert "not text in UTF-8" in errors[1]
    assert "[not_text]" in errors[2]


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "some.txt").write_text("Something.", encoding="utf-8")
    assert run("add", tmp_path / "some.txt").exit_code == 0
    for arguments, code in (
        (("add", tmp_path / "absent.md"), "no_such_file"),
        (("add", tmp_path / "nothing"), "no_such_file"),
        (("remove", "doc_absent"), "unknown_document"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, ConfigError)
        assert error.code == code
    assert run("add").exit_code == 2


def test_html_is_read_as_it_is_seen() -> None:
    title, text = parse_html(PAGE, "page")
    assert title == "Our menu"
    assert [" ".join(line.split()) for line in text.splitlines() if line.strip()] == [
        "# Menu & prices",
        "Soup costs five euros.",
        "Bread is free.",
        "Tea",
        "2",
        "## Hours",
        "From nine",
        "to six",
    ]


@pytest.mark.parametrize(
    ("page", "title", "text"),
    [
        ("<h1>Only a heading", "Only a heading", "# Only a heading"),
        ("just text &lt;3", "page", "just text <3"),
        ("<head><title>T</title><body>seen<nav>not", "T", "seen"),
        ("<svg><text>no</text></svg>yes", "page", "yes"),
        ("", "page", ""),
        ("</p></nav></h7><<>", "page", "<<>"),
    ],
)
def test_html_that_is_not_whole(page: str, title: str, text: str) -> None:
    parsed = parse_html(page, "page")
    assert (parsed.title, parsed.text.strip()) == (title, text)


def test_a_title_is_the_first_heading_without_what_marks_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text, title in (
        ("text\n# A title ##\n# B", "A title"),
        ("# \n## no\n", "page"),
        ("# #\n", "page"),
        ("# a" + " " * 1_000_000 + "b", "a" + " " * 1_000_000 + "b"),
        ("# " + " " * 1_000_000 + "\n", "page"),
    ):
        page.write_text(text)
        with within():
            assert read(page).title == title


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    assert len(list(find([folder]))) == 3


def test_the_title_of_text_is_the_name_of_its_file(folder: Path) -> None:
    assert read(folder / "deep" / "er" / "hours.txt") == ("hours", "Open from nine\nto six.")
    with pytest.raises(ConfigError, match="Cannot read"):
        read(folder)
