"""The command line: what it imports, what it says and how it exits; and the figures its commands print."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import types
from collections.abc import Iterator

import click
import pytest

from rejoinder import __version__
from rejoinder.cli import COMMANDS, main
from rejoinder.commands.plugins import ask_server
from rejoinder.commands.report import Distribution, percentile, table
from rejoinder.errors import ConfigError, RejoinderError

HEAVY = ("numpy", "pydantic", "rich", "litestar", "sqlalchemy", "msgspec", "asyncio", "uvicorn", "websockets")


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that fail: `boom CLASS` raises one of a few errors."""
    errors = {
        "plain": RejoinderError("It broke.", code="broken", fix="Mend it."),
        "config": ConfigError("It is wrong."),
        "gone": RejoinderError("Nobody is there.", code="unreachable"),
        "group": ExceptionGroup("one", [ConfigError("Inside.")]),
        "bug": ValueError("oops"),
        "stop": KeyboardInterrupt(),
    }

    @click.command("boom")
    @click.argument("which")
    def boom(which: str) -> None:
        raise errors[which]

    module = types.ModuleType("failing_commands")
    vars(module)["boom"] = boom
    monkeypatch.setitem(sys.modules, "failing_commands", module)
    monkeypatch.setitem(COMMANDS, "boom", ("failing_commands:boom", "Fail."))


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\n"
        "from rejoinder.cli import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "rejoinder", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rejoinder {__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert name in printed
        assert summary in printed


def test_alone_it_names_the_three_commands_a_newcomer_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = capsys.readouterr().out
    assert all(f"rejoinder {name}" in printed for name in ("serve", "talk", "doctor"))
    assert "rejoinder bench" not in printed


def test_an_unknown_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tlak") == 2
    assert "Did you mean 'talk'?" in capsys.readouterr().err
    assert run("zzz") == 2
    assert "There are: serve, talk" in capsys.readouterr().err


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("which", "code", "message"),
    [
        ("plain", 1, "error: It broke. Fix: Mend it. [broken]\n"),
        ("config", 3, "error: It is wrong. [bad_config]\n"),
        ("gone", 5, "error: Nobody is there. [unreachable]\n"),
        ("group", 3, "error: Inside. [bad_config]\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    which: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("boom", which) == code
    printed = capsys.readouterr()
    assert printed.err == message
    assert printed.out == ""


@pytest.mark.usefixtures("failing")
def test_ctrl_c_exits_130() -> None:
    assert run("boom", "stop") == 130


@pytest.mark.usefixtures("failing")
def test_tracebacks_are_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("boom", "bug") == 1
    assert "Traceback" not in capsys.readouterr().err
    for args in (("--debug", "boom", "bug"), ("boom", "bug", "--debug")):
        assert run(*args) == 1
        printed = capsys.readouterr().err
        assert "Traceback" in printed
        assert "ValueError: oops" in printed


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("talk", "--wav", "a.wav", "--text", "b") == 2
    assert run("talk", "--no-such-option") == 2
    assert run("bench", "--voice", "--sessions", "3") == 2
    assert "Give either" in capsys.readouterr().err


def test_plugins_list_names_what_each_offers(capsys: pytest.CaptureFixture[str]) -> None:
    run("plugins", "list", "--json")
    plugins = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert plugins["webrtcvad"] == {
        "name": "webrtcvad",
        "distribution": "rejoinder",
        "version": __version__,
        "enabled": True,
        "state": "ok",
        "offers": ["vad:webrtcvad"],
        "hooks": ["register_providers"],
        "error": None,
        "problems": [],
    }


def test_a_plugin_that_fails_is_listed_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata

    entry = importlib.metadata.EntryPoint("broken", "no_such_module_anywhere", "rejoinder")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    assert run("plugins", "list", "-v") == 1
    printed = capsys.readouterr()
    assert "ModuleNotFoundError: No module named 'no_such_module_anywhere'" in printed.out
    assert "Traceback" in printed.err


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of a server that has one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_plugins_of_a_newer_server_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"stage": "newer", "subject": "x", "what": "No.", "details": "", "at": 5, "count": 3, "newer": 1}
    plugin = {"name": "acme", "distribution": "d", "version": "1", "state": "degraded", "hooks": [], "error": "No."}
    tool = {"name": "clock", "plugin": "acme", "newer": 1}
    told = {"plugins": [{**plugin, "problems": [problem], "health": None}], "providers": [], "tools": [tool], "n": 1}
    with answering(200, json.dumps(told).encode()) as url:
        assert run("plugins", "list", "--json", "--url", url) == 1
    (listed,) = json.loads(capsys.readouterr().out)
    del problem["newer"]
    assert listed["problems"] == [problem]
    assert listed["offers"] == ["tool:clock"]


@pytest.mark.parametrize(
    ("status", "body", "code", "fix"),
    [
        (200, b"[]", "unreachable", "address"),
        (200, b"{}", "unreachable", "address"),
        (200, b"null", "unreachable", "address"),
        (200, b"<html>\xff", "unreachable", "address"),
        (404, b"[]", "unreachable", "address"),
        (503, b'{"detail": "busy", "code": "overloaded"}', "unreachable", "Try again"),
        (502, b"<html>", "unreachable", "Try again"),
        (401, b'{"detail": "Who?", "code": "unauthorized", "newer": 1}', "unauthorized", "REJOINDER_API_KEY"),
        (403, b'{"detail": "No.", "code": "forbidden"}', "forbidden", "REJOINDER_API_KEY"),
        (401, b"", "unauthorized", "REJOINDER_API_KEY"),
    ],
)
def test_what_is_no_list_of_plugins_is_said_in_plain_words(status: int, body: bytes, code: str, fix: str) -> None:
    with answering(status, body) as url, pytest.raises(RejoinderError) as refused:
        ask_server(url)
    assert (refused.value.code, url in refused.value.message) == (code, True)
    assert fix in str(refused.value.fix)


def test_a_doctor_tells_of_wrong_settings_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REJOINDER_PORT", "no-number")
    assert run("doctor", "--json") == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["python"]["ok"] is True
    assert checks["settings"]["ok"] is False
    assert "port" in checks["settings"]["detail"]


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 95) == 7
    assert percentile([3.0, 1.0, 2.0], 50) == 2


def test_a_percentile_is_hidden_where_too_few_values_carry_it() -> None:
    assert Distribution.of([]) == Distribution(0, None, None, None, None, None)
    assert Distribution.of(range(19)).p95 is None
    assert Distribution.of(range(20)).p95 == 18
    assert Distribution.of(range(99)).p99 is None
    assert Distribution.of(range(100)).p99 == 98
    assert Distribution.of([1, 5]).max == 5


def test_a_table_lines_its_columns_up() -> None:
    assert table(("a", "n"), [("long", "1"), ("b", "20")]) == "a      n\nlong   1\nb     20"
