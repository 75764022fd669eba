"""The panel's sessions in a real browser: figures as in SQL, text that stays text, steering, the keyboard."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Dialog, Page, expect
from tests.adapters.accounts_help import PASSWORD, invite
from tests.adapters.conftest import AGENT, Caller, running
from tests.e2e.browser import Browser, browser
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from rejoinder.audio import byte_count
from rejoinder.settings import Auth, Limits, Recording
from rejoinder.testing.scripted import noise, silence

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

    from rejoinder.store.users import AccountRole

SAID = "<img src=x onerror=\"alert('said')\"> tell me"
ANSWER = "<script>alert('answer')</script> It is on its way, and it will be with you before long."
RESULT = "<iframe srcdoc=\"<script>alert('result')</script>\"></iframe>"
CLIENT = "<svg onload=alert('client')>"
AGENT_NAME = "<img src=x onerror=alert('agent')>"
PLUGIN = f"""
from rejoinder import hookimpl
from rejoinder.providers import Provider, Tool, ToolCall
from rejoinder.testing.scripted import ScriptedLlm

def script(request):
    if request.messages[-1].role == "user":
        yield ToolCall("call_1", "look", '{{"what": "<b>it</b>"}}')
    else:
        yield 0.03
        for word in {ANSWER!r}.split():
            yield word + " "

async def look(arguments, context):
    return {RESULT!r}

@hookimpl
def register_providers():
    return [Provider("llm", "marked_up", "answers with markup", lambda context: ScriptedLlm(script))]

@hookimpl
def register_tools():
    return [Tool("look", "Looks.", look)]
