"""Logins: accounts in each kind of database, passwords that are guessed, logins that end, links that are good once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select

from rejoinder import logins as logins_module
from rejoinder.cookies import check_site, check_token, cookie_name, set_cookie, token_in
from rejoinder.errors import AuthError, ConfigError, RejoinderError
from rejoinder.logins import Delayed, Guesses, Logins, check_password
from rejoinder.store import schema, tables
from rejoinder.store.store import Store
from rejoinder.store.users import UserRecord

PASSWORD = "correct horse"
HOUR_MS = 3_600_000


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.ms / 1000

    def wall_ms(self) -> int:
        return self.ms


@asynccontextmanager
async def process(url: str, clock: Clock) -> AsyncIterator[Logins]:
    await schema.upgrade(schema.parse_url(url))
    store = Store(url, clock=clock)
    await store.open()
    found = Logins(store, clock)
    try:
        yield found
    finally:
        found.close()
        await store.close()


async def admin_of(logins: Logins, name: str = "ann") -> tuple[UserRecord, str]:
    user = await logins.users.create(name, "admin", by="test")
    token, _ = await logins.users.link(user.id, by="test", ttl_s=60)
    cookie, _, _ = await logins.use_link(token, "", PASSWORD, address="a", client="")
    return user, cookie


async def code_of(work: Any) -> str:
    try:
        await work
    except RejoinderError as error:
        return error.code
    return "ok"


def enter(logins: Logins, name: str, password: str = PASSWORD, **more: Any) -> Any:
    return logins.login(name, password, **{"address": "a", "client": "", **more})


def test_an_account_from_its_link_to_its_end(database_url: str) -> None:
    async def main() -> None:
        clock = Clock()
        async with process(database_url, clock) as here, process(database_url, clock) as there:
            user = await here.users.create(" Ann@Example.com ", "operator", by="test")
            assert (user.name, user.has_password, user.last_login_at) == ("ann@example.com", False, None)
            assert await code_of(here.users.create("ann@example.com", "viewer", by="x")) == "user_exists"
            assert await code_of(here.users.create("no spaces", "viewer", by="x")) == "bad_user_name"
            assert await code_of(enter(here, "ann@example.com", "")) == "bad_login", "who has no password has not none"

            old, _ = await here.users.link(user.id, by="test", ttl_s=60)
            token, _ = await here.users.link(user.id, by="test", ttl_s=60)
            use: Any = {"address": "b", "client": "x" * 1000}
            assert await code_of(here.use_link(old, "", PASSWORD, **use)) == "bad_link", "a newer one was sent"
            assert await code_of(here.use_link(token, "", "short", **use)) == "weak_password"
            cookie, login, made = await here.use_link(token, "", PASSWORD, **use)
            assert (login.name, login.role, len(login.client), made) == ("ann@example.com", "operator", 200, False)
            assert await code_of(here.use_link(token, "", PASSWORD, **use)) == "bad_link", "it does once"

            assert await there.find(cookie) == login, "a login holds in all processes"
            second, other = await enter(there, "ANN@example.com ", ending=cookie)
            assert second != cookie
            assert other.csrf != login.csrf
            here.forget()
            assert await here.find(cookie) is None, "a new token each time: the old one ends"
            records = await here.users.all()
            assert [record.has_password for record in records] == [True]
            assert records[0].last_login_at == clock.ms

            assert await there.find(second) is not None
            assert await here.users.delete(user.id) == records[0]
            clock.ms += 3_100
            assert await there.find(second) is None, "elsewhere it is known within seconds"
            assert await here.users.delete(user.id) is None

    asyncio.run(main())


def test_roles_and_disabling_hold_elsewhere_within_seconds(database_url: str) -> None:
    async def main() -> None:
        clock = Clock()
        async with process(database_url, clock) as here, process(database_url, clock) as there:
            await admin_of(here, "root")
            user, cookie = await admin_of(here)
            login = await there.find(cookie)
            assert login is not None
            await here.users.change(user.id, role="viewer")
            here.forget()
            changed = await here.find(cookie)
            assert changed is not None
            assert changed.role == "viewer", "here at once"
            clock.ms += 3_100
            changed = await there.find(cookie)
            assert changed is not None
            assert changed.role == "viewer"
            disabled = await here.users.change(user.id, disabled=True)
            assert disabled is not None
            assert disabled.disabled_at == clock.ms
            here.forget()
            assert await here.find(cookie) is None
            clock.ms += 3_100
            assert await there.find(cookie) is None
            assert await code_of(enter(here, "ann")) == "bad_login"
            await here.users.change(user.id, disabled=False)
            assert await here.find(cookie) is None, "what has ended does not come back"
            assert await code_of(enter(here, "ann")) == "ok"

    asyncio.run(main())


def test_the_last_admin_stays_also_when_two_remove_each_other(database_url: str) -> None:
    async def main() -> None:
        async with process(database_url, Clock()) as here, process(database_url, Clock()) as there:
            one, _ = await admin_of(here, "one")
            changes: list[dict[str, Any]] = [{"role": "operator"}, {"disabled": True}]
            for change in changes:
                assert await code_of(here.users.change(one.id, **change)) == "last_admin"
            assert await code_of(here.users.delete(one.id)) == "last_admin"
            await here.users.create("invited", "admin", by="x")
            assert await code_of(here.users.delete(one.id)) == "last_admin", "who was only invited is none yet"
            assert await code_of(here.users.change(one.id, disabled=False)) == "ok"

            two, _ = await admin_of(here, "two")
            codes = await asyncio.gather(code_of(here.users.delete(one.id)), code_of(there.users.delete(two.id)))
            assert sorted(codes) == ["last_admin", "ok"]

    asyncio.run(main())


def test_the_first_account_is_made_once(database_url: str) -> None:
    async def main() -> None:
        async with process(database_url, Clock()) as logins:
            assert not await logins.users.any()
            tokens = [(await logins.users.link(None, by="serve", ttl_s=600))[0]]
            use: Any = {"address": "a", "client": ""}
            assert await code_of(logins.use_link(tokens[0], "", PASSWORD, **use)) == "bad_user_name"
            assert await code_of(logins.use_link(tokens[0], "ann", PASSWORD, first=False, **use)) == "bad_link"
            both = await asyncio.gather(
                *(code_of(logins.use_link(tokens[0], name, PASSWORD, **use)) for name in ("ann", "eve"))
            )
            assert sorted(both) == ["bad_link", "ok"]
            late, _ = await logins.users.link(None, by="serve", ttl_s=600)
            assert await code_of(logins.use_link(late, "eve2", PASSWORD, **use)) == "bad_link", "no longer the first"
            (user,) = await logins.users.all()
            assert user.role == "admin"

    asyncio.run(main())


def test_links_expire(database_url: str) -> None:
    async def main() -> None:
        clock = Clock()
        async with process(database_url, clock) as logins:
            user = await logins.users.create("ann", "viewer", by="x")
            token, expires_at = await logins.users.link(user.id, by="x", ttl_s=600)
            assert expires_at == clock.ms + 600_000
            clock.ms += 600_001
            assert await code_of(logins.use_link(token, "", PASSWORD, address="a", client="")) == "bad_link"

    asyncio.run(main())


@pytest.mark.parametrize(("step_ms", "steps", "good"), [(11 * HOUR_MS, 15, 15), (13 * HOUR_MS, 1, 0)])
def test_a_login_ends_when_it_is_idle_or_old(tmp_path: Any, step_ms: int, steps: int, good: int) -> None:
    async def main() -> None:
        clock = Clock()
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", clock) as logins:
            _, cookie = await admin_of(logins)
            lasted = 0
            for _ in range(steps):
                clock.ms += step_ms
                lasted += await logins.find(cookie) is not None
                await logins.users._store.writer.flush()
            assert lasted == good
            clock.ms += 4 * HOUR_MS
            assert await logins.find(cookie) is None, "seven days at most, however much it is used"

    asyncio.run(main())


def test_what_is_stored_opens_nothing(tmp_path: Any) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            user, cookie = await admin_of(logins)
            invited = await logins.users.create("bob", "viewer", by="x")
            link, _ = await logins.users.link(invited.id, by="x", ttl_s=60)
            stored = ""
            async with logins.users._store.reading() as connection:
                for table in (tables.users, tables.logins, tables.login_links):
                    stored += str((await connection.execute(select(table))).all())
            assert PASSWORD not in stored
            assert cookie not in stored
            assert link not in stored
            hashed = await logins.users.password(user.id)
            assert hashed is not None
            assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
            login = await logins.find(cookie)
            assert login is not None
            assert await logins.find(login.hash) is None, "nor does the hash itself"

    asyncio.run(main())


def test_another_password_ends_all_other_logins(tmp_path: Any) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            _, first = await admin_of(logins)
            second, login = await enter(logins, "ann")
            change: Any = {"address": "a"}
            assert await code_of(logins.change_password(login, "wrong", "battery staple", **change)) == "bad_login"
            assert await code_of(logins.change_password(login, PASSWORD, "ann", **change)) == "weak_password"
            assert await code_of(logins.change_password(login, PASSWORD, "battery staple", **change)) == "ok"
            assert await logins.find(first) is None
            assert await logins.find(second) is not None
            assert await code_of(enter(logins, "ann")) == "bad_login"
            assert await code_of(enter(logins, "ann", "battery staple")) == "ok"

    asyncio.run(main())


def test_who_has_very_many_logins_loses_the_oldest(tmp_path: Any) -> None:
    async def main() -> None:
        clock = Clock()
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", clock) as logins:
            user, first = await admin_of(logins)
            hashed = await logins.users.password(user.id)
            assert hashed is not None
            for _ in range(50):
                clock.ms += 1
                await logins.users.begin(user, hashed, address="", client="")
            assert len(await logins.users.logins(user.id)) == 50
            logins.forget()
            assert await logins.find(first) is None
            assert await logins.users.begin(user, "another hash", address="", client="") is None

    asyncio.run(main())


# -- guessing


def test_each_wrong_password_makes_the_next_wait_longer() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    waits = []
    for _ in range(12):
        try:
            guesses.take("name ann", "address a")
        except Delayed as delayed:
            waits.append(delayed.retry_after_s)
            clock.ms += delayed.retry_after_s * 1000
            guesses.take("name ann", "address a")
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert max(waits) == 60
    with pytest.raises(Delayed) as caught:
        guesses.take("name ann", "address b")
    assert caught.value.retryable
    guesses.take("name bob", "address c")
    with pytest.raises(Delayed):
        guesses.take("name bob", "address a")
    clock.ms += HOUR_MS + 1
    guesses.take("name ann", "address a")


def test_a_right_password_forgives_the_account_and_not_the_address() -> None:
    guesses = Guesses(Clock())
    for number in range(9):
        guesses.take(f"name {number}", "address a")
    guesses.take("name mine", "address a")
    guesses.right("name mine", "address a")
    guesses.take("name next", "address a")
    with pytest.raises(Delayed):
        guesses.take("name another", "address a")


def test_what_is_remembered_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins_module, "_MOST_GUESSED", 10)
    guesses = Guesses(Clock())
    for number in range(100):
        guesses.take(f"name {number}", f"address {number}")
    assert len(guesses._guessed) == 10


def test_many_guesses_at_once_are_no_more_than_many_in_a_row(tmp_path: Any) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            await admin_of(logins)
            codes = await asyncio.gather(*(code_of(enter(logins, "ann", f"guess {n}")) for n in range(20)))
            assert sorted(codes) == ["bad_login"] * 3 + ["login_delayed"] * 17
            assert await code_of(enter(logins, "ann")) == "login_delayed", "not even the right one is looked at"

    asyncio.run(main())


def test_an_unknown_name_takes_as_long_as_a_known_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            await admin_of(logins)
            checked: list[tuple[str, str]] = []
            is_right = logins_module._is_right

            def watched(hashed: str, password: str) -> bool:
                checked.append((hashed, threading.current_thread().name))
                return is_right(hashed, password)

            monkeypatch.setattr(logins_module, "_is_right", watched)
            for name in ("ann", "nobody"):
                assert await code_of(enter(logins, name, "wrong")) == "bad_login"
            kinds = {hashed.rpartition("$")[0].rpartition("$")[0] for hashed, _ in checked}
            assert (len(checked), len(kinds)) == (2, 1), "the same work, with the same parameters"
            assert {thread for _, thread in checked} == {"passwords_0"}, "never on the event loop"

    asyncio.run(main())


def test_passwords_do_not_hold_up_the_loop(tmp_path: Any) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            _, cookie = await admin_of(logins)
            login = await logins.find(cookie)
            assert login is not None
            checks = asyncio.gather(*(logins._verify("$argon2id$", PASSWORD) for _ in range(3)))
            began = time.perf_counter()
            await asyncio.sleep(0)
            assert not checks.done()
            assert time.perf_counter() - began < 0.5
            await checks

    asyncio.run(main())


@pytest.mark.parametrize("password", ["", "123456789", "x" * 257, "Ann.Example"])
def test_a_password_has_ten_characters_and_is_not_the_name(password: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_password(password, "ann.example")
    assert caught.value.code == "weak_password"
    assert caught.value.fix


def test_a_password_may_have_any_letters(tmp_path: Any) -> None:
    async def main() -> None:
        async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db", Clock()) as logins:
            user = await logins.users.create("ann", "viewer", by="x")
            token, _ = await logins.users.link(user.id, by="x", ttl_s=60)
            await logins.use_link(token, "", "Ünter den Linden", address="a", client="")
            assert await code_of(enter(logins, "ann", "Ünter den Linden")) == "ok", "the same letter, typed otherwise"
            assert await code_of(enter(logins, "ann", "\ud800" * 12)) == "bad_login"

    asyncio.run(main())


# -- the cookie


def test_the_cookie_is_for_this_host_and_for_no_script() -> None:
    assert set_cookie("http", "t") == "rejoinder=t; Path=/; HttpOnly; SameSite=Strict"
    assert set_cookie("https", "t") == "__Host-rejoinder=t; Path=/; HttpOnly; SameSite=Strict; Secure"
    assert "Max-Age=0" in set_cookie("http", "")
    assert cookie_name("https") != cookie_name("http")
    assert token_in("https", "rejoinder=evil") is None, "on https only the one that a browser vouches for"
    assert token_in("https", "a=b; __Host-rejoinder=t; c=d") == "t"
    assert token_in("http", "a=b; rejoinder=t") == "t"
    for header in ("", "a=b", "rejoinder=", "xrejoinder=t", "rejoinder"):
        assert token_in("http", header) is None


OWN, HOST = "http://127.0.0.1:8080", "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("method", "headers", "good"),
    [
        ("GET", {}, True),
        ("GET", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "none"}, True),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"sec-fetch-site": "same-site"}, False),
        ("GET", {"origin": "https://evil.example"}, False),
        ("POST", {}, False),
        ("POST", {"origin": OWN}, True),
        ("POST", {"origin": OWN, "sec-fetch-site": "same-origin"}, True),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("POST", {"sec-fetch-site": "none"}, False),
        ("POST", {"origin": OWN, "sec-fetch-site": "same-site"}, False),
        ("POST", {"origin": "http://127.0.0.1:3000"}, False),
        ("POST", {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://[broken"}, False),
        ("DELETE", {"origin": "https://evil.example"}, False),
    ],
)
def test_only_the_servers_own_pages_use_a_login(method: str, headers: dict[str, str], good: bool) -> None:
    def check() -> None:
        check_site(method, {"host": HOST, **headers})

    _expect(check, good)


@pytest.mark.parametrize(
    ("method", "given", "good"),
    [
        ("GET", "", True),
        ("HEAD", "", True),
        ("POST", "right", True),
        ("POST", "", False),
        ("POST", "é", False),
        ("PUT", "wrong", False),
    ],
)
def test_what_changes_something_brings_the_token(method: str, given: str, good: bool) -> None:
    _expect(lambda: check_token(method, {"x-csrf-token": given} if given else {}, "right"), good)


def _expect(check: Callable[[], None], good: bool) -> None:
    if good:
        check()
        return
    with pytest.raises(AuthError) as caught:
        check()
    assert caught.value.code == "csrf"
