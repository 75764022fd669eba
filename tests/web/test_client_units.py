"""The unit tests of the web sources (`npm test`): jitter buffer, resampler, playhead, reconnecting, charts."""

from __future__ import annotations

import subprocess

from tests.web.webbuild import web_build


def test_the_unit_tests_of_the_web_sources_pass() -> None:
    npm = web_build.find_npm()
    assert npm is not None, "run `make web`, which fetches Node.js where there is none"
    run = subprocess.run(
        [*npm, "test"],
        cwd=web_build.SOURCES,
        env={**web_build.environment_of(npm), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "client/test/jitter.test.ts" in run.stdout
