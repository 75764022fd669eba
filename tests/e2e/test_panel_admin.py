"""The panel's administration in a real browser: agents, keys, plugins and their settings, webhooks, users, roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from tests.adapters.accounts_help import PASSWORD, invite
from tests.adapters.conftest import running
from tests.e2e.browser import Browser, browser

from rejoinder.settings import Auth, WebhookOptions

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

PLANTED = "sk-planted-7f3a9c"
"""Comes from the environment."""
TYPED = "tok-typed-51d0be"
"""Is typed into a form."""
VAULT = """
import msgspec
from typing import Annotated, Literal
from rejoinder import hookimpl
from rejoinder.providers import Secret


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    most: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3


class VaultSettings(msgspec.Struct, forbid_unknown_fields=True):
    token: Secret | None = None
    mode: Literal["fast", "good"] = "good"
    hosts: list[str] = []
    verbose: bool = False
    weight: float | None = 0.5
    limits: Limits = msgspec.field(default_factory=Limits)


@hookimpl
def register_settings():
    return {"vault": VaultSettings}


@hookimpl
def before_tts(session_id, agent, text):
    return text
"""
BROKEN = """
import not_installed_anywhere
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with accounts, a plugin that cannot be loaded, one with settings, and a secret in its environment."""
    folder = tmp_path_factory.mktemp("admin")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "vault.py").write_text(VAULT, encoding="utf-8")
    (plugins / "broken.py").write_text(BROKEN, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REJOINDER_PLUGINS__OPENAI__API_KEY", PLANTED)
        with running(
            folder / "panel.db",
            {},
            auth=Auth(dev_key_file=folder / "dev-key"),
            webhooks=WebhookOptions(allow_private=True),
            plugins_dir=plugins,
        ) as live:
            yield live


@pytest.fixture(scope="module")
def ada(server: LiveServer) -> str:
    """The first administrator; her name."""
    token = invite(server, "ada", "admin")
    with httpx.Client(base_url=server.http, headers={"origin": server.http}) as client:
        client.post("/admin/api/link", json={"token": token, "password": PASSWORD}).raise_for_status()
    return "ada"


def log_in(page: Page, server: LiveServer, name: str) -> None:
    page.goto(f"{server.http}/admin/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/admin/?$"))


@contextmanager
def at(server: LiveServer, name: str, path: str) -> Iterator[tuple[Browser, Page]]:
    """A browser where `name` is logged in, on a page of the panel; what it complains of fails the test."""
    with browser(taps=False, viewport={"width": 1280, "height": 900}) as chromium:
        page = chromium.page()
        log_in(page, server, name)
        # Nobody was logged in before: the one answer that says so is meant.
        chromium.complaints.clear()
        page.goto(f"{server.http}/admin{path}")
        page.wait_for_selector("main h1")
        yield chromium, page


def without_refusals(complaints: list[str]) -> list[str]:
    """What is left without the console's word on answers of 4xx, which are meant."""
    return [one for one in complaints if not re.search(r"status of (400|403|409|412|422)", one)]


