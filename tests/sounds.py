"""Sounds for tests, made up from numbers: coughs, clicks, hums, echoes. Float samples, -1 to 1, at 16 kHz.

Everything random comes from the generator that is passed in, so a seed gives the same sound each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Sound = NDArray[np.float32]
Random = np.random.Generator


def silence(ms: float) -> Sound:
    """Nothing."""
    return np.zeros(int(ms * RATE / 1000), np.float32)


def background(random: Random, ms: float, level: float = 3e-4) -> Sound:
    """The noise of a quiet room, `level` RMS."""
    return (random.standard_normal(int(ms * RATE / 1000)) * level).astype(np.float32)


def loudness(sound: Sound, rms: float) -> Sound:
    """`sound`, its loudest 50 ms brought to `rms`, and limited to full scale."""
    size = RATE // 20
    blocks = np.pad(sound, (0, -len(sound) % size)).reshape(-1, size)
    loudest = float(np.sqrt(np.square(blocks).mean(axis=1).max()))
    scaled: Sound = np.clip(sound * (rms / max(loudest, 1e-9)), -1, 1).astype(np.float32)
    return scaled


def mix(*sounds: tuple[float, Sound]) -> Sound:
    """The sum of sounds, each with the time it begins at, in ms."""
    starts = [int(at * RATE / 1000) for at, _ in sounds]
    mixed = np.zeros(max(start + len(sound) for start, (_, sound) in zip(starts, sounds, strict=True)), np.float32)
    for start, (_, sound) in zip(starts, sounds, strict=True):
        mixed[start : start + len(sound)] += sound
    return mixed


def pcm(sound: Sound) -> bytes:
    """`sound` as PCM16."""
    return np.clip(sound * 32767, -32768, 32767).astype("<i2").tobytes()


# --- what a body does -----------------------------------------------------------------------------------------


def cough(random: Random, *, bursts: int = 1, voiced: float = 0.0) -> Sound:
    """A cough: an explosion of air, its rush, and (by `voiced`, 0 to 1) a hoarse tone at the end; ~300 ms a burst."""
    parts = []
    for _ in range(bursts):
        length = random.uniform(220, 380)
        samples = int(length * RATE / 1000)
        time = np.arange(samples) / RATE
        attack = np.minimum(time / random.uniform(0.003, 0.012), 1)
        decay = np.exp(-time / random.uniform(0.04, 0.09)) + 0.25 * np.exp(-((time - 0.14) ** 2) / 0.004)
        air = random.standard_normal(samples) * attack * decay
        rush = _formants(air, ((random.uniform(400, 700), 250), (random.uniform(1200, 1700), 350), (2800, 600)))
        if voiced:
            pitch = random.uniform(110, 220) * (1 - 0.4 * time / time[-1])
            tone = _glottis(random, pitch, jitter=0.08) * np.exp(-((time - 0.2) ** 2) / 0.003)
            rush = rush + voiced * _level(_formants(tone, ((600, 150), (1100, 200), (2500, 300)))) * np.abs(rush).max()
        parts += [loudness(rush.astype(np.float32), 0.2), silence(random.uniform(60, 160))]
    return np.concatenate(parts[:-1])


def throat(random: Random) -> Sound:
    """Somebody clears their throat: a rough, low growl of about half a second."""
    samples = int(random.uniform(350, 650) * RATE / 1000)
    time = np.arange(samples) / RATE
    growl = _glottis(random, random.uniform(55, 95) * (1 + 0.15 * np.sin(2 * np.pi * 4 * time)), jitter=0.3)
    growl += 0.3 * random.standard_normal(samples) * np.abs(growl)
    shape = np.hanning(samples) ** 0.5 * (1 + 0.5 * np.sin(2 * np.pi * random.uniform(14, 22) * time))
    return loudness(_formants(growl * shape, ((450, 200), (1100, 300), (2400, 400))), 0.12)


def breath(random: Random) -> Sound:
    """A sigh into the microphone, about 0.8 s."""
    samples = int(random.uniform(600, 1000) * RATE / 1000)
    air = random.standard_normal(samples) * np.hanning(samples) ** 1.5
    return loudness(_formants(air, ((700, 900), (1700, 1200), (4000, 2500))), 0.05)


def hum(random: Random, *, syllables: int = 2, voice: float = 120.0) -> Sound:
    """ "Mm-hm": a voice (of `voice` Hz) through the nose, the second syllable higher and with an "h" before it."""
    parts: list[Sound] = []
    for syllable in range(syllables):
        samples = int(random.uniform(130, 220) * RATE / 1000)
        time = np.linspace(0, 1, samples)
        rise = 1.0 + (0.25 if syllable else -0.1) * time
        pitch = voice * (1.15 if syllable else 1.0) * rise * random.uniform(0.95, 1.05)
        tone = _formants(_glottis(random, pitch, jitter=0.01), ((260, 60), (1000, 250), (2200, 300)), roll=0.5)
        if syllable:
            gap = int(random.uniform(50, 90) * RATE / 1000)
            air = _formants(random.standard_normal(gap) * np.hanning(gap), ((800, 400), (2200, 500)))
            parts.append(loudness(air, 0.008))
        parts.append(loudness((tone * np.hanning(samples) ** 0.3).astype(np.float32), 0.12))
    return np.concatenate(parts)


# --- what things do -------------------------------------------------------------------------------------------


def click(random: Random) -> Sound:
    """A click: a few ms of a ringing knock."""
    samples = int(random.uniform(8, 40) * RATE / 1000)
    time = np.arange(samples) / RATE
    ring = np.sin(2 * np.pi * random.uniform(800, 4000) * time) + 0.7 * random.standard_normal(samples)
    return loudness((ring * np.exp(-time / random.uniform(0.001, 0.006))).astype(np.float32), random.uniform(0.05, 0.3))


def keyboard(random: Random, ms: float = 1500) -> Sound:
    """Typing: two knocks a key, eight keys a second."""
    typed = silence(ms)
    at = 0.0
    while at < ms - 150:
        for delay, level in ((0.0, 1.0), (random.uniform(60, 100), 0.5)):
            knock = click(random)[: RATE // 50] * level * 0.5
            start = int((at + delay) * RATE / 1000)
            typed[start : start + len(knock)] += knock
        at += random.uniform(70, 220)
    return typed


def slam(random: Random) -> Sound:
    """A door, or a cup set down hard: a low thud that rings for 200 ms."""
    samples = int(random.uniform(150, 350) * RATE / 1000)
    time = np.arange(samples) / RATE
    thud = random.standard_normal(samples) * np.exp(-time / 0.03)
    thud += sum(np.sin(2 * np.pi * f * time) * np.exp(-time / 0.06) for f in random.uniform(80, 600, 4))
    return loudness(_formants(thud, ((150, 120), (500, 300), (1500, 800))), 0.2)


# --- what a room does -----------------------------------------------------------------------------------------


def room(random: Random, *, decay_ms: float = 300, direct_db: float = 3) -> Sound:
    """A room's answer to a click: the direct sound, then reflections that fade by 60 dB within `decay_ms`.

    `direct_db` is how much louder the direct sound is than all reflections together.
    """
    samples = int(decay_ms * RATE / 1000)
    tail = random.standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
    tail[: int(0.002 * RATE)] = 0
    answer = tail / np.sqrt(np.square(tail).sum()) * 10 ** (-direct_db / 20)
    answer[0] = 1
    rounded: Sound = answer.astype(np.float32)
    return rounded


def echo(played: Sound, db: float, delay_ms: float, answer: Sound) -> Sound:
    """What the microphone gets of `played`: a small loudspeaker, the room's `answer`, `db` (below 0) and a delay."""
    size = 1 << (len(played) + len(answer)).bit_length()
    spectrum = np.fft.rfft(played, size) * np.fft.rfft(answer, size)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    spectrum *= (hertz / 250) ** 2 / (1 + (hertz / 250) ** 2) / (1 + (hertz / 6500) ** 4)
    heard = np.fft.irfft(spectrum, size)[: len(played)]
    scale = 10 ** (db / 20) * np.sqrt(np.square(played).sum() / max(np.square(heard).sum(), 1e-12))
    shift = int(delay_ms * RATE / 1000)
    return np.concatenate((np.zeros(shift), heard * scale))[: len(played)].astype(np.float32)


