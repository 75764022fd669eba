"""Opens a client's WebSocket to a server and sends on it, and says in plain words why that does not work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from rejoinder.errors import ConfigError, RejoinderError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SUBPROTOCOL = "rejoinder.v1"
DEFAULT_URL = "ws://127.0.0.1:8080"
MAX_MESSAGE_BYTES = 2**20
PING_S = 1.5
PONG_S = 2.5
CLOSE_S = 0.5
"""A line that died without a word is noticed within the sum of the three. No later, because the server plays on by the
clock once a client has been silent for 2 s, and can go back 3 s when it returns."""
_OWN_SESSION = "/ws/audio"
_SESSIONS = "/v1/sessions/"
_PAGE = "/talk"


class Unreachable(RejoinderError):
    """There is no Rejoinder server at that address, or it went away."""

    code = "unreachable"
    retryable = True


API_KEY_VARIABLE = "REJOINDER_API_KEY"
_DEV_KEY_VARIABLE = "REJOINDER_AUTH__DEV_KEY_FILE"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def dev_key_file() -> Path:
    """Where a server on this machine keeps the developer's key, unless its settings file says otherwise."""
    import platformdirs

    given = os.environ.get(_DEV_KEY_VARIABLE)
    return Path(given) if given else Path(platformdirs.user_config_dir("rejoinder")) / "dev-key"


def credential_for(url: str) -> str | None:
    """The key to show to the server at `url`: of `REJOINDER_API_KEY`, or (on this machine) the developer's."""
    if key := os.environ.get(API_KEY_VARIABLE):
        return key
    if urlsplit(url).hostname not in _LOCAL:
        return None
    try:
        return dev_key_file().read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def session_url(url: str) -> str:
    """The WebSocket address for `url`: http becomes ws, and a URL without a path gets that of a session of its own.

    The link to a room's page (`join.page`) becomes the address of the room's session.

    Raises:
        ConfigError: it is no http or WebSocket URL (`bad_url`).
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigError(f"{url!r} is not the URL of a server.", code="bad_url", fix=f"Use e.g. {DEFAULT_URL}.")
    path = _OWN_SESSION if parts.path in ("", "/") else parts.path
    if _is_page(url):
        session = _of_page(url, "session")
        if not session:
            message = f"{url!r} names no session."
            raise ConfigError(message, code="bad_url", fix="Use the whole link, with what stands after its #.")
        path = f"{path.removesuffix(_PAGE)}{_SESSIONS}{quote(session, safe='')}/ws"
        return urlunsplit((scheme, parts.netloc, path, "", ""))
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def page_token(url: str) -> str | None:
    """The room token in the link to a room's page; None where there is none."""
    return _of_page(url, "token")


def _of_page(url: str, name: str) -> str | None:
    parts = urlsplit(url)
    return parse_qs(parts.fragment).get(name, [None])[0] if _is_page(url) else None


def _is_page(url: str) -> bool:
    parts = urlsplit(url)
    return parts.path.endswith(_PAGE) and (bool(parts.fragment) or parts.scheme in ("http", "https"))


def joins(url: str) -> bool:
    """Whether the WebSocket address `url` is that of a session which is there for others, too."""
    return _SESSIONS in urlsplit(url).path


def resume_url(url: str, session_id: str) -> str:
    """Where a client that was connected to `url` comes back to the session called `session_id`."""
    parts = urlsplit(url)
    path = parts.path
    if path.endswith(_OWN_SESSION):
        path = f"{path.removesuffix(_OWN_SESSION)}{_SESSIONS}{session_id}/ws"
    # What the query string said, the message that asks to come back says again.
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


async def send(socket: ClientConnection | None, data: bytes, *, text: bool = False) -> None:
    """Send a frame.

    Raises:
        Unreachable: the connection is gone.
    """
    from websockets.exceptions import ConnectionClosed

    if socket is None:
        raise Unreachable("The client is not connected.", fix="Use it inside `async with`.")
    try:
        await socket.send(data, text=text)
    except ConnectionClosed:
        raise Unreachable("The server closed the connection.", fix="rejoinder serve") from None


async def open_socket(url: str, timeout: float, credential: str | None = None) -> ClientConnection:
    """A connection to `url`, made within `timeout` s, by the bearer of `credential` (an API key or a room token).

    Raises:
        Unreachable: nobody listens there.
        RejoinderError: who listens there refuses, or speaks something else (`refused`).
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.typing import Subprotocol

    local = urlsplit(url).hostname in _LOCAL
    try:
        return await connect(
            url,
            compression=None,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            open_timeout=timeout,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            max_size=MAX_MESSAGE_BYTES,
            proxy=None if local else True,
            additional_headers={"Authorization": f"Bearer {credential}"} if credential else None,
        )
    except InvalidStatus as error:
        if error.response.status_code == 401:
            raise RejoinderError(
                f"{url} asks for an API key{' other than the one it was shown' if credential else ''}.",
                code="unauthorized",
                fix=f"Set {API_KEY_VARIABLE} or give --key; who runs the server makes one: `rejoinder keys create`.",
            ) from None
        raise _refusal(url, error.response.status_code, bytes(error.response.body or b"")) from None
    except (InvalidHandshake, InvalidURI) as error:
        raise RejoinderError(
            f"{url} does not speak WebSocket ({error}).", code="refused", fix="Check --url: is that a Rejoinder server?"
        ) from None
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        raise Unreachable(f"No server answers at {url} ({reason}).", fix="rejoinder serve") from None


def _refusal(url: str, status: int, body: bytes) -> RejoinderError:
    """What a server that refused the connection says: one of ours sends a problem document (RFC 9457)."""
    try:
        problem = json.loads(body)
        detail, code, fix = str(problem["detail"]), str(problem["code"]), str(problem.get("fix") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        text = body[:300].decode(errors="replace").strip()
        message = f"{url} refused the connection: HTTP {status}{': ' if text else ''}{text}."
        return RejoinderError(message, code="refused")
    return RejoinderError(f"{url} refused the connection: {detail}", code=code, fix=fix or None)
