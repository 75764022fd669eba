"""Fetches recorded human speech into a folder: WAVs at 16 kHz and `transcripts.tsv` (file name, words).

The recordings are Debian's packages of Asterisk's English voice prompts (CC-BY-SA-3.0, Digium and Allison Smith): one
speaker, studio quality. They are fetched, never committed. Needs Debian's `apt-get` and `dpkg-deb`, and PyAV.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

PACKAGES = ("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en")
RATE = 16_000


def main(target: Path) -> None:
    """Fill `target`; a complete one is left alone."""
    if (target / "transcripts.tsv").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _download(work)
        words = _transcripts(next(work.rglob("core-sounds-en.txt.gz")))
        target.mkdir(parents=True, exist_ok=True)
        lines = []
        for path in sorted(work.rglob("*.g722")):
            root = next(parent for parent in path.parents if parent.name.startswith("en"))
            name = str(path.relative_to(root).with_suffix(""))
            text = words.get(name)
            if text is None or len(text.split()) < 3:
                continue
            pcm = _decode(path)
            if 1.0 <= len(pcm) / (2 * RATE) <= 8.0:
                wav = target / f"{name.replace('/', '-')}.wav"
                _write(wav, pcm)
                lines.append(f"{wav.name}\t{text}\n")
        # Last, so that an interrupted run is not taken for a complete one.
        (target / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} recordings in {target}")


def _download(work: Path) -> None:
    command = ["apt-get", "download", "-q", *PACKAGES]
    if subprocess.run(command, cwd=work, check=False).returncode != 0:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(command, cwd=work, check=True)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(work / "files")], check=True)


def _transcripts(path: Path) -> dict[str, str]:
    """Prompt name to words; stage directions and sounds (in brackets) are left out."""
    words = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";") and not set("[(") & set(text):
            words[name.strip()] = text.strip()
    return words


def _decode(path: Path) -> bytes:
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().tobytes() for frame in container.decode(audio=0)]
    return b"".join(frames)


def _write(path: Path, pcm: bytes) -> None:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(RATE)
        wav.writeframes(pcm)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
