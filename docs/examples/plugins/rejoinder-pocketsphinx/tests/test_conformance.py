"""What Rejoinder expects of every STT provider; its speech is made by the voice of `rejoinder[local]`."""

from rejoinder.testing import SttConformance


class TestConformance(SttConformance):
    plugin = "rejoinder_pocketsphinx"
    provider = "pocketsphinx"
