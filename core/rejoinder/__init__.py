"""Rejoinder: a platform for real-time agents; speech or text in, speech and text out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rejoinder.hookspecs import hookimpl
    from rejoinder.tooling import tool

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl", "tool"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `rejoinder --help` does not pay for what only plugins need.
    if name == "hookimpl":
        from rejoinder.hookspecs import hookimpl

        return hookimpl
    if name == "tool":
        from rejoinder.tooling import tool

        return tool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
