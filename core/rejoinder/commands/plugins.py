"""`rejoinder plugins`: which plugins there are, what they offer and why one does not load."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import click

from rejoinder.commands.report import table


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One plugin: where it comes from, what it offers (`kind:name`) and what is wrong with it, if anything."""

    name: str
    distribution: str
    version: str
    enabled: bool
    offers: list[str]
    error: str | None
    details: str

    def json(self) -> dict[str, object]:
        """As a JSON object, without the traceback."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "enabled": self.enabled,
            "offers": self.offers,
            "error": self.error,
        }


def inspect_plugins(disabled: Collection[str] = (), folder: Path | None = None) -> list[PluginReport]:
    """Load every plugin, of the packages and of the files in `folder`, on its own and ask what it offers."""
    from rejoinder.manager import Plugins, find_plugins

    reports = []
    for name, distribution, version, load in find_plugins(folder):
        if name in disabled:
            reports.append(PluginReport(name, distribution, version, False, [], None, ""))
            continue
        plugins = Plugins()
        plugins.add(name, load, distribution=distribution, version=version)
        offers = [f"{provider.kind}:{provider.name}" for provider in plugins.providers()]
        offers += [f"tool:{tool}" for tool in plugins.tools()]
        offers += [f"tools:{source.name}" for source in plugins.tool_sources()]
        offers += [f"model:{model}" for model in plugins.models()]
        info = plugins.infos[name]
        reports.append(PluginReport(name, distribution, version, True, offers, info.error, info.details))
    return reports


@click.group("plugins")
def command() -> None:
    """See the plugins."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of plugins that fail.")
@click.pass_context
def list_plugins(ctx: click.Context, as_json: bool, verbose: bool) -> None:
    """List the plugins and what each offers; exit code 1 if one fails."""
    from rejoinder.settings import load_settings

    settings = load_settings()
    reports = inspect_plugins(settings.disabled_plugins, settings.plugins_dir)
    if as_json:
        click.echo(json.dumps([report.json() for report in reports], indent=2))
    else:
        rows = [
            (
                report.name,
                report.distribution,
                report.version,
                "failed" if report.error else "ok" if report.enabled else "disabled",
                report.error or ", ".join(report.offers),
            )
            for report in reports
        ]
        click.echo(table(("name", "distribution", "version", "state", "offers"), rows, words=5))
    for report in reports:
        if verbose and report.error:
            click.echo(f"\n{report.name}:\n{report.details}", err=True)
    if any(report.error for report in reports):
        ctx.exit(1)
