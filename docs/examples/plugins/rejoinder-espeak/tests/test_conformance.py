"""What Rejoinder expects of every TTS provider, of several voices and settings."""

from rejoinder.testing import TtsConformance


class TestEnglish(TtsConformance):
    plugin = "rejoinder_espeak"
    provider = "espeak"


class TestGerman(TtsConformance):
    plugin = "rejoinder_espeak"
    provider = "espeak"
    settings = {"rate": 150, "variant": "f3"}
    language = "de-AT"
    sentence = "Der schnelle braune Fuchs springt über den faulen Hund."
    texts = (
        "Guten Morgen.",
        sentence,
        "Bitte rufen Sie mich morgen früh um neun Uhr zurück.",
        "Ja.",
        "Ich habe zwei Karten für Sie zurückgelegt und noch eine für Ihren Bruder.",
        "Wie weit ist der Mond entfernt?",
        "Der Zug nach Wien fährt um halb acht von Gleis vier ab.",
        "Danke, auf Wiederhören.",
    )
    runs = 50


class TestVoice(TtsConformance):
    plugin = "rejoinder_espeak"
    provider = "espeak"
    voice = "en-gb-scotland+f2"
    runs = 50
