"""The judges `echo` and `words`: the agent's own voice, and what people say without meaning to stop."""

from __future__ import annotations

from collections.abc import Iterable

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider
from rejoinder_plugins.interruption import echo, words


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `echo` and `words`."""
    return [
        Provider("interruption", echo.NAME, "Knows the agent's own voice", echo.Echo),
        Provider(
            "interruption",
            words.NAME,
            "Backchannels do not stop the agent, stop words always do",
            words.Words,
            words.WordsSettings,
        ),
    ]