# --- parts ----------------------------------------------------------------------------------------------------


def _glottis(random: Random, hertz: float | NDArray[np.float64], *, jitter: float) -> NDArray[np.float64]:
    """The buzz of vocal cords: a pulse per period, each a little early or late."""
    steps = np.broadcast_to(np.asarray(hertz, np.float64), np.shape(hertz) or (RATE,)) / RATE
    phase = np.cumsum(steps)
    pulses = np.flatnonzero(np.diff(np.floor(phase), prepend=0.0) > 0)
    shifts = random.normal(0, jitter, len(pulses)) / np.maximum(steps[pulses], 1e-6)
    at = np.clip(pulses + shifts, 0, len(steps) - 1).astype(np.intp)
    buzz = np.zeros(len(steps))
    buzz[at] = 1 + random.normal(0, jitter, len(at))
    shape = np.hanning(int(0.003 * RATE))
    return np.convolve(buzz, np.diff(shape), "same")


def _formants(
    source: NDArray[np.float64], peaks: Sequence[tuple[float, float]], *, roll: float = 0.0
) -> NDArray[np.float32]:
    """`source` through resonances of so many Hz and so broad; `roll` weakens high notes."""
    size = 1 << (len(source) + RATE // 10).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    response = np.zeros(len(hertz), np.complex128)
    for i, (peak, width) in enumerate(peaks):
        response += 0.7**i / (1 + 2j * (hertz - peak) / width)
    response /= (1 + (hertz / 500) ** 2) ** roll
    return np.fft.irfft(np.fft.rfft(source, size) * response, size)[: len(source)].astype(np.float32)


def _level(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    return sound / max(float(np.abs(sound).max()), 1e-9)


NOISES: dict[str, Callable[[Random], Sound]] = {
    "cough": lambda random: cough(random),
    "cough_voiced": lambda random: cough(random, voiced=float(random.uniform(0.3, 1))),
    "cough_fit": lambda random: cough(random, bursts=int(random.integers(2, 4)), voiced=0.4),
    "throat": throat,
    "breath": breath,
    "click": click,
    "keyboard": keyboard,
    "slam": slam,
    "hum": lambda random: hum(random, voice=float(random.uniform(100, 220))),
    "hm": lambda random: hum(random, syllables=1, voice=float(random.uniform(100, 220))),
}
"""What people and things do without wanting anything, by name. Laughter is missing: recognisers hear words in it."""
