"""The tables, in portable SQL: ids are text, times are Unix milliseconds, durations say their unit in the name."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is declared INTEGER.
_COUNTER = BigInteger().with_variant(Integer(), "sqlite")


_IS_ERROR = text("type = 'error'")


def _session() -> Column[str]:
    return Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False)


def _turn() -> Column[str]:
    return Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"))


rooms = Table(
    "rooms",
    metadata,
    Column("id", String, primary_key=True),
    Column("agent", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # The id that the session will have; no foreign key, because it starts only when somebody joins.
    Column("session_id", String, nullable=False, unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("room_id", ForeignKey("rooms.id", ondelete="SET NULL")),
    Column("agent", String, nullable=False),
    # None where the agent is defined in the settings, which have no versions.
    Column("agent_version", Integer),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("end_reason", String),
    Column("input_rate", Integer, nullable=False),
    Column("output_rate", Integer, nullable=False),
    Column("metrics", JSON),
    # How its first client came (`websocket`, `sse`, `rest` ...), and its User-Agent; a stranger wrote the latter.
    Column("channel", String),
    Column("client", Text),
    Index(None, "started_at"),
    Index(None, "agent", "id"),
    Index(None, "room_id"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", String, primary_key=True),
    _session(),
    Column("number", Integer, nullable=False),
    Column("user_text", Text),
    Column("committed_at", BigInteger, nullable=False),
    Column("reply_id", String),
    Column("reply_text", Text),
    Column("heard_text", Text),
    Column("reply_reason", String),
    Column("played_ms", Integer),
    Column("estimated", Boolean),
    Column("response_us", BigInteger),
    Column("jitter_us", BigInteger),
    Column("speculated", Boolean),
    Column("saved_us", BigInteger),
    Column("discarded", Integer),
    Column("providers", JSON),
    Column("hooks", JSON),
    Index(None, "session_id", "number"),
    # Latency over a time is asked for all sessions together.
    Index(None, "committed_at"),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    # The model names its calls, and some count from 0 in every answer: only the pair is unique.
    Column("reply_id", String, primary_key=True),
    Column("id", String, primary_key=True),
    _session(),
    _turn(),
    Column("name", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("status", String),
    Column("result", Text),
    Column("called_at", BigInteger, nullable=False),
    Column("returned_at", BigInteger),
    Index(None, "session_id"),
    Index(None, "turn_id"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    _session(),
    _turn(),
    Column("role", String, nullable=False),
    Column("content", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    UniqueConstraint("session_id", "seq"),
    Index(None, "turn_id"),
    # Words are looked for in the newest ones first.
    Index(None, "at"),
)

events = Table(
    "events",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("data", Text, nullable=False),
    # There are few of them among very many, and they are counted.
    Index("ix_events_errors", "session_id", "at", sqlite_where=_IS_ERROR, postgresql_where=_IS_ERROR),
)
is_error = events.c.type == literal_column("'error'")
"""As the index has it: with a parameter it would not be used."""

spans = Table(
    "spans",
    metadata,
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("us", BigInteger, nullable=False),
    Column("hidden", Boolean, nullable=False),
)

interruptions = Table(
    "interruptions",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    # The number of its event.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    # No foreign key: what was no interruption is often no turn either.
    Column("turn_id", String, nullable=False),
    Column("reply_id", String, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("cause", String, nullable=False),
    Column("speech_ms", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

llm_requests = Table(
    "llm_requests",
    metadata,
    # What the LLM was sent for a reply, exactly; `position` counts its rounds from 0.
    Column("reply_id", String, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    _session(),
    _turn(),
    Column("at", BigInteger, nullable=False),
    Column("provider", String, nullable=False),
    Column("messages", JSON, nullable=False),
    Column("tools", JSON, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("temperature", Float, nullable=False),
    Index(None, "session_id"),
)

recordings = Table(
    "recordings",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    # Relative to the folder of recordings; None once the sound has been deleted.
    Column("file", String),
    Column("rate", Integer, nullable=False),
    # The wall clock of its first sample, so that events (`at`) have their place in it.
    Column("started_at", BigInteger, nullable=False),
    Column("duration_ms", BigInteger),
    Column("bytes", BigInteger),
    # None: kept until somebody deletes it.
    Column("expires_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("deleted_by", String),
    Index(None, "expires_at"),
)

# -- what operators define, and who may do what

agents = Table(
    "agents",
    metadata,
    # Every version is kept; the highest one counts. One without a definition says that the agent was deleted.
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("definition", JSON(none_as_null=True)),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    # SHA-256 of the key, in hex; the key itself is 256 random bits and is shown once.
    Column("hash", String, nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("dev", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    # As it is typed at the login; lower case.
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    # argon2id; None until the link that was sent has been used.
    Column("password", String),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    Column("disabled_at", BigInteger),
    Column("last_login_at", BigInteger),
)

logins = Table(
    "logins",
    metadata,
    # SHA-256 of the cookie's token, in hex.
    Column("hash", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # What a page must send along with whatever changes something.
    Column("csrf", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # When the password was typed last: what is dangerous asks for it again.
    Column("proved_at", BigInteger, nullable=False),
    Column("address", String, nullable=False),
    Column("client", Text, nullable=False),
    Index(None, "user_id"),
    Index(None, "expires_at"),
)

login_links = Table(
    "login_links",
    metadata,
    # SHA-256 of the token in a link that is good once.
    Column("hash", String, primary_key=True),
    # None: whoever uses it makes the first account.
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE")),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Index(None, "user_id"),
)

audit = Table(
    "audit",
    metadata,
    # Who did what; rows are only ever added. No foreign keys: it outlives what it tells of.
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("actor_name", String, nullable=False),
    Column("action", String, nullable=False),
    # The id or name of what it was done to.
    Column("subject", String, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("address", String, nullable=False),
    Index(None, "at"),
    Index(None, "subject"),
)

plugin_settings = Table(
    "plugin_settings",
    metadata,
    # Of [plugins.NAME], as far as neither the file nor the environment says otherwise.
    Column("name", String, primary_key=True),
    Column("values", JSON, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", String, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    # The processes on this database; each writes its own row now and then, and removes it when it stops.
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("stats", JSON, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    # What all processes on this database must share, such as the key that signs room tokens.
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", String, primary_key=True),
    Column("key", String, primary_key=True),
    # Of the request; the same key with another request is an error.
    Column("fingerprint", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # None while the first request is being answered.
    Column("status", Integer),
    Column("headers", JSON(none_as_null=True)),
    Column("body", Text),
    Index(None, "created_at"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String, primary_key=True),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("events", JSON, nullable=False),
    # The newest first; an older one has an end (`until`, Unix ms), while both sign.
    Column("secrets", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("failing_since", BigInteger),
    Column("disabled_at", BigInteger),
    Column("disabled_reason", Text),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    # The outbox: written in the same transaction as the event it tells of.
    Column("id", String, primary_key=True),
    # No foreign key: an event must be stored even where its webhook has just been deleted.
    Column("webhook_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # None: nothing more is tried.
    Column("next_attempt_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("delivered_at", BigInteger),
    Column("status", Integer),
    Column("error", Text),
    Index(None, "next_attempt_at"),
    Index(None, "webhook_id", "id"),
)

# -- what agents may look up

documents = Table(
    "documents",
    metadata,
    Column("id", String, primary_key=True),
    Column("collection", String, nullable=False),
    Column("title", Text, nullable=False),
    # Where it came from; the same source in the same collection is the same document. None: nobody said.
    Column("source", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("characters", Integer, nullable=False),
    UniqueConstraint("collection", "source"),
)

passages = Table(
    "passages",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("document_id", ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("heading", Text, nullable=False),
    Column("text", Text, nullable=False),
    # The words of title, heading and text, as `passages.words_of` makes them; the full-text index is over these. It is
    # no part of the metadata: SQLite has a virtual table for it, PostgreSQL a generated column (see the migration).
    Column("words", Text, nullable=False),
    UniqueConstraint("document_id", "position"),
)
