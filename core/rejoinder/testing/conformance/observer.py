"""The rules for observers and filters: they see every event, change none, and cost next to nothing."""

from __future__ import annotations

from rejoinder.testing.conformance.plugin import PluginConformance


class ObserverConformance(PluginConformance):
    """What a plugin with `on_event` or filters must do. Set `plugin` in a subclass."""