"""
TALKER = AGENT.model_copy(update={"llm": ("marked_up",), "tools": ("look",), "recording": Recording(enabled=True)})


class Voice:
    """Somebody who calls, on a thread of their own, and stays until `hang_up()`."""

    def __init__(self, server: LiveServer, key: str, turns: int) -> None:
        self.session_id = ""
        self.log: list[dict[str, Any] | bytes] = []
        self.spoke = threading.Event()
        self.closed = threading.Event()
        self._server, self._key, self._turns = server, key, turns
        self._leave = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="caller")
        self._thread.start()
        assert self.spoke.wait(30), self._failed
        assert not self._failed

    def hang_up(self) -> None:
        self._leave.set()
        self._thread.join(20)
        assert not self._failed

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.log if isinstance(item, dict) and item["type"] == kind]

    def _run(self) -> None:
        try:
            asyncio.run(self._call())
        except BaseException as error:  # noqa: BLE001 - told to the test
            self._failed.append(error)
        finally:
            self.spoke.set()
            self.closed.set()

    async def _call(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        async with connect(
            self._server.ws + "/ws/audio",
            additional_headers=headers,
            user_agent_header=CLIENT,
            compression=None,
            proxy=None,
            max_queue=None,
        ) as ws:
            caller = Caller(ws)
            self.log = caller.log
            await caller.tell("session.configure", agent="talker", output_rate=16_000)
            self.session_id = (await caller.until("session.started"))["session_id"]
            for _ in range(self._turns):
                for pcm in (noise(400), silence(400)):
                    for at in range(0, len(pcm), byte_count(20, 16_000)):
                        await ws.send(pcm[at : at + byte_count(20, 16_000)])
                        await asyncio.sleep(0.02)
                await caller.until("reply.finished")
            self.spoke.set()
            reading = asyncio.create_task(caller.until_closed(120))
            while not self._leave.is_set() and not reading.done():
                # Loud, but for the VAD too short to be speech: whoever listens in hears something.
                with suppress(ConnectionClosed):
                    await ws.send(noise(20, level=900))
                await asyncio.sleep(0.02)
            if not reading.done():
                with suppress(ConnectionClosed):
                    await caller.tell("end")
            await reading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("panel-sessions")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LiveServer]:
    """A server that records, with an LLM and a tool that answer in markup, and a clear caller in the same manner."""
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "marked_up.py").write_text(PLUGIN, encoding="utf-8")
    with running(
        folder / "panel.db",
        {"transcript": SAID, "ms_per_word": 60, "first_audio_ms": 20},
        auth=Auth(dev_key_file=folder / "dev-key"),
        limits=Limits(idle_s=60),
        agents={"talker": TALKER},
        plugins_dir=plugins,
        recordings_dir=folder / "recordings",
    ) as live:
        yield live


@pytest.fixture(scope="module")
def key(server: LiveServer) -> str:
    return str(server.call(server.runtime.gate.keys.create("caller", ["talk"]))[1])


@pytest.fixture(scope="module")
def over(server: LiveServer, key: str, folder: Path) -> str:
    """A conversation of two turns that is over and recorded, and whose agent has a name that nobody may give one."""
    voice = Voice(server, key, turns=2)
    voice.hang_up()
    session_id = voice.session_id
    server.call(server.runtime.store.writer.flush())
    wait_until(
        lambda: query(folder, "SELECT duration_ms FROM recordings WHERE session_id = ?", session_id)[0][0] is not None
    )
    with sqlite3.connect(folder / "panel.db", timeout=20) as database:
        database.execute("UPDATE sessions SET agent = ? WHERE id = ?", (AGENT_NAME, session_id))
    return session_id


@pytest.fixture(scope="module")
def chrome(server: LiveServer) -> Iterator[Browser]:
    with browser(viewport={"width": 1280, "height": 800}) as found:
        yield found


def wait_until(true: Callable[[], bool]) -> None:
    timer = threading.Event()
    for _ in range(400):
        if true():
            return
        timer.wait(0.05)
    raise AssertionError("it does not come true")


def query(folder: Path, sql: str, *values: Any) -> list[Any]:
    with sqlite3.connect(folder / "panel.db", timeout=20) as database:
        return database.execute(sql, values).fetchall()


@contextmanager
def person(chrome: Browser, server: LiveServer, name: str, role: AccountRole) -> Iterator[Page]:
    """Somebody with a browser of their own, who has come by a link and chosen a password; no dialog may open."""
    assert chrome.context.browser is not None
    context = chrome.context.browser.new_context(viewport={"width": 1280, "height": 800})
    page = Browser(context, chrome.complaints).page()
    dialogs: list[str] = []

    def opened(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", opened)
    page.goto(f"{server.http}/admin/login#token={invite(server, name, role)}")
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    assert "token" not in page.url
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/admin/?$"))
    try:
        yield page
    finally:
        context.close()
        assert dialogs == []


@pytest.fixture(scope="module")
def admin(chrome: Browser, server: LiveServer) -> Iterator[Page]:
    with person(chrome, server, "ada", "admin") as page:
        yield page


def to(page: Page, server: LiveServer, path: str) -> None:
    page.goto(server.http + "/admin" + path)
    page.wait_for_selector("main h1")
    expect(page.locator("main [aria-busy=true]")).to_have_count(0)


def unexpected(chrome: Browser) -> list[str]:
    """Complaints of pages, but that nobody was logged in when they began."""
    return [one for one in chrome.complaints if "401 (Unauthorized)" not in one]


def exact_ms(us: int) -> str:
    return f"{us / 1000:,.3f}".rstrip("0").rstrip(".") + " ms"


def test_the_waterfall_is_the_response_exactly_and_as_in_sql(
    admin: Page, server: LiveServer, over: str, folder: Path
) -> None:
    turns = query(
        folder,
        "SELECT id, response_us FROM turns WHERE session_id = ? AND response_us IS NOT NULL ORDER BY number",
        over,
    )
    assert len(turns) == 2
    for turn_id, response_us in turns:
        spans = query(folder, "SELECT name, us, hidden FROM spans WHERE turn_id = ? ORDER BY position", turn_id)
        assert sum(us for _, us, _ in spans) == response_us
        to(admin, server, f"/sessions/{over}?turn={turn_id}")
        rows = admin.locator("[data-span]")
        expect(rows).to_have_count(len(spans))
        for row, (name, us, hidden) in zip(rows.all(), spans, strict=True):
            assert (row.get_attribute("data-span"), row.get_attribute("data-us")) == (name, str(us))
            assert row.locator("td").first.inner_text() == exact_ms(us)
            assert (row.locator(".hatched").count() == 1) is bool(hidden)
        assert admin.locator("[data-sum]").get_attribute("data-sum") == str(response_us)
        assert admin.locator("[data-sum] td").first.inner_text() == exact_ms(response_us)
        # The bars: each begins where the one before it ended, and the last ends where the sum does.
        bars = [bar.bounding_box() for bar in admin.locator("[data-span] .bar:not(.hatched)").all()]
        whole = admin.locator(".bar.sum").bounding_box()
        assert whole is not None
        reached = whole["x"]
        for bar, (_, us, _) in zip(bars, [span for span in spans if not span[2]], strict=True):
            assert bar is not None
            assert bar["x"] == pytest.approx(reached, abs=1)
            reached += us / response_us * whole["width"]
        assert reached == pytest.approx(whole["x"] + whole["width"], abs=1)
        chip = admin.locator(f"[data-turn={turn_id}] .chip")
        assert chip.inner_text().strip() == f"{round(response_us / 1000):,} ms"


def test_the_list_has_the_figures_of_sql(admin: Page, server: LiveServer, over: str, folder: Path) -> None:
    ((count, slowest),) = query(folder, "SELECT count(*), max(response_us) FROM turns WHERE session_id = ?", over)
    to(admin, server, "/sessions?live=false")
    row = admin.locator("tr", has=admin.locator(f'a[href$="{over}"]'))
    cells = row.locator("td").all_inner_texts()
    assert cells[3] == str(count)
    assert f"{round(slowest / 1000):,} ms" in cells[5]


def test_what_was_stored_stays_text(admin: Page, server: LiveServer, over: str, chrome: Browser) -> None:
    del chrome.complaints[:]
    for path in (
        "/sessions",
        f"/sessions/{over}",
        f"/sessions/{over}?tab=turns",
        f"/sessions/{over}?tab=events",
        f"/sessions/{over}?tab=llm",
        f"/sessions/{over}?tab=raw",
        "/sessions?q=onerror",
        "/",
    ):
        to(admin, server, path)
        for _ in range(4):
            # What is in those that were closed comes when they are opened, and may be closed itself.
            admin.evaluate("document.querySelectorAll('main details:not([open])').forEach((one) => (one.open = true))")
            admin.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        made = "img, iframe, script:not([src]), svg[onload], [onerror], main b, main script"
        assert admin.locator(made).count() == 0, path
    to(admin, server, f"/sessions/{over}")
    admin.locator("details.tool summary").first.click()
    text = admin.locator("main").inner_text()
    for said in (SAID, AGENT_NAME, CLIENT, RESULT, ANSWER):
        assert said in text, said
    assert unexpected(chrome) == []


def test_two_operators_steer_a_session(server: LiveServer, key: str, chrome: Browser, folder: Path) -> None:
    voice = Voice(server, key, turns=1)
    try:
        with (
            person(chrome, server, "ann", "operator") as ann,
            person(chrome, server, "bob", "operator") as bob,
            person(chrome, server, "vic", "viewer") as vic,
        ):
            for page in (ann, bob, vic):
                to(page, server, "/live")
                page.get_by_role("link", name="talker").click()
                expect(page.locator(".drawer .transcript")).to_contain_text(SAID)
            # Who may only look has nothing to do it with.
            assert vic.locator(".drawer button").count() == 1
            ann.get_by_role("button", name="Take over").click()
            expect(ann.get_by_role("button", name="Hand back")).to_be_visible()
            for page in (bob, vic):
                expect(page.locator(".drawer-acts, .live-table").first).to_contain_text("ann")
            expect(bob.locator(".drawer")).to_contain_text("ann has taken over.")
            expect(bob.get_by_role("button", name="Take over")).to_be_disabled()
            ann.get_by_label("Text").fill("This is Ann speaking.")
            ann.keyboard.press("Enter")
            for page in (ann, bob):
                expect(page.locator(".said-who.operator", has_text="ann")).to_be_visible()
                expect(page.locator(".transcript")).to_contain_text("This is Ann speaking.")
            expect(ann.get_by_label("Text")).to_have_value("")
            ann.get_by_role("button", name="Hand back").click()
            expect(ann.get_by_role("button", name="Take over")).to_be_visible()
            expect(bob.get_by_role("button", name="Take over")).to_be_enabled()
            bob.get_by_label("Text").fill("They are a good customer.")
            bob.locator(".composer button[type=submit]").click()
            expect(bob.locator("[role=status]").filter(has_text="The agent knows it.")).to_be_visible()
            bob.get_by_role("button", name="Listen in").click()
            expect(bob.get_by_role("button", name="Stop listening")).to_be_visible()
            meter = bob.locator(".meter.user .meter-track > div")
            expect(meter).to_have_attribute("style", re.compile(r"scaleX\((0\.[1-9]|1)"))
            expect(ann.locator(".drawer-head")).to_contain_text("1 listens")
            bob.get_by_role("button", name="Stop listening").click()
            ann.get_by_role("button", name="End", exact=True).click()
            ann.get_by_label("Reason").fill("closing time")
            ann.get_by_role("button", name="End the session").click()
            for page in (ann, bob, vic):
                expect(page.locator(".drawer")).to_contain_text("The session is over: closing time.")
        assert voice.closed.wait(10)
    finally:
        voice.hang_up()
    server.call(server.runtime.store.writer.flush())
    assert query(folder, "SELECT end_reason FROM sessions WHERE id = ?", voice.session_id) == [("closing time",)]
    assert "This is Ann speaking." in "".join(event["delta"] for event in voice.heard("reply.text"))
    actions = {
        (actor, action)
        for actor, action in query(folder, "SELECT actor_name, action FROM audit WHERE subject = ?", voice.session_id)
    }
    assert actions >= {
        ("ann", "session.takeover"),
        ("ann", "session.say"),
        ("ann", "session.handback"),
        ("ann", "session.end"),
        ("bob", "session.whisper"),
        ("bob", "session.listen"),
    }
    assert unexpected(chrome) == []


def test_closing_the_drawer_hands_back(server: LiveServer, key: str, admin: Page) -> None:
    voice = Voice(server, key, turns=0)
    try:
        to(admin, server, f"/live?session={voice.session_id}")
        admin.get_by_role("button", name="Take over").click()
        expect(admin.get_by_role("button", name="Hand back")).to_be_visible()
        session = server.runtime.sessions[voice.session_id]
        assert session.operator is not None
        admin.keyboard.press("Escape")
        expect(admin.locator(".drawer")).to_have_count(0)
        wait_until(lambda: session.operator is None)
    finally:
        voice.hang_up()


def test_the_keyboard_alone_opens_a_session_and_plays_it(admin: Page, server: LiveServer, over: str) -> None:
    to(admin, server, "/")
    admin.keyboard.press("Control+k")
    admin.keyboard.type(over)
    expect(admin.get_by_role("option").first).to_contain_text(over)
    admin.keyboard.press("Enter")
    admin.wait_for_url(f"{server.http}/admin/sessions/{over}")
    slider = admin.get_by_role("slider", name="Timeline: seek")
    expect(slider).to_have_attribute("aria-valuenow", "0")
    admin.keyboard.press(" ")
    expect(admin.get_by_role("button", name="Pause")).to_be_visible()
    expect(slider).not_to_have_attribute("aria-valuenow", "0")
    admin.keyboard.press("k")
    expect(admin.get_by_role("button", name="Play", exact=True)).to_be_visible()
    # Through the list: one stop of Tab, arrows from row to row.
    to(admin, server, "/sessions?live=false")
    admin.get_by_role("searchbox").focus()
    for _ in range(30):
        admin.keyboard.press("Tab")
        if admin.evaluate("document.activeElement.matches('.row-open')"):
            break
    admin.keyboard.press("End")
    admin.keyboard.press("Home")
    admin.keyboard.press("Enter")
    admin.wait_for_url(re.compile("/admin/sessions/ses_"))


def test_a_turn_that_was_not_heard_to_its_end_is_struck_through(server: LiveServer, key: str, admin: Page) -> None:
    voice = Voice(server, key, turns=0)
    try:
        to(admin, server, f"/live?session={voice.session_id}")
        admin.get_by_role("radio", name="Say").check(force=True)
        admin.get_by_label("Text").fill("one two three four five six seven eight nine ten " * 6)
        admin.keyboard.press("Enter")
        expect(admin.locator(".transcript")).to_contain_text("one two three")
        admin.get_by_role("button", name="Interrupt").click()
        expect(admin.locator(".transcript del")).to_contain_text("ten")
        expect(admin.locator(".transcript")).to_contain_text("interrupted")
    finally:
        voice.hang_up()


def test_who_is_logged_out_comes_back_to_where_they_were(server: LiveServer, over: str, chrome: Browser) -> None:
    with person(chrome, server, "lou", "viewer") as page:
        to(page, server, f"/sessions/{over}?tab=turns")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(re.compile("/admin/login"))
        page.get_by_label("Name").fill("lou")
        page.get_by_label("Password", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="password")).to_be_visible()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{server.http}/admin/sessions/{over}?tab=turns")
        expect(page.get_by_role("tab", name="Turns")).to_have_attribute("aria-selected", "true")
