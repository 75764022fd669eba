"""Watches the event loop: whose code held it up, and whose tasks are never done."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

from rejoinder.discovery import OURS
from rejoinder.manager import Plugins

BEAT_S = 0.025
NOTICED_S = 0.075
"""The loop has been held up for this long; then the stack is looked at."""
AUDIT_S = 30.0
_MOST_STACKS = 4
_DEEPEST = 200


class Owners:
    """Tells which plugin a file of code belongs to: that of a single file, the package of any other."""

    def __init__(self, plugins: Plugins) -> None:
        self._roots: dict[str, str] = {}
        self._known: dict[str, str] = {}
        for name, info in plugins.infos.items():
            plugin = plugins.module(name)
            if plugin is None:
                continue
            made_in = getattr(plugin, "__module__", None) or type(plugin).__module__
            module = plugin if isinstance(plugin, ModuleType) else sys.modules.get(made_in)
            if module is None or not getattr(module, "__file__", None):
                continue
            own = [module]
            if info.distribution != OURS and module.__name__.partition(".")[0] in sys.modules:
                own.append(sys.modules[module.__name__.partition(".")[0]])
            for one in own:
                for root in [str(path) for path in getattr(one, "__path__", ())] or [one.__file__ or ""]:
                    self._roots.setdefault(root, name)

    def of(self, filename: str) -> str:
        """The plugin's name; "" for the code of nobody."""
        if filename not in self._known:
            path = Path(filename)
            found = [str(one) for one in (path, *path.parents) if str(one) in self._roots]
            self._known[filename] = self._roots[found[0]] if found else ""
        return self._known[filename]

    def innermost(self, stack: traceback.StackSummary) -> tuple[str, str]:
        """The plugin whose code is innermost on `stack`, and where; "" and the innermost place if it is nobody's."""
        for frame in reversed(stack):
            if owner := self.of(frame.filename):
                return owner, f"{frame.name} ({frame.filename}:{frame.lineno})"
        return "", f"{stack[-1].name} ({stack[-1].filename}:{stack[-1].lineno})"


@dataclass(frozen=True, slots=True)
class Block:
    """The event loop was held up for `seconds`, and was seen in each of `stacks` (their innermost frames last)."""

    seconds: float
    stacks: tuple[traceback.StackSummary, ...]


class Watchdog:
    """Tells `blocked` of what holds up the running loop for more than some 75 ms; `start()` and `close()` it there.

    Pauses for garbage collection and of the whole machine are nobody's fault, and not told.
    """

    def __init__(self, blocked: Callable[[Block], None], audit: Callable[[], None] = lambda: None) -> None:
        self._blocked = blocked
        self._audit = audit
        self._beat_at = 0.0
        self._audit_at = 0.0
        self._collecting_since = 0.0
        self._collected_s = 0.0
        self._stacks: list[traceback.StackSummary] = []
        self._stop = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._audit_at = time.monotonic() + AUDIT_S
        self._beat_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(BEAT_S, self._beat)
        gc.callbacks.append(self._on_gc)
        self._thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="loop-watchdog", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._timer is None or self._thread is None:
            return
        self._timer.cancel()
        self._timer = None
        self._stop.set()
        self._thread.join()
        gc.callbacks.remove(self._on_gc)

    def _beat(self) -> None:
        now = time.monotonic()
        stacks, self._stacks = self._stacks, []
        held_s = now - self._beat_at - BEAT_S
        try:
            if stacks and held_s - self._collected_s >= NOTICED_S / 2:
                self._blocked(Block(held_s, tuple(stacks)))
            if now >= self._audit_at:
                self._audit_at = now + AUDIT_S
                self._audit()
        finally:
            self._collected_s = 0.0
            self._beat_at = time.monotonic()
            if self._timer is not None:
                self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.monotonic()
        else:
            self._collected_s += time.monotonic() - self._collecting_since

    def _watch(self, loop_thread: int) -> None:
        slept_at = time.monotonic()
        while not self._stop.wait(BEAT_S):
            now = time.monotonic()
            # Whoever wakes late itself cannot tell who is to blame.
            punctual, slept_at = now - slept_at < 2 * BEAT_S, now
            if punctual and len(self._stacks) < _MOST_STACKS and now - self._beat_at > NOTICED_S:
                try:
                    self._stacks.append(_stack_of(loop_thread))
                except Exception:  # noqa: BLE001 - the other thread has gone on, and its frames with it
                    continue


def _stack_of(thread: int) -> traceback.StackSummary:
    """The stack, innermost last. First only looked at, in one go: while its thread goes on, frames are not safe.

    No frame is kept: it would keep alive what its function holds.
    """
    frame = sys._current_frames().get(thread)
    seen: list[tuple[CodeType, int]] = []
    while frame is not None and len(seen) < _DEEPEST:
        seen.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    found = [traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False) for code, line in seen]
    return traceback.StackSummary(reversed(found))


def tasks_of_plugins(owners: Owners) -> dict[str, Counter[str]]:
    """How many tasks of each plugin's code are alive, by the place where that code begins."""
    found: dict[str, Counter[str]] = {}
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        if code is not None and (name := owners.of(code.co_filename)):
            place = f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
            found.setdefault(name, Counter())[place] += 1
    return found
