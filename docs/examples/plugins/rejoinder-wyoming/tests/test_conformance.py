"""What Rejoinder expects of STT and TTS providers, with a real Wyoming server behind them."""

import atexit
import sys
from pathlib import Path

from rejoinder.testing import SttConformance, TtsConformance

sys.path.insert(0, str(Path(__file__).parent))
from running import Running  # noqa: E402

# Started when this is loaded and not in a fixture: `rejoinder plugins test` uses these classes without pytest.
SERVERS = {"new": Running(), "old": Running("--plain")}
for server in SERVERS.values():
    atexit.register(server.kill)


class TestVoice(TtsConformance):
    plugin = "rejoinder_wyoming"
    provider = "wyoming"
    settings = {"tts_uri": SERVERS["new"].uri}


class TestVoiceOfAnOldServer(TtsConformance):
    plugin = "rejoinder_wyoming"
    provider = "wyoming"
    settings = {"tts_uri": SERVERS["old"].uri}
    voice = "studio"
    runs = 50


class TestEar(SttConformance):
    plugin = "rejoinder_wyoming"
    provider = "wyoming"
    settings = {"stt_uri": SERVERS["new"].uri}
    # The recogniser of this server is slow and one for all.
    runs = 20
    error_rate = 0.5
