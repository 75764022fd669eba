"""Raw audio of any width and number of channels made into mono PCM16."""

from __future__ import annotations

import numpy as np
from rejoinder.errors import ProviderError

from rejoinder_wyoming import NAME

MOST_CHANNELS = 8


class Pcm16:
    """Converts a stream of signed little-endian samples (8 bits: unsigned); channels are averaged."""

    def __init__(self, width: int, channels: int) -> None:
        """`width` in bytes.

        Raises:
            ProviderError: there is no such format.
        """
        if width not in (1, 2, 3, 4) or not 1 <= channels <= MOST_CHANNELS:
            raise ProviderError(
                NAME,
                f"the server sends {channels} channels of {width} bytes a sample",
                code="bad_audio",
                retryable=False,
            )
        self.width = width
        self.channels = channels
        self._rest = b""

    def convert(self, audio: bytes) -> bytes:
        """As much as there is in whole samples; the rest is kept for the next piece."""
        audio = self._rest + audio
        frame = self.width * self.channels
        whole = len(audio) // frame * frame
        audio, self._rest = audio[:whole], audio[whole:]
        if (self.width, self.channels) == (2, 1):
            return audio
        octets = np.frombuffer(audio, np.uint8).reshape(-1, self.width)
        if self.width == 1:
            samples = (octets[:, 0].astype(np.int32) - 128) << 8
        else:
            # The two upper bytes are all that 16 bits can hold.
            samples = np.ascontiguousarray(octets[:, -2:]).view("<i2")[:, 0].astype(np.int32)
        mono: bytes = samples.reshape(-1, self.channels).mean(axis=1).astype("<i2").tobytes()
        return mono
