"""Cities and countries people ask the time of, each with its IANA time zone."""

from __future__ import annotations

import re

_ZONES = {
    "Africa/Cairo": "cairo egypt",
    "Africa/Casablanca": "casablanca morocco",
    "Africa/Johannesburg": "johannesburg cape_town south_africa",
    "Africa/Lagos": "lagos nigeria",
    "Africa/Nairobi": "nairobi kenya",
    "America/Argentina/Buenos_Aires": "buenos_aires argentina",
    "America/Bogota": "bogota colombia",
    "America/Chicago": "chicago dallas houston austin texas",
    "America/Denver": "denver salt_lake_city colorado",
    "America/Lima": "lima peru",
    "America/Los_Angeles": "los_angeles san_francisco seattle san_diego las_vegas portland california palo_alto",
    "America/Mexico_City": "mexico_city mexico",
    "America/New_York": "new_york boston washington miami atlanta philadelphia detroit",
    "America/Phoenix": "phoenix arizona",
    "America/Santiago": "santiago chile",
    "America/Sao_Paulo": "sao_paulo rio_de_janeiro rio brazil",
    "America/Toronto": "toronto montreal ottawa",
    "America/Vancouver": "vancouver",
    "Asia/Bangkok": "bangkok thailand",
    "Asia/Dubai": "dubai abu_dhabi",
    "Asia/Ho_Chi_Minh": "hanoi saigon vietnam",
    "Asia/Hong_Kong": "hong_kong",
    "Asia/Jakarta": "jakarta",
    "Asia/Jerusalem": "jerusalem tel_aviv israel",
    "Asia/Karachi": "karachi lahore pakistan",
    "Asia/Kolkata": "mumbai delhi new_delhi bangalore kolkata chennai hyderabad india",
    "Asia/Manila": "manila philippines",
    "Asia/Riyadh": "riyadh saudi_arabia",
    "Asia/Seoul": "seoul korea south_korea",
    "Asia/Shanghai": "shanghai beijing shenzhen china",
    "Asia/Singapore": "singapore",
    "Asia/Taipei": "taipei taiwan",
    "Asia/Tehran": "tehran iran",
    "Asia/Tokyo": "tokyo osaka kyoto japan",
    "Atlantic/Reykjavik": "reykjavik iceland",
    "Australia/Melbourne": "melbourne",
    "Australia/Perth": "perth",
    "Australia/Sydney": "sydney canberra",
    "Europe/Amsterdam": "amsterdam netherlands holland",
    "Europe/Athens": "athens greece",
    "Europe/Berlin": "berlin munich hamburg frankfurt cologne germany",
    "Europe/Brussels": "brussels belgium",
    "Europe/Bucharest": "bucharest romania",
    "Europe/Budapest": "budapest hungary",
    "Europe/Copenhagen": "copenhagen denmark",
    "Europe/Dublin": "dublin ireland",
    "Europe/Helsinki": "helsinki finland",
    "Europe/Istanbul": "istanbul ankara turkey",
    "Europe/Kyiv": "kyiv kiev ukraine",
    "Europe/Lisbon": "lisbon portugal",
    "Europe/London": "london manchester edinburgh england scotland britain the_uk",
    "Europe/Madrid": "madrid barcelona spain",
    "Europe/Moscow": "moscow",
    "Europe/Oslo": "oslo norway",
    "Europe/Paris": "paris lyon france",
    "Europe/Prague": "prague",
    "Europe/Rome": "rome milan italy",
    "Europe/Stockholm": "stockholm sweden",
    "Europe/Vienna": "vienna austria",
    "Europe/Warsaw": "warsaw poland",
    "Europe/Zurich": "zurich geneva switzerland",
    "Pacific/Auckland": "auckland wellington new_zealand",
    "Pacific/Honolulu": "honolulu hawaii",
    "UTC": "utc greenwich",
}
PLACES: dict[str, str] = {place.replace("_", " "): zone for zone, places in _ZONES.items() for place in places.split()}
"""Place, in lower case, to time zone."""
_ANY = re.compile(rf"\b({'|'.join(sorted(PLACES, key=len, reverse=True))})\b")
_ONLY = re.compile(rf"{_ANY.pattern}(?: {_ANY.pattern})*")


def is_place(text: str) -> bool:
    """Whether `text` (lower case) is nothing but places, e.g. "london" or "sydney australia"."""
    return _ONLY.fullmatch(text) is not None


def find_place(text: str) -> tuple[str, str] | None:
    """The first place `text` (lower case) names, as people write it, and its time zone."""
    found = _ANY.search(text)
    if found is None:
        return None
    place = found.group()
    spelled = place.upper() if place == "utc" else place.removeprefix("the ").title().replace(" De ", " de ")
    return ("the UK" if place == "the uk" else spelled), PLACES[place]
