"""`rejoinder plugins test`: runs the conformance suites over all that a plugin offers, and says what to do."""

from __future__ import annotations

import json
import logging
import textwrap
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rejoinder.testing.conformance.rules import Outcome

_WIDTH = 120
_LABELS = {"ok": "ok", "failed": "FAIL", "not checked": "not checked"}
_COLOURS = {"ok": "green", "failed": "red", "not checked": "yellow"}
_INDENT = " " * 36


@click.command("test")
@click.argument("target", default=".")
@click.option("--only", multiple=True, metavar="KIND:NAME", help="Test this alone, e.g. tts:acme; may be repeated.")
@click.option("--runs", type=click.IntRange(min=4), help="Uses in the search for leaks (200).")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def command(ctx: click.Context, target: str, only: tuple[str, ...], runs: int | None, as_json: bool) -> None:
    """Test a plugin against what the engine expects of its kind.

    TARGET is a project folder (its entry points in pyproject.toml; it need not be installed), a file, or the name of an
    installed plugin. Settings come from rejoinder.toml and the environment, as for the server; samples of speech,
    arguments of tools and the like from the suites in the project's tests/test_conformance.py, if it has any.

    Exit code 0: all rules hold; 1: one is broken; 3: the plugin cannot be loaded.
    """
    from rejoinder.errors import ConfigError
    from rejoinder.testing.conformance.targets import own_suites, subjects, suites

    # The rules say what goes wrong; the server that they use need not say it again.
    logging.getLogger().addHandler(logging.NullHandler())
    began = time.monotonic()
    found, own = subjects(target), own_suites(target)
    offers = [offer for subject in found for offer in subject.offers()]
    if not offers or (only and not set(only) & set(offers)):
        problem = next((subject.problem for subject in found if subject.problem), "")
        wanted = f", not {', '.join(only)}" if only and offers else ""
        raise ConfigError(
            f"{target!r} offers {', '.join(offers) or 'nothing that can be tested'}{wanted}.",
            fix=problem or "Return it from a hook such as `register_providers`, marked with `@hookimpl`.",
        )
    reports = []
    counts: Counter[str] = Counter()
    for subject in found:
        for offer, suite in suites(subject, only, runs, own):
            if not as_json:
                click.echo(f"{click.style(offer, bold=True)} of the plugin {subject.name!r}")
            outcomes = []
            for outcome in suite.outcomes():
                outcomes.append(outcome)
                counts[outcome.state] += 1
                if not as_json:
                    _show(outcome)
            reports.append({"plugin": subject.name, "offer": offer, "rules": [one.json() for one in outcomes]})
    summary = {state: counts[state] for state in _LABELS}
    if as_json:
        click.echo(json.dumps({"tested": reports, "summary": summary}, indent=2))
    else:
        text = ", ".join(f"{count} {state}" for state, count in summary.items())
        click.echo(f"{text}, in {time.monotonic() - began:.0f} s")
    if counts["failed"]:
        ctx.exit(1)


def _show(outcome: Outcome) -> None:
    label = click.style(_LABELS[outcome.state].ljust(11), fg=_COLOURS[outcome.state])
    text = outcome.what or outcome.demand
    click.echo(f"  {label}  {outcome.rule.ljust(20)} {_wrapped(text)}")
    if outcome.fix:
        click.echo(f"{_INDENT}{_wrapped(f'Do: {outcome.fix}')}")


def _wrapped(text: str) -> str:
    """`text` in lines that stand below one another in the last column."""
    lines = textwrap.wrap(text, _WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False) or [""]
    return f"\n{_INDENT}".join(lines)
