"""Where webhooks may go: addresses are checked when they are given, again when they are used, and pinned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.certificates import certificate
from tests.receivers import opened, receiving

from rejoinder import posting
from rejoinder.errors import ConfigError
from rejoinder.netguard import permitted

REFUSED = ["127.0.0.1", "10.0.0.8", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
           "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "240.0.0.1"]  # fmt: skip


def test_private_addresses_are_refused() -> None:
    for address in REFUSED:
        assert not permitted(address), address
    for address in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"):
        assert permitted(address), address
    for address in ("127.0.0.1", "10.0.0.8", "::1", "fc00::1"):
        assert permitted(address, private=True), address
    for address in ("169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "nonsense"):
        assert not permitted(address, private=True), address


def test_an_address_is_checked_when_it_is_given_and_again_when_it_is_used() -> None:
    answers: dict[str, Sequence[str]] = {}

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers.get(host, [])

    async def main() -> None:
        async with receiving() as (receiver, url), opened(private=False, resolve=resolve) as box:
            port = url.split(":")[2].split("/")[0]
            for address in REFUSED:
                answers["inside.example"] = [address]
                with pytest.raises(ConfigError) as refused:
                    await box.hooks.create("https://inside.example/hook")
                assert refused.value.code == "address_refused"
                assert "allow_private" in (refused.value.fix or "")
            for wrong, code in (
                ("https://nowhere.example/", "unknown_host"),
                ("ftp://inside.example/", "bad_url"),
                ("https://me:secret@inside.example/", "bad_url"),
                ("https://", "bad_url"),
                ("nonsense", "bad_url"),
            ):
                with pytest.raises(ConfigError) as refused:
                    await box.hooks.create(wrong)
                assert refused.value.code == code, wrong

            # The name server has another answer later.
            answers["rebound.example"] = ["93.184.216.34"]
            record, _ = await box.hooks.create(f"http://rebound.example:{port}/hook")
            answers["rebound.example"] = ["127.0.0.1"]
            await box.hooks.test(record.id)
            (row,) = await box.until(lambda rows: [r.attempts for r in rows] == [1])
            assert row.error
            assert "private network" in row.error
            assert not receiver.connections, "nobody even connected"

    asyncio.run(main())


def test_the_connection_is_made_to_the_address_that_was_checked() -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async def main() -> None:
        async with receiving() as (receiver, url), opened(resolve=resolve) as box:
            port = url.split(":")[2].split("/")[0]
            record, _ = await box.hooks.create(f"http://hooks.invalid:{port}/hook")
            asked.clear()
            await box.hooks.test(record.id)
            await receiver.until(1)
            assert asked == ["hooks.invalid"], "once: a second answer could be another"
            assert receiver.got[0][0]["host"] == f"hooks.invalid:{port}"

    asyncio.run(main())


def test_the_certificate_must_be_that_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_tls, trusting = certificate("hooks.invalid", tmp_path)
    monkeypatch.setattr(posting, "certificates", lambda: trusting)
    asked: list[str | None] = []
    server_tls.sni_callback = lambda sock, name, context: asked.append(name)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with receiving(server_tls) as (receiver, url), opened(resolve=resolve) as box:
            port = url.split(":")[2].split("/")[0]
            good, _ = await box.hooks.create(f"https://hooks.invalid:{port}/hook")
            await box.hooks.test(good.id)
            await receiver.until(1)
            assert asked == ["hooks.invalid"]
            await box.hooks.delete(good.id)
            other, _ = await box.hooks.create(f"https://other.invalid:{port}/hook")
            delivery = await box.hooks.test(other.id)
            rows = await box.until(lambda rows: any(row.id == delivery.id and row.attempts for row in rows))
            (row,) = [row for row in rows if row.id == delivery.id]
            assert row.error
            assert "certificate" in row.error.lower()
            assert len(receiver.got) == 1

    asyncio.run(main())


def test_redirects_are_not_followed() -> None:
    async def main() -> None:
        async with receiving() as (receiver, url), opened() as box:
            receiver.answer = lambda number: (302, f"location: {url}\r\n")
            record, _ = await box.hooks.create(url)
            await box.hooks.test(record.id)
            (row,) = await box.until(lambda rows: [r.attempts for r in rows] == [1])
            assert (row.status, len(receiver.got)) == (302, 1)

    asyncio.run(main())
