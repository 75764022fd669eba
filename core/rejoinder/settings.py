"""Settings: flags over environment over `rejoinder.toml` over defaults; unknown keys are errors with a suggestion.

Environment names are `REJOINDER_` and the key, two underscores between levels: `REJOINDER_PORT`,
`REJOINDER_DATABASE_URL`, `REJOINDER_PLUGINS__OPENAI__API_KEY`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from rejoinder.errors import ConfigError, UnknownName

CONFIG_FILE = "rejoinder.toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TurnPolicy(_Section):
    """When a turn ends, when an answer starts and what interrupts it; all times in ms."""

    pause_ms: int = Field(
        120, ge=20, description="Silence after which the transcript is taken and a reply may be prepared."
    )
    end_silence_ms: int | None = Field(
        None, ge=40, description="Silence that ends the turn; None takes the VAD's own advice."
    )
    speculate: bool = Field(True, description="Prepare the reply during the pause, unheard until the turn has ended.")
    max_speculations: int = Field(3, ge=0, description="Prepared replies per turn that may be thrown away.")
    max_turn_ms: int = Field(60_000, ge=1000, description="A turn longer than this is ended.")
    transcript_timeout_ms: int = Field(
        8_000, ge=100, description="The end of a turn waits this long for its transcript."
    )
    first_audio_timeout_ms: int = Field(
        20_000, ge=100, description="A reply that produces nothing (more) for this long is given up."
    )
    barge_in: bool = Field(True, description="Speech during the answer stops it.")


class Agent(_Section):
    """A named definition of who answers: instructions, providers, tools and turn-taking."""

    instructions: str = "You are a helpful voice assistant. Answer in one or two short spoken sentences."
    greeting: str = ""
    vad: str = "silero"
    stt: str = "moonshine"
    llm: str = "guide"
    tts: str = "hibari"
    voice: str | None = None
    language: str = "en"
    tools: tuple[str, ...] = ("clock", "calculator", "last_latency", "end_call")
    max_tokens: int = Field(300, ge=1)
    temperature: float = Field(0.3, ge=0)
    history_messages: int = Field(40, ge=2, description="The newest messages that the LLM is sent.")
    max_tool_rounds: int = Field(4, ge=0)
    tool_timeout_ms: int = Field(10_000, ge=10)
    turns: TurnPolicy = TurnPolicy()


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
    cancel_ms: int = Field(
        500, ge=10, description="A cancelled reply is waited for this long, then let go (it stays mute)."
    )
    close_ms: int = Field(2000, ge=10, description="Closing a session takes at most this long.")
    store_rows: int = Field(
        20_000, ge=100, description="Rows waiting for the database; then the oldest events are dropped."
    )


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(env_prefix="REJOINDER_", env_nested_delimiter="__", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    database_url: str = "sqlite+aiosqlite:///rejoinder.db"
    models_dir: Path = Path(platformdirs.user_cache_dir("rejoinder")) / "models"
    default_agent: str = "guide"
    allowed_origins: tuple[str, ...] = Field((), description="Web origins besides the server's own that may connect.")
    agents: dict[str, Agent] = {}
    plugins: dict[str, dict[str, Any]] = Field({}, description="Settings of each provider, by its name.")
    disabled_plugins: tuple[str, ...] = ()
    limits: Limits = Limits()

    def agent(self, name: str | None) -> tuple[str, Agent]:
        """The agent called `name` (None: the default one), with its name.

        Raises:
            UnknownName: there is none (`unknown_agent`).
        """
        wanted = name or self.default_agent
        agents = {"guide": GUIDE, **self.agents}
        if wanted not in agents:
            raise UnknownName("agent", wanted, agents, fix=f"Define [agents.{wanted}] in {CONFIG_FILE}.")
        return wanted, agents[wanted]


GUIDE = Agent(
    instructions=(
        "You are the voice of Rejoinder, a platform for real-time voice agents. You speak aloud: answer in one short, "
        "plain sentence, without lists or markup."
    ),
)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the settings file {str(path)!r}: {error.strerror}.", fix="Check --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not valid TOML: {error}.") from None


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
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    try:
        return Layered(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        where = f" (file: {config})" if config else ""
        raise ConfigError(f"The settings are wrong{where}: {problems}.", fix="Correct the keys named.") from None


def _describe(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{path}: {problem['msg']}"
    model: Any = Settings
    for part in problem["loc"][:-1]:
        model = {"agents": Agent, "limits": Limits, "turns": TurnPolicy}.get(str(part), model)
    near = difflib.get_close_matches(str(problem["loc"][-1]), model.model_fields, n=1)
    return f"{path}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")
