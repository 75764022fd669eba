"""For tests: scripted providers, virtual time, and the conformance kit for plugins.

The classes named here are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rejoinder.testing.conformance.adapter import AdapterConformance
    from rejoinder.testing.conformance.interruption import InterruptionConformance
    from rejoinder.testing.conformance.llm import LlmConformance
    from rejoinder.testing.conformance.observer import ObserverConformance
    from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, rule
    from rejoinder.testing.conformance.stt import SttConformance
    from rejoinder.testing.conformance.tool import ToolConformance
    from rejoinder.testing.conformance.tts import TtsConformance
    from rejoinder.testing.conformance.turn import TurnConformance
    from rejoinder.testing.conformance.vad import VadConformance

__all__ = [
    "AdapterConformance",
    "InterruptionConformance",
    "LlmConformance",
    "NotChecked",
    "ObserverConformance",
    "Seen",
    "SttConformance",
    "ToolConformance",
    "TtsConformance",
    "TurnConformance",
    "VadConformance",
    "Violation",
    "rule",
]

_MODULES = {
    **{name: f"rejoinder.testing.conformance.{name.removesuffix('Conformance').lower()}" for name in __all__},
    **dict.fromkeys(("NotChecked", "Seen", "Violation", "rule"), "rejoinder.testing.conformance.rules"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
