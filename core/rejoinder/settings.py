"""Settings: flags over environment over `rejoinder.toml` over defaults; unknown keys are errors with a suggestion.

Environment names are `REJOINDER_` and the key, two underscores between levels: `REJOINDER_PORT`,
`REJOINDER_DATABASE_URL`, `REJOINDER_PLUGINS__OPENAI__API_KEY`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from rejoinder.errors import ConfigError, did_you_mean, listed, sentence
from rejoinder.providers import Kind

CONFIG_FILE = "rejoinder.toml"
ENV_PREFIX = "REJOINDER_"
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
"""Of an agent that is defined over REST."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Profile = Literal["patient", "normal", "brisk"]

PROFILES: dict[Profile, dict[str, Any]] = {
    "patient": {
        "min_silence_ms": 500,
        "end_silence_ms": 800,
        "max_silence_ms": 2000,
        "interrupt_ms": 500,
        "min_words": 2,
    },
    "normal": {},
    "brisk": {"min_silence_ms": 160, "end_silence_ms": 240, "max_silence_ms": 600, "interrupt_ms": 240},
}
"""What a profile sets; keys that are given beside it win."""


class TurnPolicy(_Section):
    """When a turn ends, when an answer starts and what interrupts it; all times in ms."""

    profile: Profile = Field("normal", description="Defaults for the keys below: `patient`, `normal` or `brisk`.")
    pause_ms: int = Field(
        60, ge=20, description="Silence after which the transcript is taken and a reply may be prepared."
    )
    min_silence_ms: int = Field(200, ge=40, description="Silence that ends a turn which is surely over.")
    end_silence_ms: int | None = Field(
        None, ge=40, description="Silence that ends a turn of which nothing is known; None takes the VAD's own advice."
    )
    max_silence_ms: int = Field(850, ge=40, description="Silence that ends a turn which is surely not over.")
    speculate: bool = Field(True, description="Prepare the reply during the pause, unheard until the turn has ended.")
    max_speculations: int = Field(3, ge=0, description="Prepared replies per turn that may be thrown away.")
    speculation_tokens: int = Field(
        60, ge=1, description="Pieces of text a reply may be ahead while the turn is undecided."
    )
    prefill: bool = Field(True, description="Let the LLM read the turn while it is spoken, where it can.")
    max_turn_ms: int = Field(60_000, ge=1000, description="A turn longer than this is ended.")
    transcript_timeout_ms: int = Field(
        8_000, ge=100, description="The end of a turn waits this long for its transcript."
    )
    first_audio_timeout_ms: int = Field(
        20_000, ge=100, description="A reply that produces nothing (more) for this long is given up."
    )
    barge_in: bool = Field(True, description="Speech during the answer stops it.")
    interrupt_ms: int = Field(
        300, ge=40, description="Speech over the agent is judged from here on; undecided, it silences the agent."
    )
    min_words: int = Field(1, ge=1, description="Words that an interruption needs; stop words always do.")
    nudge_after_ms: int | None = Field(
        None, ge=1000, description="Silence of both sides after which the user is asked; None: never."
    )
    nudges: tuple[str, ...] = Field(
        ("Are you still there?", "I am still here if you need me."),
        description="What is said then, one after the other.",
    )
    goodbye: str = Field(
        "It seems that you are gone. Goodbye!", description="Said after the last nudge; then the session ends."
    )
    on_resume: Literal["continue", "fresh"] = Field(
        "continue", description="What a client that comes back gets: the unheard rest of the reply, or silence."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_profile(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(profile := data.get("profile"), str):
            return {**PROFILES.get(profile, {}), **data}  # type: ignore[call-overload]
        return data

    @model_validator(mode="after")
    def _check_silences(self) -> Self:
        if self.min_silence_ms > self.max_silence_ms:
            raise ValueError("min_silence_ms must not be larger than max_silence_ms")
        return self


class Deadlines(_Section):
    """How long a provider may take before the next one in its chain is tried, or the user is told; times in ms."""

    transcript_ms: int = Field(3_000, ge=50, description="STT: the final transcript.")
    first_token_ms: int = Field(5_000, ge=50, description="LLM: the first token (and each later one).")
    first_audio_ms: int = Field(3_000, ge=50, description="TTS: the first audio of a chunk (and each later piece).")
    hedge: bool = Field(
        False, description="A late LLM is not given up when the next one starts: whoever answers first is heard."
    )


class Recording(_Section):
    """Whether conversations with an agent are kept as sound, and for how long."""

    enabled: bool = Field(False, description="Keep the sound of conversations; those who call must be told.")
    retention_days: int | None = Field(
        30, ge=1, le=36_500, description="After so many days the sound is deleted; None: never."
    )


def _as_chain(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Chain = Annotated[tuple[str, ...], BeforeValidator(_as_chain), Field(min_length=1)]
"""A provider's name, or several: the next one is tried when the one before it fails or is late."""


class Agent(_Section):
    """A named definition of who answers: instructions, providers, tools and turn-taking."""

    instructions: str = "You are a helpful voice assistant. Answer in one or two short spoken sentences."
    greeting: str = ""
    vad: str = "silero"
    stt: Chain = ("moonshine",)
    turn: tuple[str, ...] = Field(("rules",), description="Turn detectors; the most doubtful of them counts.")
    interruption: tuple[str, ...] = Field(
        ("echo", "words"), description="Judges of interruptions; the first verdict counts."
    )
    llm: Chain = ("guide",)
    tts: Chain = ("hibari",)
    voice: str | None = None
    language: str = "en"
    tools: tuple[str, ...] = ("clock", "calculator", "last_latency", "end_call")
    transfers: tuple[str, ...] = Field((), description="Agents to whom the tool `transfer` may hand over.")
    max_tokens: int = Field(300, ge=1)
    temperature: float = Field(0.3, ge=0, le=2)
    history_messages: int = Field(40, ge=2, description="The newest messages that the LLM is sent.")
    max_tool_rounds: int = Field(4, ge=0)
    tool_timeout_ms: int = Field(10_000, ge=10)
    filler_after_ms: int | None = Field(
        1_500, ge=100, description="A tool that takes longer is covered by a filler; None: never."
    )
    fillers: tuple[str, ...] = Field(
        ("One moment, please.", "Still working on it."), description="Said one after the other."
    )
    turns: TurnPolicy = TurnPolicy()
    deadlines: Deadlines = Deadlines()
    recording: Recording = Recording()

    def names(self, kind: Kind) -> tuple[str, ...]:
        """The names of its providers of `kind`, in the order in which they are asked."""
        named = getattr(self, kind)
        return (named,) if isinstance(named, str) else named


class Limits(_Section):
    """Every bound of the engine, named once."""

    playout_chunks: int = Field(5, ge=1, description="Audio chunks that wait to be sent; then TTS and the LLM wait.")
    chunk_ms: int = Field(1000, ge=20, description="The longest audio chunk.")
    text_chunks: int = Field(2, ge=1, description="Speakable chunks between LLM and TTS.")
    lead_ms: int = Field(200, ge=20, description="Audio is sent this far ahead of the clock.")
    credit_ms: int = Field(400, ge=40, description="Audio sent beyond what the client says it has played, at most.")
    inbox: int = Field(256, ge=16, description="Control messages waiting for a session.")
    outbox_bytes: int = Field(1_048_576, ge=65_536, description="Bytes waiting for one slow socket; then it is closed.")
    message_bytes: int = Field(32_768, ge=4096, description="The largest WebSocket message.")
    text_chars: int = Field(16_384, ge=1, description="The longest text a user may send.")
    sessions: int = Field(1000, ge=1, description="Live sessions in this process.")
    room_ttl_s: int = Field(3600, ge=1, description="A room nobody has joined is closed after this.")
    idle_s: float = Field(15.0, ge=0, description="A session with no connection left is ended after this.")
    chat_idle_s: float = Field(
        300.0, ge=0, description="The same for a session that only had messages and SSE readers."
    )
    requests_per_minute: int = Field(6_000, ge=1, description="Requests of one API key; the rest gets a 429.")
    openai_requests: int = Field(
        64, ge=1, description="Requests to the OpenAI endpoints at once, in this process; the rest gets a 503."
    )
    sse_backlog: int = Field(256, ge=16, description="Events waiting for one SSE reader; then it is fed from the log.")
    sse_send_s: float = Field(10.0, gt=0, description="An SSE reader that takes nothing for this long is cut off.")
    cancel_ms: int = Field(
        500, ge=10, description="A cancelled reply is waited for this long, then let go (it stays mute)."
    )
    hook_ms: int = Field(500, ge=10, description="An `async` filter of a plugin that takes longer is done without.")
    warm_up_s: float = Field(120.0, gt=0, description="A provider that takes longer to get ready is left out.")
    close_ms: int = Field(2000, ge=10, description="Closing a session takes at most this long.")
    store_rows: int = Field(
        20_000, ge=100, description="Rows waiting for the database; then the oldest events are dropped."
    )


class Auth(_Section):
    """Who may use the server."""

    mode: Literal["keys", "none"] = Field(
        "keys", description="`keys`: API keys and room tokens; `none`: everybody, on loopback only."
    )
    dev_key_file: Path = Field(
        Path(platformdirs.user_config_dir("rejoinder")) / "dev-key",
        description="Where the key lies that is made on the first start on loopback.",
    )
    token_ttl_s: int = Field(600, ge=10, le=86_400, description="A room token is good for this long.")
    ticket_ttl_s: int = Field(30, ge=1, le=300, description="A ticket can be used once within this time.")


class WebhookOptions(_Section):
    """Where webhooks may be."""

    allow_private: bool = Field(
        False,
        description="Messages may be sent to this machine and to private networks (never to link-local addresses).",
    )


class Talk(_Section):
    """Who may talk to an agent on the talk page without a room token."""

    access: Literal["local", "login", "anybody"] = Field(
        "local",
        description="`local`: whoever sits at this machine, if the server listens on loopback; `login`: accounts that "
        "may talk; `anybody`: everybody who reaches the server.",
    )
    agents: tuple[str, ...] = Field(
        (), description="With `anybody`: the agents that may be talked to besides the default one."
    )
    rooms_per_minute: int = Field(10, ge=1, description="With `anybody`: rooms that one address is given in a minute.")


Origin = Literal["flag", "env", "file", "default"]
"""Where a setting comes from."""


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    database_url: str = Field("sqlite+aiosqlite:///rejoinder.db", description="Where everything is stored.")
    models_dir: Path = Field(
        Path(platformdirs.user_cache_dir("rejoinder")) / "models", description="Where the files of models are kept."
    )
    recordings_dir: Path = Field(Path("recordings"), description="Where the sound of recorded conversations is kept.")
    default_agent: str = Field("guide", description="The agent of those who name none.")
    allowed_origins: tuple[str, ...] = Field((), description="Web origins besides the server's own that may connect.")
    agents: dict[str, Agent] = {}
    plugins: dict[str, dict[str, Any]] = Field({}, description="Settings of each provider, by its name.")
    plugins_dir: Path = Field(Path("plugins"), description="A folder whose files `*.py` are plugins, too.")
    plugin_modules: tuple[str, ...] = Field((), description="Modules that are plugins, too, by import name.")
    disabled_plugins: tuple[str, ...] = Field((), description="Plugins that are not loaded.")
    required_plugins: tuple[str, ...] = Field((), description="Plugins without which the server does not start.")
    store_llm_requests: bool = Field(
        True, description="What LLMs are sent is stored with each reply; it holds the instructions and what was said."
    )
    auth: Auth = Auth()
    talk: Talk = Talk()
    limits: Limits = Limits()
    webhooks: WebhookOptions = WebhookOptions()
    _layers: tuple[tuple[Origin, dict[str, Any]], ...] = PrivateAttr(())

    @property
    def layers(self) -> tuple[tuple[Origin, Mapping[str, Any]], ...]:
        """What was given where, the strongest first; of settings that a program made all are like flags."""
        return self._layers or (("flag", self.model_dump(exclude_unset=True)),)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the settings file {str(path)!r}: {error.strerror}.", fix="Check --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(sentence(f"{str(path)!r} is not valid TOML: {error}")) from None


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """The settings of this process; `overrides` are the flags that were given (None means not given).

    The file is `config`, else `$REJOINDER_CONFIG`, else `./rejoinder.toml` if there is one.

    Raises:
        ConfigError: a value is wrong or a key unknown; all of them are named at once.
    """
    if config is None and "REJOINDER_CONFIG" in os.environ:
        config = Path(os.environ["REJOINDER_CONFIG"])
    if config is None and Path(CONFIG_FILE).is_file():
        config = Path(CONFIG_FILE)

    from_file = _read_toml(config) if config else {}
    given: list[PydanticBaseSettingsSource] = []

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            given[:] = init_settings, env_settings
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    try:
        settings = Layered(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = listed(f"{path}: {what}" for path, what in explain_validation(error, Settings, "key"))
        where = f" (file: {config})" if config else ""
        raise ConfigError(f"The settings are wrong{where}: {problems}", fix="Correct the keys named.") from None
    flags, env = (source() for source in given)
    settings._layers = (("flag", flags), ("env", env), ("file", from_file))
    return settings


_SECTIONS: dict[str, type[BaseModel]] = {
    "agents": Agent,
    "limits": Limits,
    "turns": TurnPolicy,
    "deadlines": Deadlines,
    "recording": Recording,
    "auth": Auth,
    "talk": Talk,
    "webhooks": WebhookOptions,
}


def explain_validation(error: ValidationError, top: type[BaseModel], noun: str) -> list[tuple[str, str]]:
    """What `error` found in what was to be a `top`: the path of each wrong `noun` (key, field), and what is wrong."""
    return [_explain(problem, top, noun) for problem in error.errors()]


def _explain(problem: Any, top: type[BaseModel], noun: str) -> tuple[str, str]:
    parts = [str(part) for part in problem["loc"]]
    path = ".".join(parts)
    if problem["type"] != "extra_forbidden":
        return path, problem["msg"]
    model = top
    for part in parts[:-1]:
        # What an agent is called may be the name of a section, too.
        model = _SECTIONS.get(part, model) if part in model.model_fields else model
    hint = did_you_mean(parts[-1], model.model_fields)
    return path, f"unknown {noun}{f', {hint}' if hint else ''}"
