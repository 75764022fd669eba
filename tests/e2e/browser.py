"""A real browser for tests: Debian's Chromium, with a WAV file for a microphone and taps on what it hears and says."""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from rejoinder.audio import read_wav

MICROPHONE_RATE = 48_000

TAPS = """
// What goes to the loudspeaker and what comes of the microphone, on the audio thread's clock; and when events came.
(() => {
  const tap = (window.rejoinderTap = { speaker: [], microphone: [], events: [], rate: 0, context: null });
  const listen = (context, source, blocks) => {
    const node = context.createScriptProcessor(256, 1, 1);
    node.onaudioprocess = (event) => {
      blocks.push({ at: event.playbackTime, pcm: event.inputBuffer.getChannelData(0).slice() });
    };
    tap.context = context;
    tap.rate = context.sampleRate;
    tap.connect.call(source, node);
    const quiet = context.createGain();
    quiet.gain.value = 0;
    tap.connect.call(node, quiet);
    tap.connect.call(quiet, context.destination);
  };
  tap.connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode) listen(this.context, this, tap.speaker);
    if (this instanceof MediaStreamAudioSourceNode) listen(this.context, this, tap.microphone);
    return tap.connect.call(this, to, ...rest);
  };
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...how) {
      super(...how);
      this.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") return;
        tap.events.push({ ...JSON.parse(data), clock: tap.context ? tap.context.currentTime : 0 });
      });
    }
  };
})();
"""


def chromium() -> str:
    """The program; the test is skipped where there is none (in CI it fails)."""
    if found := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return found
    message = "there is no Chromium (Debian: apt-get install chromium)"
    assert "CI" not in os.environ, message
    pytest.skip(message)


@dataclass
class Browser:
    """One page's world; `complaints` are console errors, CSP violations and exceptions."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def page(self) -> Page:
        """A new page whose complaints are collected."""
        page = self.context.new_page()
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        return page

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" or "Content Security Policy" in text:
            self.complaints.append(f"{kind}: {text}")


@contextmanager
def browser(
    *,
    microphone: Path | None = None,
    autoplay: str = "user-gesture-required",
    allow: bool = True,
    device: bool = True,
    taps: bool = True,
    flags: Sequence[str] = (),
    **how: Any,
) -> Iterator[Browser]:
    """A Chromium. `microphone`: a WAV that is spoken once, from when it is opened; without it there is a beeping one.

    `allow` answers the question whether a page may use it; without a `device` there is none at all. `taps` puts
    `window.rejoinderTap` into each page. `how` is for the context: `viewport`, `color_scheme` ...
    """
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--autoplay-policy={autoplay}",
        *flags,
    ]
    if device:
        arguments.append("--use-fake-device-for-media-stream")
    if allow:
        arguments.append("--use-fake-ui-for-media-stream")
    if microphone is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            context = running.new_context(**how)
            if taps:
                context.add_init_script(TAPS)
            yield Browser(context)
        finally:
            running.close()


def spoken(path: Path, *parts: Path | float) -> Path:
    """A WAV at `path` for the microphone: recordings one after the other, with silence (s) where a number stands."""
    pieces = []
    for part in parts:
        if isinstance(part, Path):
            pieces.append(np.frombuffer(read_wav(part, MICROPHONE_RATE)[0], np.int16))
        else:
            pieces.append(np.zeros(int(part * MICROPHONE_RATE), np.int16))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MICROPHONE_RATE)
        file.writeframes(np.concatenate(pieces).tobytes())
    return path


@dataclass(frozen=True)
class Tapped:
    """Sound on the audio thread's clock: `samples` from `start_s` on, at `rate` Hz."""

    start_s: float
    rate: int
    samples: np.ndarray[Any, np.dtype[np.float32]]

    def cut(self, from_s: float, to_s: float | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What sounded between the two times."""
        first = max(0, round((from_s - self.start_s) * self.rate))
        last = None if to_s is None else max(0, round((to_s - self.start_s) * self.rate))
        return self.samples[first:last]

    def last_sound_s(self, from_s: float, to_s: float, floor: float = 1e-4) -> float | None:
        """When the last sample above `floor` between the two times sounded."""
        loud = np.flatnonzero(np.abs(self.cut(from_s, to_s)) > floor)
        return max(from_s, self.start_s) + float(loud[-1]) / self.rate if len(loud) else None

    def first_sound_s(self, from_s: float, floor: float = 1e-2) -> float | None:
        """When the first sample above `floor` from then on sounded."""
        loud = np.flatnonzero(np.abs(self.cut(from_s)) > floor)
        return max(from_s, self.start_s) + float(loud[0]) / self.rate if len(loud) else None


def tapped(page: Page, what: str) -> Tapped:
    """What went to the `speaker`, or came of the `microphone`, so far."""
    told = page.evaluate(
        """(what) => {
          const { rate, [what]: blocks } = window.rejoinderTap;
          const parts = blocks.map(({ at, pcm }) => [at, Array.from(pcm, (sample) => Math.round(sample * 32767))]);
          return { rate, parts };
        }""",
        what,
    )
    rate, parts = int(told["rate"]), told["parts"]
    if not parts:
        return Tapped(0.0, rate or MICROPHONE_RATE, np.zeros(0, np.float32))
    start = float(parts[0][0])
    # A block that came late leaves a gap, and none moves the others.
    samples = np.zeros(round((parts[-1][0] - start) * rate) + len(parts[-1][1]), np.float32)
    for at, pcm in parts:
        first = round((at - start) * rate)
        samples[first : first + len(pcm)] = np.asarray(pcm, np.float32) / 32767
    return Tapped(start, rate, samples)


def events(page: Page) -> list[dict[str, Any]]:
    """What the server has told the page; `clock` is when, on the audio thread's clock (s)."""
    told: list[dict[str, Any]] = page.evaluate("() => window.rejoinderTap.events")
    return told
