"""The one tree of errors: each has a stable code, says whether a retry can help, and what to do.

RejoinderError
├── ConfigError            settings, agents, command lines
│   ├── UnknownName        an agent, provider, tool or model nobody registered
│   ├── MissingDependency  an extra that is not installed
│   └── MissingModel       a model file that is not in the cache
├── AuthError              no key, a bad one, or one that may not do this
├── ProtocolError          a client sent something the protocol does not allow
├── SessionError           the session is full, over or busy
├── StoreError             the database refused
│   └── SchemaMismatch     the database has another schema than this release
├── ProviderError          an STT, LLM, TTS or VAD provider failed
│   ├── ProviderTimeout    it did not answer in time
│   └── ProviderRejected   it answered, and said no (bad key, bad request)
└── ToolError              a tool call failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def sentence(text: str) -> str:
    """`text` with one mark at its end."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def listed(problems: Iterable[str]) -> str:
    """Several problems as one sentence; each may be one itself, or a question."""
    parts = [problem.removesuffix(".") for problem in problems]
    # No semicolon after a question mark.
    return sentence("; ".join(parts).replace("?; ", "? "))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest of `known`, "" if none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


class RejoinderError(Exception):
    """Base of all errors; `str()` is what happened and why, `fix` is what to do.

    `code` is stable and machine-readable (snake_case); `retryable` says whether the same call may succeed later.
    """

    code = "internal"
    retryable = False
    told = False
    """Whether the person at the terminal has read it already."""

    def __init__(
        self, message: str, *, code: str | None = None, fix: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    def explain(self) -> str:
        """One line for people: what and why, then the fix, then the code."""
        fix = f" Fix: {self.fix}" if self.fix else ""
        return f"{self.message}{fix} [{self.code}]"


class ConfigError(RejoinderError):
    """Settings, an agent definition or a command line is wrong."""

    code = "bad_config"


class UnknownName(ConfigError):
    """A name nobody registered; the nearest known one is suggested."""

    code = "unknown_name"

    def __init__(self, what: str, name: str, known: Iterable[str], *, fix: str | None = None) -> None:
        names = sorted(known)
        hint = did_you_mean(name, names) or f"known: {', '.join(names) or 'none'}."
        super().__init__(f"There is no {what} {name!r}; {hint}", code=f"unknown_{what.replace(' ', '_')}", fix=fix)


class MissingDependency(ConfigError):
    """A provider needs a package that is not installed; `extra` is the one of Rejoinder's that brings it, if any."""

    code = "missing_dependency"

    def __init__(self, provider: str, package: str, extra: str = "") -> None:
        super().__init__(
            f"{provider!r} needs the package {package!r}, which is not installed.",
            fix=f"pip install 'rejoinder[{extra}]'" if extra else f"pip install {package}",
        )


class MissingModel(ConfigError):
    """A model file is not in the cache (or is damaged)."""

    code = "missing_model"

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message, fix=fix)


class AuthError(RejoinderError):
    """Who asks is not known (`unauthorized`) or may not do this (`forbidden`)."""

    code = "unauthorized"


class ProtocolError(RejoinderError):
    """A client sent something the protocol does not allow; the session goes on."""

    code = "bad_message"


class SessionError(RejoinderError):
    """The session cannot take this: it is over, full or not there."""

    code = "session_unavailable"


class StoreError(RejoinderError):
    """The database could not do it now."""

    code = "store_unavailable"
    retryable = True


class SchemaMismatch(StoreError):
    """The database holds another schema than this release expects."""

    code = "schema_mismatch"
    retryable = False


class ProviderError(RejoinderError):
    """A provider failed; `provider` names it, `retry_after_s` is how long it asked to be left alone, if it did."""

    code = "provider_failed"
    retryable = True

    def __init__(
        self,
        provider: str,
        message: str,
        *,
        code: str | None = None,
        fix: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{provider}: {sentence(message)}", code=code, fix=fix, retryable=retryable)
        self.provider = provider
        self.retry_after_s = retry_after_s


class ProviderTimeout(ProviderError):
    """A provider did not answer within its deadline."""

    code = "provider_timeout"


class ProviderRejected(ProviderError):
    """A provider answered and said no; the same request will fail again."""

    code = "provider_rejected"
    retryable = False


class ToolError(RejoinderError):
    """A tool call failed; the text is what the model is told."""

    code = "tool_failed"
