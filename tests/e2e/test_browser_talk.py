"""Talking in a browser: a real Chromium on /talk, a human voice into its microphone, speech out of its loudspeaker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soxr
from playwright.sync_api import Page, expect
from tests.e2e.browser import Browser, browser, events, spoken, tapped
from tests.e2e.cutting import cuttable
from tests.e2e.test_voice import SPEECH, likeness, transcribe, words

from rejoinder.audio import read_wav
from rejoinder.commands.ownserver import OwnServer, own_server

pytestmark = pytest.mark.models

QUESTION, OBJECTION = "conf-enteringno.wav", "agent-alreadyon.wav"
SILENCE_AFTER_CLEAR_MS = 200


@pytest.fixture(scope="module")
def recordings() -> dict[str, str]:
    """What is said in the recordings of a human voice."""
    transcripts = SPEECH / "transcripts.tsv"
    if not transcripts.exists():
        message = "recorded speech is missing: run `python tests/fetch_speech.py .speech` (needs Debian's apt-get)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return dict(line.split("\t") for line in transcripts.read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    database = tmp_path_factory.mktemp("browser") / "browser.db"
    environment = {"REJOINDER_DATABASE_URL": f"sqlite+aiosqlite:///{database}"}
    with own_server(environment, inherit=False, core=None, realtime=False, ready_s=120) as running:
        yield running


def address(server: OwnServer, path: str = "/talk") -> str:
    return server.url.replace("ws://", "http://") + path


def call(page: Page, url: str) -> None:
    """Open the page and press the button."""
    page.goto(url)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#connection")).to_contain_text("Connected")


def write(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def of_type(page: Page, kind: str) -> list[dict[str, object]]:
    return [event for event in events(page) if event["type"] == kind]


def wait_for(page: Page, kind: str, count: int = 1, timeout_s: float = 60) -> None:
    page.wait_for_function(
        "([kind, count]) => window.rejoinderTap.events.filter(({ type }) => type === kind).length >= count",
        arg=[kind, count],
        timeout=timeout_s * 1000,
    )


def heard_until(page: Page, clock_s: float) -> None:
    """Wait for that time on the audio thread's clock, which is the microphone's."""
    page.wait_for_function("(until) => window.rejoinderTap.context?.currentTime > until", arg=clock_s)


def counts_to(page: Page, number: str) -> None:
    expect(page.locator(".said.agent").first).to_contain_text(number)


def test_a_human_question_is_answered_in_speech(server: OwnServer, recordings: dict[str, str], tmp_path: Path) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 2.0, SPEECH / QUESTION, 120.0)
    with browser(microphone=microphone) as chromium:
        page = chromium.page()
        call(page, address(server))
        wait_for(page, "turn.metrics")
        finished = of_type(page, "reply.finished")[0]
        user, agent = page.locator(".said.user"), page.locator(".said.agent")
        assert likeness(user.first.inner_text(), recordings[QUESTION]) > 0.7
        caption = agent.first.locator("p").inner_text()
        assert words(caption) == words(str(finished["text"])) == words(str(finished["heard_text"]))

        sound = tapped(page, "speaker")
        start = sound.first_sound_s(0)
        assert start is not None
        end = sound.last_sound_s(start, start + 120, floor=0.005)
        assert end is not None
        played_s = float(str(finished["played_ms"])) / 1000
        assert 0.6 * played_s < end - start < played_s + 0.6

        # Where the time went, on demand.
        latency = agent.first.get_by_role("button")
        assert latency.inner_text().endswith(" ms")
        expect(agent.first.locator("dl")).to_be_hidden()
        latency.click()
        expect(agent.first.get_by_text("Silence until the turn is over")).to_be_visible()
        assert chromium.complaints == []
    pcm = soxr.resample(sound.cut(start - 0.2, end + 0.3), sound.rate, 16_000)
    said = transcribe((np.clip(pcm, -1, 1) * 32767).astype(np.int16).tobytes())
    assert likeness(said, caption) > 0.7, f"{said!r} was played, {caption!r} is written"


def test_a_human_voice_interrupts_and_the_page_is_silent_at_once(
    server: OwnServer, recordings: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 7.0, SPEECH / OBJECTION, 120.0)
    with browser(microphone=microphone) as chromium:
        page = chromium.page()
        call(page, address(server))
        write(page, "count to thirty")
        wait_for(page, "turn.committed", 2)
        wait_for(page, "reply.finished")

        sound, voice = tapped(page, "speaker"), tapped(page, "microphone")
        cleared = float(str(of_type(page, "clear_audio")[0]["clock"]))
        began = voice.first_sound_s(5.0)
        silent = sound.last_sound_s(cleared - 1.0, cleared + 1.0)
        assert began is not None
        assert silent is not None
        after_clear, after_voice = (silent - cleared) * 1000, (silent - began) * 1000
        with capsys.disabled():
            print(f"\nsilent {after_clear:.0f} ms after clear_audio came, {after_voice:.0f} ms after the voice began")
        assert -20 < after_clear < SILENCE_AFTER_CLEAR_MS
        assert 0 < after_voice < 1_500

        finished = of_type(page, "reply.finished")[0]
        assert finished["reason"] == "interrupted"
        assert not finished.get("estimated")
        first = page.locator(".said.agent").first
        cut = first.locator("del").inner_text().replace("(not heard:)", "")
        heard = first.locator("p").evaluate("p => p.firstChild.textContent")
        assert words(heard) == words(str(finished["heard_text"]))
        assert "one, two, three" in heard.lower()
        assert cut.strip()
        expect(first.get_by_text("interrupted")).to_be_visible()
        # The place that the page reported is the one where it fell silent.
        started = sound.first_sound_s(0)
        assert started is not None
        assert abs((silent - started) * 1000 - float(str(finished["played_ms"]))) < 400
        assert likeness(page.locator(".said.user").last.inner_text(), recordings[OBJECTION]) > 0.7
        assert chromium.complaints == []


def test_escape_stops_the_answer_and_mute_closes_the_microphone(server: OwnServer, tmp_path: Path) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 120.0)
    with browser(microphone=microphone) as chromium:
        page = chromium.page()
        call(page, address(server))
        write(page, "count to thirty")
        counts_to(page, "three")
        page.get_by_role("button", name="Mute").click()
        expect(page.get_by_role("button", name="Unmute")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Escape")
        wait_for(page, "reply.finished")
        assert of_type(page, "reply.finished")[0]["reason"] == "interrupted"
        page.get_by_role("button", name="End", exact=True).click()
        expect(page.get_by_role("button", name="Talk again")).to_be_visible()
        assert page.evaluate("() => window.rejoinderTap.context?.state") == "closed"
        assert chromium.complaints == []


def test_with_push_to_talk_only_what_is_said_while_the_space_bar_is_held_is_heard(
    server: OwnServer, recordings: dict[str, str], tmp_path: Path
) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 3.0, SPEECH / OBJECTION, 3.0, SPEECH / QUESTION, 120.0)
    with browser(microphone=microphone) as chromium:
        page = chromium.page()
        page.goto(address(server))
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Push to talk").check()
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Start talking").click()
        expect(page.get_by_role("button", name="Hold to talk")).to_be_visible()
        # Until the first recording is over, on the clock of the microphone.
        first_s = 3.0 + len(read_wav(SPEECH / OBJECTION, 16_000)[0]) / 32_000 + 1.0
        heard_until(page, first_s)
        assert of_type(page, "user.speech_started") == []
        page.locator("#log").focus()
        page.keyboard.down("Space")
        wait_for(page, "user.transcript")
        heard_until(page, first_s + 5)
        page.keyboard.up("Space")
        wait_for(page, "turn.committed")
        assert likeness(str(of_type(page, "turn.committed")[0]["text"]), recordings[QUESTION]) > 0.7
        assert chromium.complaints == []


def test_a_connection_that_breaks_is_resumed_and_the_answer_goes_on(server: OwnServer, tmp_path: Path) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 120.0)
    port = urlsplit(server.url).port
    assert port is not None
    with cuttable(port) as proxy, browser(microphone=microphone) as chromium:
        page = chromium.page()
        call(page, f"http://127.0.0.1:{proxy.port}/talk")
        write(page, "count to twenty")
        counts_to(page, "three")
        heard_until(page, page.evaluate("() => window.rejoinderTap.context.currentTime") + 1.5)
        assert proxy.cut() >= 1
        wait_for(page, "session.started", 2, timeout_s=20)
        again = of_type(page, "session.started")[1]
        assert again["resumed"] is True
        expect(page.locator("#connection")).to_contain_text("Connected")
        wait_for(page, "reply.finished")
        finished = of_type(page, "reply.finished")[0]
        assert finished["reason"] == "completed"
        assert "twenty" in str(finished["heard_text"]).lower()
        assert page.locator(".said.agent").count() == 1
        sound = tapped(page, "speaker")
        assert sound.first_sound_s(float(str(again["clock"])) + 0.05) is not None, "it is heard again"
        seqs = [event["seq"] for event in events(page) if event.get("seq") and not event.get("resumed")]
        assert seqs == sorted(set(seqs)), "nothing is told twice"


def test_who_may_not_use_the_microphone_is_told_how_to(server: OwnServer) -> None:
    with browser(allow=False) as chromium:
        page = press(chromium, address(server))
        notice = page.get_by_role("alert")
        expect(notice).to_contain_text("may not use the microphone")
        expect(notice).to_contain_text("the icon beside the address")
        # And it goes on without.
        notice.get_by_role("button", name="Go on without a microphone").click()
        expect(page.locator("#connection")).to_contain_text("Connected")
        write(page, "what is twelve plus thirty?")
        expect(page.locator(".said.agent").first).to_contain_text("42", timeout=20_000)
        assert chromium.complaints == []


def test_who_came_over_http_is_told_why_there_is_no_microphone(server: OwnServer) -> None:
    with browser(flags=["--host-resolver-rules=MAP voice.lan 127.0.0.1"]) as chromium:
        page = press(chromium, address(server).replace("127.0.0.1", "voice.lan"))
        expect(page.get_by_role("alert")).to_contain_text("did not come over https")
        expect(page.get_by_role("alert")).to_contain_text("http://localhost")


def test_who_has_no_microphone_is_told_so(server: OwnServer) -> None:
    with browser(device=False) as chromium:
        page = press(chromium, address(server))
        expect(page.get_by_role("alert")).to_contain_text("There is no microphone.")
        expect(page.get_by_role("alert")).to_contain_text("write instead")


CLICKS_BY_ITSELF = """
// What Playwright evaluates counts as a gesture, this does not.
addEventListener("load", () => {
  const notice = document.getElementById("notice");
  new MutationObserver(() => {
    console.info(notice.textContent);
    [...notice.querySelectorAll("button")].find(({ textContent }) => textContent.startsWith("Go on without"))?.click();
  }).observe(notice, { childList: true });
  document.getElementById("orb").click();
});
"""


def test_where_the_browser_plays_nothing_yet_a_gesture_helps(server: OwnServer) -> None:
    # Who uses the microphone may play, too; so this is one who only listens.
    with browser(allow=False, autoplay="document-user-activation-required") as chromium:
        chromium.context.add_init_script(CLICKS_BY_ITSELF)
        page = chromium.page()
        with page.expect_console_message(lambda message: "plays no sound yet" in message.text):
            page.goto(address(server))
        expect(page.get_by_role("alert")).to_contain_text("tap anywhere on the page")
        page.mouse.click(5, 300)
        expect(page.locator("#notice")).to_be_empty()
        assert page.evaluate("() => window.rejoinderTap.context.state") == "running"


def press(chromium: Browser, url: str) -> Page:
    page = chromium.page()
    page.goto(url)
    page.get_by_role("button", name="Start talking").click()
    return page
