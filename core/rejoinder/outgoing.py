"""A request to where somebody else says: its URL taken apart, and sent to an address that was checked for it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from typing import NamedTuple

import httpx

from rejoinder.errors import ConfigError

PORTS = {"http": 80, "https": 443}
"""The schemes that are reached, with their own ports."""
_MAX_URL = 2_000


class Target(NamedTuple):
    """A URL of a web server, and the host and port in it; the host is as it is sent: lower case, `xn--...`."""

    url: httpx.URL
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Target:
        """The target that `text` names, without what follows a `#`.

        Raises:
            ConfigError: it is no http or https URL, holds a password or is longer than 2000 characters (`bad_url`).
        """
        if len(text) > _MAX_URL:
            raise _bad_url(f"The address is longer than {_MAX_URL} characters.")
        try:
            url = httpx.URL(text.strip()).copy_with(fragment=None)
            host = url.raw_host.decode("ascii").lower().rstrip(".")
        except (httpx.InvalidURL, ValueError) as error:
            raise _bad_url(f"This is no address ({error}).") from None
        if url.scheme not in PORTS or not host:
            raise _bad_url("The address must begin with https:// or http:// and a host.")
        if url.userinfo:
            raise _bad_url("The address must not hold a user name or password.")
        return cls(url, host, url.port or PORTS[url.scheme])

    def request(
        self, method: str, address: str, headers: Mapping[str, str], *, timeout_s: float, body: bytes | None = None
    ) -> httpx.Request:
        """A request to this target that goes to `address`, whatever a name server says by then."""
        return httpx.Request(
            method,
            self.url.copy_with(host=address),
            content=body,
            headers={**headers, "host": self.url.netloc.decode("ascii")},
            # TLS asks for the name and checks the certificate against it.
            extensions={"sni_hostname": self.host, "timeout": httpx.Timeout(timeout_s).as_dict()},
        )


@functools.cache
def certificates() -> ssl.SSLContext:
    """Made once: it reads all the certificates there are, which takes some ten milliseconds."""
    return httpx.create_ssl_context()


def _bad_url(text: str) -> ConfigError:
    return ConfigError(text, code="bad_url", fix="Give an address such as https://example.com/hooks.")
