"""Which requests a route takes, so that a plugin's routes take none that somebody else's are there for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.routes import ASGIRoute, BaseRoute

from rejoinder.discovery import Refused

_PLAIN = re.compile(r"[\w~/-]+")
"""Litestar makes a regular expression of a mount's path: other characters would not mean themselves."""


@dataclass(frozen=True, slots=True)
class Place:
    """The path of a route without the names and types of its parameters, of which a router looks at neither.

    `parts` are its segments up to a parameter that `swallows` the rest; None stands for any segment. A `mount` takes
    all that begins with its path, in the middle of a segment, too.
    """

    path: str
    owner: str
    parts: tuple[str | None, ...]
    swallows: bool
    mount: bool

    def overlaps(self, other: Place) -> bool:
        """Whether a request may fit both, or one hides a part of the other."""
        for at, (mine, its) in enumerate(zip(self.parts, other.parts, strict=False)):
            if mine is None or its is None:
                if (mine is None) != (its is None) or self._all_from(at) or other._all_from(at):
                    # The router takes a fixed segment before a parameter, and does not come back.
                    return True
            elif mine != its:
                return self._begins(at, its, mine) or other._begins(at, mine, its)
        shorter, longer = sorted((self, other), key=lambda place: len(place.parts))
        return shorter.mount or len(shorter.parts) == len(longer.parts)

    def _all_from(self, at: int) -> bool:
        return self.swallows and at == len(self.parts) - 1

    def _begins(self, at: int, its: str, mine: str) -> bool:
        return self.mount and at == len(self.parts) - 1 and its.startswith(mine)


def places(routes: Iterable[BaseRoute], owner: str) -> list[Place]:
    """Where `routes` are; `owner` is the plugin they belong to, or "" for those of Rejoinder itself."""
    found = []
    for route in routes:
        parts: list[str | None] = []
        swallows = False
        for component in route.path_components:
            parts.append(component if isinstance(component, str) else None)
            if not isinstance(component, str) and component.type is Path:
                swallows = True
                break
        mount = isinstance(route, ASGIRoute) and route.route_handler.is_mount
        found.append(Place(route.path, owner, tuple(parts), swallows, mount))
    return found


def claim(plugin: str, handlers: Sequence[Any], taken: Sequence[Place]) -> list[Place]:
    """The places of a plugin's `handlers`, whatever they are made of: routers, controllers, mounts.

    Raises:
        Refused: one of them is `taken`, or cannot be a mount.
        Exception: Litestar cannot use them.
    """
    wanted = places(Litestar(handlers, openapi_config=None, logging_config=None).routes, plugin)
    fix = f"Begin its paths with a name of your own: /{plugin}/..."
    for place in wanted:
        if place.mount and not _PLAIN.fullmatch(place.path):
            raise Refused(f"The mount {place.path} has more than letters, digits, - and _ in its path.", fix=fix)
        met = [other for other in taken if place.overlaps(other)]
        if met:
            # The most alike tells most.
            other = min(met, key=lambda other: (abs(len(other.parts) - len(place.parts)), other.path))
            whose = f"the plugin {other.owner!r}" if other.owner else "Rejoinder itself"
            raise Refused(f"The route {place.path} overlaps {other.path}, which belongs to {whose}.", fix=fix)
    return wanted