def test_an_agent_is_made_edited_compared_and_tried(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/agents/scripted") as (chromium, page):
        expect(page.get_by_text("cannot be changed here")).to_be_visible()
        expect(page.get_by_label("Instructions", exact=True)).to_be_disabled()
        page.get_by_role("link", name="Copy to a new agent").click()
        page.get_by_label("Name").fill("Front Desk")
        page.get_by_label("Instructions", exact=True).fill("You are the front desk.")
        page.get_by_role("button", name="Make the agent").click()
        expect(page.get_by_text("is no name for an agent")).to_be_visible()
        page.get_by_label("Name").fill("frontdesk")
        page.get_by_role("button", name="Make the agent").click()
        page.wait_for_url("**/admin/agents/frontdesk")
        expect(page.get_by_text("version 1", exact=True)).to_be_visible()
        with httpx.Client(base_url=server.http) as client:
            assert client.get("/v1/agents/frontdesk").status_code == 401

        # The number is wrong by itself, then together with another one, then right.
        number = page.get_by_label("Silence: surely over (ms)", exact=True)
        number.fill("long")
        expect(page.get_by_text("This is no number.")).to_be_visible()
        expect(page.get_by_role("button", name="Save")).to_be_disabled()
        number.fill("5000")
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".section-problem")).to_contain_text("must not be larger than max_silence_ms")
        number.fill("180")
        page.get_by_label("Profile", exact=True).select_option("patient")
        expect(page.get_by_label("Words of an interruption", exact=True)).to_have_attribute("placeholder", "default: 2")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("version 2", exact=True)).to_be_visible()

        # A chain is put into another order with the keyboard.
        page.get_by_label("Language model (LLM)", exact=True).select_option("guide")
        page.get_by_role("button", name="guide: move up").focus()
        page.keyboard.press("Enter")
        page.get_by_role("tab", name="JSON").click()
        text = page.get_by_label("Definition as JSON").input_value()
        given = json.loads(text)
        assert given["llm"] == ["guide", "scripted"]
        assert given["turns"] == {**given["turns"], "profile": "patient", "min_silence_ms": 180}
        assert "max_tokens" not in given, "what has its default is not pinned"

        # What the server finds wrong is named with its line.
        page.get_by_label("Definition as JSON").fill(json.dumps({**given, "llm": ["gude"]}, indent=2))
        page.get_by_role("button", name="Save").click()
        wrong = page.locator(".wrong-list")
        expect(wrong).to_contain_text("llm")
        expect(wrong).to_contain_text(re.compile(r"line \d+"))
        page.get_by_role("tab", name="Form").click()
        expect(page.locator(".field.wrong")).to_contain_text("Language model (LLM)")
        page.get_by_role("tab", name="JSON").click()
        page.get_by_label("Definition as JSON").fill("{")
        expect(page.get_by_text("This is no JSON")).to_be_visible()
        page.get_by_label("Definition as JSON").fill(json.dumps({**given, "greeting": "Good <b>day</b>."}))

        # The draft is tried in a room of its own; nothing is stored.
        with chromium.context.expect_page() as opened:
            page.get_by_role("button", name="Try the draft").click()
        assert "/talk#session=ses_" in opened.value.url
        expect(page.get_by_role("link", name="Follow the session")).to_be_visible()
        opened.value.close()
        assert server.call(server.runtime.catalog.get("frontdesk")).version == 2

        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("version 3", exact=True)).to_be_visible()
        page.get_by_role("tab", name=re.compile("Versions")).click()
        diff = page.locator(".diff")
        expect(diff.locator("tr.new", has_text="greeting")).to_contain_text('"Good <b>day</b>."')
        page.get_by_role("button", name="Roll back to this: version 2").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back to this").click()
        expect(page.get_by_text("version 4", exact=True).first).to_be_visible()
        assert server.call(server.runtime.catalog.get("frontdesk")).definition.greeting == ""
        assert without_refusals(chromium.complaints) == []


def test_who_saves_over_anothers_change_sees_it_first(server: LiveServer, ada: str) -> None:
    catalog = server.runtime.catalog
    server.call(catalog.put("shared", {"instructions": "One."}, by="test"))
    with at(server, ada, "/agents/shared") as (chromium, page):
        page.get_by_label("Instructions", exact=True).fill("Mine.")
        server.call(catalog.put("shared", {"instructions": "Theirs."}, by="bob"))
        page.get_by_role("button", name="Save").click()
        dialog = page.get_by_role("dialog", name="Somebody else changed this agent")
        expect(dialog.locator("tr.gone", has_text="Theirs.")).to_be_visible()
        expect(dialog.locator("tr.new", has_text="Mine.")).to_be_visible()
        assert server.call(catalog.get("shared")).definition.instructions == "Theirs."
        dialog.get_by_role("button", name="Save mine anyway").click()
        expect(page.get_by_text("version 3", exact=True)).to_be_visible()
        assert server.call(catalog.get("shared")).definition.instructions == "Mine."
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.wait_for_url("**/admin/agents")
        assert without_refusals(chromium.complaints) == []


