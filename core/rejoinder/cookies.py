"""The cookie of a login: how it is named, set and found, and which requests it may not be used by."""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from rejoinder.errors import AuthError

SAFE = ("GET", "HEAD")
"""Methods that change nothing."""
CSRF_HEADER = "x-csrf-token"


def cookie_name(scheme: str) -> str:
    """What the cookie is called: over https with a prefix by which browsers take it from this very host only."""
    return "__Host-rejoinder" if scheme in ("https", "wss") else "rejoinder"


def set_cookie(scheme: str, token: str) -> str:
    """The header `Set-Cookie` that sets it until the browser is closed; an empty `token` removes it."""
    parts = [f"{cookie_name(scheme)}={token}", "Path=/", "HttpOnly", "SameSite=Strict"]
    if cookie_name(scheme).startswith("__Host-"):
        parts.append("Secure")
    if not token:
        parts.append("Max-Age=0")
    return "; ".join(parts)


def token_in(scheme: str, header: str) -> str | None:
    """The token in the header `Cookie`; None if there is none."""
    if cookie_name(scheme) not in header:
        return None
    try:
        found = SimpleCookie(header).get(cookie_name(scheme))
    except CookieError:
        return None
    return found.value if found is not None and found.value else None


def check_site(method: str, headers: Mapping[str, str]) -> None:
    """Whether it is a page of this server that makes the request, as far as the browser says so.

    Whatever changes something must say so; a request that only reads need not, as older browsers do not.

    Raises:
        AuthError: another site makes it, or it does not say (`csrf`).
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    wrong = site not in (None, "same-origin", "none" if method in SAFE else None)
    if origin is not None and (site is None or method not in SAFE):
        wrong = wrong or not _is_own(origin, headers.get("host", ""))
    if wrong or (method not in SAFE and site is None and origin is None):
        raise AuthError(
            "A login is for the server's own pages; this request comes from elsewhere, or does not say from where.",
            code="csrf",
            fix="Programs use an API key: Authorization: Bearer KEY.",
        )


def check_token(method: str, headers: Mapping[str, str], csrf: str) -> None:
    """Whether a request that changes something has the token that only the server's own pages can know.

    Raises:
        AuthError: it has not (`csrf`).
    """
    given = headers.get(CSRF_HEADER, "")
    if method not in SAFE and not compare_digest(given.encode(), csrf.encode()):
        raise AuthError(
            "The header X-CSRF-Token is missing or belongs to another login.",
            code="csrf",
            fix="Load the page again; `csrf` of GET /admin/api/me is what to send.",
        )


def _is_own(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
