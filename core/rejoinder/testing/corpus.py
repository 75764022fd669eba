"""A scripted corpus of turn-taking: how people pause, nod, cough and interrupt, as timed speech with its words.

Times are in ms. The words come out of the scripted STT as they are spoken, so rules see what they would see of speech.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

WORD_MS = 280
"""A common pace of speech: about 3.5 words a second."""

Kind = Literal["plain", "hesitation", "dictation", "interruption", "stop", "backchannel", "noise"]


@dataclass(frozen=True, slots=True)
class Say:
    """Spoken words; `ms` None: at the usual pace."""

    text: str
    ms: int | None = None

    @property
    def length_ms(self) -> int:
        """How long it takes."""
        return self.ms or max(240, WORD_MS * len(self.text.split()))


@dataclass(frozen=True, slots=True)
class Sound:
    """Something loud without words, as a cough or a slammed door."""

    ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence."""

    ms: int


Step = Say | Sound | Pause


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that a user does: a turn of their own, or (`over`) something while the agent speaks."""

    kind: Kind
    steps: tuple[Step, ...]

    @property
    def over(self) -> bool:
        """Whether the agent is speaking."""
        return self.kind in ("interruption", "stop", "backchannel", "noise")

    @property
    def text(self) -> str:
        """All its words."""
        return " ".join(step.text for step in self.steps if isinstance(step, Say))


_PLAIN = (
    "What time is it?", "Tell me a joke.", "Yes.", "No, thank you.", "How far is the moon?", "Goodbye.",
    "I would like to book a table for two.", "Can you repeat that, please?", "My name is Martha.", "Thanks a lot.",
    "Turn the lights off in the kitchen.", "What is twelve plus thirty?", "That sounds good.", "Who are you?",
    "Please call me back tomorrow morning.", "I have a question about my bill.", "Where is the nearest station?",
)  # fmt: skip
_HESITATIONS = (
    ("I would like to", "book a table for two."), ("Can you tell me", "when the office opens?"),
    ("The thing is that", "my phone does not ring."), ("I want to go to", "the central station."),
    ("Well,", "I am not sure about that."), ("It is about my", "last invoice."), ("So um", "how does this work?"),
    ("My address is", "twelve Garden Street."), ("I tried it and", "it did not work."),
    ("Because the", "door was shut."),
)  # fmt: skip
_DICTATIONS = (
    ("My number is five five five", "one two three four."), ("Five five five", "zero one nine nine."),
    ("It is four two", "seven nine three one."), ("Account one zero zero", "two two eight."),
)  # fmt: skip
_INTERRUPTIONS = (
    "No, I meant the other one.", "That is not what I asked.", "But what about tomorrow?", "I know that already.",
    "Can you speak more slowly?", "Sorry, which street was that?", "Let me think about it.", "What does it cost?",
    "You are wrong about that.", "Tell me something else.",
)  # fmt: skip
_STOPS = ("Stop.", "Stop it.", "Wait.", "Wait a moment.", "Hold on.", "Be quiet.", "Stop talking.", "Okay, stop.")
_BACKCHANNELS = (
    "Mm-hmm.",
    "Uh-huh.",
    "Yeah.",
    "Okay.",
    "Right.",
    "I see.",
    "Yes.",
    "Sure.",
    "Oh, okay.",
    "Yeah, yeah.",
)


def corpus() -> Iterator[Case]:
    """All cases, always the same."""
    for text in _PLAIN:
        yield Case("plain", (Say(text),))
    for pause_ms in (250, 450, 650):
        for first, rest in _HESITATIONS:
            yield Case("hesitation", (Say(first), Pause(pause_ms), Say(rest)))
        for first, rest in _DICTATIONS:
            yield Case("dictation", (Say(first), Pause(pause_ms), Say(rest)))
    for text in _INTERRUPTIONS:
        yield Case("interruption", (Say(text),))
        yield Case("interruption", (Say("Yeah,"), Pause(40), Say(text)))
    for text in _STOPS:
        yield Case("stop", (Say(text),))
    for text in _BACKCHANNELS:
        yield Case("backchannel", (Say(text),))
        yield Case("backchannel", (Say(text, 480 + 20 * len(text)),))
    for ms in (120, 200, 280, 400, 600, 900):
        yield Case("noise", (Sound(ms),))
        yield Case("noise", (Sound(ms), Pause(120), Sound(ms // 2)))