def test_a_key_is_shown_once_rotated_and_revoked(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/keys") as (chromium, page):
        page.get_by_role("button", name="New key").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("robot")
        dialog.get_by_label("talk", exact=True).check()
        dialog.get_by_role("button", name="Create").click()
        key = page.get_by_label("API key", exact=True).input_value()
        assert key.startswith("rj_")
        with httpx.Client(base_url=server.http, headers={"authorization": f"Bearer {key}"}) as client:
            assert client.get("/v1/agents").status_code == 200
            page.get_by_role("dialog").get_by_role("button", name="Done").click()
            row = page.get_by_role("row", name=re.compile("robot"))
            expect(row).to_be_visible()
            page.reload()
            expect(row).to_be_visible()
            assert key not in page.content()
            row.get_by_role("button", name="Rotate robot").click()
            page.get_by_role("dialog").get_by_label("The old key stays good for").select_option("0")
            page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
            fresh = page.get_by_label("API key", exact=True).input_value()
            page.get_by_role("dialog").get_by_role("button", name="Done").click()
            assert client.get("/v1/agents").status_code == 401
            client.headers["authorization"] = f"Bearer {fresh}"
            assert client.get("/v1/agents").status_code == 200
            row.get_by_role("button", name="Revoke robot").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            expect(row).to_have_count(0)
            assert client.get("/v1/agents").status_code == 401
        assert chromium.complaints == []


def test_a_password_is_asked_for_again_before_what_is_dangerous(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/keys") as (chromium, page):
        logins = server.runtime.gate.logins
        server.call(forget_proofs(server))
        logins.forget()
        page.get_by_role("button", name="New key").click()
        page.get_by_role("dialog").get_by_label("Name").fill("late")
        page.get_by_role("dialog").get_by_role("button", name="Create").click()
        asked = page.get_by_role("dialog", name="Your password again")
        asked.get_by_label("Password").fill("wrong horse")
        asked.get_by_role("button", name="Confirm").click()
        expect(asked).to_contain_text(re.compile("password", re.IGNORECASE))
        asked.get_by_label("Password").fill(PASSWORD)
        asked.get_by_role("button", name="Confirm").click()
        expect(page.get_by_label("API key", exact=True)).to_have_value(re.compile("^rj_"))
        assert without_refusals(chromium.complaints) == []


async def forget_proofs(server: LiveServer) -> None:
    """As if all passwords had been typed long ago."""
    from sqlalchemy import update

    from rejoinder.store import tables

    async with server.runtime.store.transaction() as connection:
        await connection.execute(update(tables.logins).values(proved_at=0))


def test_a_plugin_that_is_not_in_use_says_why_and_where(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/plugins") as (chromium, page):
        card = page.locator("li.plugin.failed")
        expect(card).to_contain_text("not_installed_anywhere")
        page.get_by_label("With problems").check(force=True)
        expect(page.locator("li.plugin")).to_have_count(1)
        card.get_by_role("link", name="broken").click()
        expect(page.get_by_text("None of it is in use.")).to_be_visible()
        expect(page.locator(".trouble pre")).to_contain_text(re.compile(r"broken\.py\", line 2"))
        assert chromium.complaints == []


def test_settings_of_a_plugin_go_round_and_no_secret_is_shown(server: LiveServer, ada: str) -> None:
    answers: list[str] = []

    def keep(route: Route) -> None:
        response = route.fetch()
        answers.append(response.text())
        route.fulfill(response=response)

    with at(server, ada, "/plugins/vault?tab=settings") as (chromium, page):
        page.route(re.compile(r"/(v1/(?!stream)|admin/api/)"), keep)
        page.reload()
        form = page.get_by_role("form", name="[plugins.vault]")
        form.get_by_label("mode", exact=True).select_option("fast")
        form.get_by_label("hosts", exact=True).fill("a.example\nb.example\n")
        form.get_by_role("switch", name="verbose").check()
        form.get_by_role("button", name="weight: none").click()
        form.get_by_label("token", exact=True).fill(TYPED)
        form.get_by_label("most", exact=True).fill("12")
        expect(form.get_by_text("It must be at most 9.")).to_be_visible()
        form.get_by_label("most", exact=True).fill("7")
        form.get_by_role("button", name="Save").click()
        expect(page.get_by_text(re.compile("The settings of vault are saved"))).to_be_visible()
        page.reload()
        expect(form.get_by_label("mode", exact=True)).to_have_value('"fast"')
        expect(form.get_by_label("hosts", exact=True)).to_have_value("a.example\nb.example")
        expect(form.get_by_role("switch", name="verbose")).to_be_checked()
        expect(form.get_by_role("button", name="weight: none")).to_have_attribute("aria-pressed", "true")
        expect(form.get_by_label("most", exact=True)).to_have_value("7")
        expect(form.get_by_text("A value is set.")).to_be_visible()
        section = server.runtime.plugin_settings.sections["vault"]
        assert section == {
            "token": TYPED,
            "mode": "fast",
            "hosts": ["a.example", "b.example"],
            "verbose": True,
            "weight": None,
            "limits": {"most": 7},
        }

        # Another change leaves the secret; it goes where that is asked for.
        form.get_by_role("button", name="Reset mode to its default").click()
        expect(form.get_by_label("mode", exact=True)).to_have_value("")
        form.get_by_role("button", name="Save").click()
        expect(form.get_by_text("Changes take effect for new calls.")).to_be_visible()
        expect(form.get_by_role("button", name="Save")).to_be_disabled()
        assert server.runtime.plugin_settings.sections["vault"]["token"] == TYPED
        assert "mode" not in server.runtime.plugin_settings.sections["vault"]
        form.get_by_role("button", name="Remove it").click()
        form.get_by_role("button", name="Save").click()
        expect(form.get_by_text("No value is set.")).to_be_visible()
        assert "token" not in server.runtime.plugin_settings.sections["vault"]

        # What the environment has cannot be changed here.
        for path in ("/plugins/openai?tab=settings", "/plugins/openai", "/settings?part=all&q=api_key", "/audit"):
            page.goto(f"{server.http}/admin{path}")
            page.wait_for_selector("main h1")
            expect(page.locator("main [aria-busy=true]")).to_have_count(0)
            assert PLANTED not in page.content()
            assert TYPED not in page.content()
            if path == "/plugins/openai?tab=settings":
                expect(page.get_by_label("api_key", exact=True)).to_be_disabled()
                expect(page.get_by_text(re.compile(r"^Set in .*; change it there\."))).to_be_visible()
            if "settings?" in path and "part" in path:
                expect(page.get_by_role("row", name=re.compile("openai.api_key.*is set"))).to_be_visible()
        assert len(answers) > 10
        assert not [answer for answer in answers if PLANTED in answer or TYPED in answer]
        assert without_refusals(chromium.complaints) == []


def test_a_webhook_is_made_tried_and_switched_off(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/webhooks") as (chromium, page):
        page.get_by_role("button", name="New webhook").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Address").fill(f"{server.http}/nowhere")
        dialog.get_by_label("Events").fill("session.startd")
        dialog.get_by_role("button", name="Create").click()
        expect(dialog.get_by_role("alert")).to_contain_text("session.started")
        dialog.get_by_label("Events").fill("session.started\nsession.ended")
        dialog.get_by_role("button", name="Create").click()
        secret = page.get_by_label("Signing secret", exact=True).input_value()
        assert secret.startswith("whsec_")
        page.get_by_role("dialog").get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Send a test event").click()
        row = page.get_by_role("row", name=re.compile(r"webhook\.test"))
        expect(row).to_contain_text(re.compile("404|405"), timeout=10_000)
        row.get_by_role("button", name="webhook.test", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text("webhook.test")
        page.keyboard.press("Escape")
        expect(row.get_by_role("button", name="webhook.test", exact=True)).to_be_focused()
        page.get_by_role("button", name="Disable").click()
        expect(page.get_by_role("button", name="Enable")).to_be_visible()
        expect(page.get_by_role("button", name="Send a test event")).to_be_disabled()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text("There are no webhooks.")).to_be_visible()
        assert secret not in page.content()
        assert without_refusals(chromium.complaints) == []


def test_latency_is_shown_as_far_as_there_are_turns_for_it(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/latency") as (chromium, page):
        expect(page.get_by_text("No turn was measured in this range.")).to_be_visible()
        with httpx.Client(base_url=server.http, headers={"accept": "application/json"}) as client:
            client.headers["authorization"] = f"Bearer {made_key(server)}"
            for _ in range(3):
                client.post("/v1/chat", json={"text": "Hello.", "agent": "scripted"}).raise_for_status()
        server.call(server.runtime.store.writer.flush())
        page.goto(f"{server.http}/admin/latency?range=1h")
        expect(page.get_by_text("needs 20 turns")).to_be_visible()
        expect(page.get_by_text("needs 100 turns")).to_be_visible()
        page.get_by_role("button", name="Response time over time: show as a table").click()
        table = page.get_by_role("group", name="Response time over time")
        expect(table.get_by_role("row").nth(1).get_by_role("cell").nth(0)).to_have_text("3")
        chart = page.get_by_role("application", name="How often which response time")
        chart.focus()
        expect(page.locator(".heatmap-foot")).to_contain_text(re.compile(r"\d turns?"))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/admin/sessions\?since=\d+&until=\d+&min_ms=\d+"))
        page.go_back()
        turn = page.locator("table", has_text="Main cause").locator("tbody tr")
        turn.first.get_by_role("link").click()
        page.wait_for_url(re.compile(r"/admin/sessions/ses_\w+\?turn="))
        assert chromium.complaints == []


def made_key(server: LiveServer) -> str:
    return server.call(server.runtime.gate.keys.create("test", ["talk"]))[1]


def test_a_room_has_links_for_people(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/rooms") as (chromium, page):
        page.get_by_role("button", name="New room").click()
        page.get_by_role("dialog").get_by_role("button", name="Make the room").click()
        link = page.get_by_label("Link", exact=True)
        expect(link).to_have_value(re.compile("/talk#session=ses_.*token="))
        page.get_by_role("dialog").get_by_role("button", name="Done").click()
        row = page.get_by_role("row", name=re.compile("waiting")).first
        row.get_by_role("button", name=re.compile("Invite")).click()
        page.get_by_role("dialog").get_by_label("Role").select_option("listener")
        page.get_by_role("dialog").get_by_role("button", name="Make a link").click()
        expect(page.get_by_role("dialog")).to_contain_text("Role listener")
        assert chromium.complaints == []


def test_who_is_invited_sees_and_does_what_the_role_allows(server: LiveServer, ada: str) -> None:
    with at(server, ada, "/users") as (chromium, page):
        page.get_by_role("button", name="Invite").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("vera")
        dialog.get_by_label("Role").select_option("viewer")
        dialog.get_by_role("button", name="Make the account").click()
        link = page.get_by_label("Login link", exact=True).input_value()
        page.get_by_role("dialog").get_by_role("button", name="Done").click()
        vera = page.get_by_role("row", name=re.compile("vera"))
        expect(vera).to_contain_text("invited")

        # The last administrator stays one.
        ada_row = page.get_by_role("row", name=re.compile("ada"))
        ada_row.get_by_role("button", name="Disable").click()
        page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(re.compile("last_admin"))
        page.keyboard.press("Escape")

        other = chromium.context.browser
        assert other is not None
        context: BrowserContext = other.new_context(viewport={"width": 1280, "height": 900})
        hers = context.new_page()
        hers.goto(link)
        for field in hers.locator("input[type=password]").all():
            field.fill(PASSWORD)
        hers.keyboard.press("Enter")
        hers.wait_for_url(re.compile("/admin/?$"))
        rail = hers.get_by_role("navigation", name="Pages")
        expect(rail.get_by_role("link", name="Latency")).to_be_visible()
        for name in ("API keys", "Users", "Webhooks", "Audit log", "Settings"):
            expect(rail.get_by_role("link", name=name)).to_have_count(0)
        hers.goto(f"{server.http}/admin/users")
        expect(hers.get_by_text("Your role does not allow this page.")).to_be_visible()
        hers.goto(f"{server.http}/admin/agents")
        expect(hers.get_by_role("link", name="guide")).to_be_visible()
        expect(hers.get_by_role("link", name="New agent")).to_have_count(0)
        hers.goto(f"{server.http}/admin/plugins/broken")
        expect(hers.get_by_text("Administrators see the place and the traceback.")).to_be_visible()
        refused = hers.evaluate(
            """async () => {
              const { csrf } = await (await fetch("/admin/api/me")).json();
              const headers = { "content-type": "application/json", "x-csrf-token": csrf };
              const say = (method, path, body) => fetch(path, { method, headers, body: JSON.stringify(body) });
              const answers = await Promise.all([
                fetch("/v1/keys"), fetch("/v1/users"), fetch("/v1/settings"), fetch("/v1/audit"),
                say("PUT", "/v1/agents/mine", { instructions: "x" }),
                say("POST", "/v1/keys", { name: "k", scopes: ["admin"] }),
                say("PUT", "/v1/plugin_settings/vault", { values: {} }), say("POST", "/v1/rooms", {}),
              ]);
              return answers.map((answer) => answer.status);
            }"""
        )
        assert refused == [403] * 8

        # It holds at once: another role, and none.
        page.reload()
        expect(vera).to_contain_text("active")
        vera.get_by_role("button", name="Change role").click()
        page.get_by_role("dialog").get_by_label("Role").select_option("developer")
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(vera).to_contain_text("developer")
        hers.goto(f"{server.http}/admin/agents")
        expect(hers.get_by_role("link", name="New agent")).to_be_visible()
        vera.get_by_role("button", name="Disable").click()
        page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        expect(vera).to_contain_text("disabled")
        hers.goto(f"{server.http}/admin/agents")
        expect(hers.get_by_label("Password", exact=True)).to_be_visible()
        context.close()

        page.goto(f"{server.http}/admin/audit?action=user.change")
        expect(page.get_by_role("row", name=re.compile("user.change.*developer"))).to_be_visible()
        assert without_refusals(chromium.complaints) == []
