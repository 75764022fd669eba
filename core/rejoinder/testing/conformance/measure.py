"""Measuring: how long the event loop stands still and where, and what a process holds (tasks, threads, descriptors)."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

BLOCK_MS = 20.0
"""The event loop may not stand still for longer while sessions are live."""
_LOOK_S = 0.004
_WORTH_S = 0.008
"""A callback that has run for so long is looked into."""
_KIT = Path(__file__).resolve().parent
_STDLIB = {Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["stdlib"]).resolve()}
_SETTLE_S = 2.0
_STABLE_S = 0.1


# --- where code is ----------------------------------------------------------------------------------------------


def shown(path: str | Path) -> str:
    """`path`, from the current directory if it is in there."""
    path = Path(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _is_authors(filename: str, roots: Iterable[Path]) -> int:
    """2: of the plugin; 1: of another package; 0: of Python, the kit or nobody."""
    if filename.startswith("<"):
        return 0
    path = Path(filename)
    if any(path.is_relative_to(root) for root in roots):
        return 2
    if path.is_relative_to(_KIT):
        return 0
    if any(path.is_relative_to(root) for root in _STDLIB) and "site-packages" not in path.parts:
        return 0
    return 1


def place(lines: Iterable[tuple[CodeType, int]], roots: Iterable[Path]) -> str:
    """`file:line in function` of the innermost of `lines` (innermost first) that is the author's; "" if none is."""
    roots = tuple(roots)
    best, rank = "", 0
    for code, line in lines:
        own = _is_authors(code.co_filename, roots)
        if own > rank:
            best, rank = f"{shown(code.co_filename)}:{line} in {code.co_qualname}", own
    return best


def raised_at(error: BaseException, roots: Iterable[Path]) -> str:
    """Where `error` comes from, with ` at ` before it; "" where that is not known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        lines.append((trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    found = place(reversed(lines), roots)
    return f" at {found}" if found else ""


def _stack(frame: FrameType | None) -> Iterable[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


# --- the event loop ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """One callback of the loop: how long it ran (ms), and where, if that could be seen."""

    ms: float
    where: str


class LoopWatch:
    """Measures the single callbacks of the running loop; use as `async with LoopWatch(roots) as watch`.

    Lag would not do: on a busy machine it is late without anybody's fault. Another thread looks where the loop is while
    a callback takes long; `roots` are the folders or files of the plugin.
    """

    def __init__(self, roots: Iterable[Path] = ()) -> None:
        self._roots = tuple(roots)
        self._began = 0.0
        self._seen: Counter[str] = Counter()
        self._stop = threading.Event()
        self.longest = Block(0.0, "")

    async def __aenter__(self) -> LoopWatch:
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        handles: Any = asyncio.Handle
        self._original: Any = handles._run
        original, watch = self._original, self

        def run(handle: Any) -> None:
            if handle._loop is not loop:
                original(handle)
                return
            # The callback is gone once it has run.
            callback = handle._callback
            watch._begin()
            try:
                original(handle)
            finally:
                watch._end(callback)

        # A collection of all that tests and models have made is no fault of the plugin.
        gc.freeze()
        handles._run = run
        self._looker = threading.Thread(target=self._look, args=(ident,), name="conformance", daemon=True)
        self._looker.start()
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # So that the callback this is in has ended, too.
        await asyncio.sleep(0)
        handles: Any = asyncio.Handle
        handles._run = self._original
        self._stop.set()
        self._looker.join()
        gc.unfreeze()

    def _begin(self) -> None:
        self._seen.clear()
        self._began = time.perf_counter()

    def _end(self, callback: object) -> None:
        began, self._began = self._began, 0.0
        ms = (time.perf_counter() - began) * 1000
        if ms > self.longest.ms:
            where = self._seen.most_common(1)[0][0] if self._seen else _describe(callback)
            self.longest = Block(ms, where)

    def _look(self, ident: int) -> None:
        while not self._stop.wait(_LOOK_S):
            began = self._began
            if began and time.perf_counter() - began > _WORTH_S:
                found = place(_stack(sys._current_frames().get(ident)), self._roots)
                if found and self._began == began:
                    self._seen[found] += 1


def _describe(callback: object) -> str:
    """Which coroutine or function it was, where nobody could look into it (it kept the interpreter to itself)."""
    task = getattr(callback, "__self__", None)
    work = task.get_coro() if isinstance(task, asyncio.Task) else callback
    code = getattr(work, "cr_code", None) or getattr(work, "__code__", None)
    if isinstance(code, CodeType) and _is_authors(code.co_filename, ()):
        return f"{shown(code.co_filename)}:{code.co_firstlineno} in {code.co_qualname}"
    return ""


def timed_ms(began: float) -> float:
    """Milliseconds since `began` (of `time.perf_counter`)."""
    return (time.perf_counter() - began) * 1000


# --- what the process holds ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds now; -1 where this platform does not tell."""

    tasks: int
    threads: int
    descriptors: int


def held() -> Held:
    """Count the tasks of the running loop (if there is one), the threads and the descriptors."""
    gc.collect()
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:
        tasks = 0
    return Held(tasks, _threads(), len(_descriptors()) if _descriptors() else -1)


async def settled(floor: Held | None = None) -> Held:
    """What is held once it is no more than `floor` (None: once it does not change), or after a bounded time."""
    until = time.monotonic() + _SETTLE_S
    now = held()
    while time.monotonic() < until:
        if floor is not None and _within(now, floor):
            return now
        await asyncio.sleep(_STABLE_S)
        before, now = now, held()
        if floor is None and now == before:
            return now
    return now


def _within(now: Held, floor: Held) -> bool:
    return now.tasks <= floor.tasks and now.threads <= floor.threads and now.descriptors <= floor.descriptors


def _threads() -> int:
    """All threads, those without Python, too; not the pool of the loop, which belongs to the process."""
    own = sum(thread.name.startswith("asyncio_") for thread in threading.enumerate())
    try:
        return len(os.listdir("/proc/self/task")) - own
    except OSError:
        return threading.active_count() - own


def _descriptors() -> list[str]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return os.listdir(folder)
        except OSError:
            continue
    return []


def open_files() -> Counter[str]:
    """What the descriptors are of, as far as the platform tells: a path, `socket`, `pipe`."""
    names: Counter[str] = Counter()
    for number in _descriptors():
        try:
            names[os.readlink(f"/proc/self/fd/{number}").split(":")[0]] += 1
        except OSError:
            continue
    return names


def thread_names() -> Counter[str]:
    """The names of the threads of Python."""
    return Counter(thread.name for thread in threading.enumerate())


def task_places(roots: Iterable[Path]) -> Counter[str]:
    """Where the tasks of the running loop were made to wait."""
    places: Counter[str] = Counter()
    for task in asyncio.all_tasks():
        work = task.get_coro()
        code = getattr(work, "cr_code", None)
        frame = getattr(work, "cr_frame", None)
        if task is not asyncio.current_task() and isinstance(code, CodeType) and _is_authors(code.co_filename, roots):
            line = frame.f_lineno if frame else code.co_firstlineno
            places[f"{shown(code.co_filename)}:{line} in {code.co_qualname}"] += 1
    return places
