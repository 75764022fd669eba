"""The rules for adapters: routes that live beside ours, and never break over what strangers send."""

from __future__ import annotations

from rejoinder.testing.conformance.plugin import PluginConformance


class AdapterConformance(PluginConformance):
    """What a plugin with `register_routes` must do. Set `plugin` in a subclass."""
