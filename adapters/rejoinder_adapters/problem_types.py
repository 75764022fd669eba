"""The kinds of problems that a request can meet: for each code its HTTP status, its title and what it means."""

from __future__ import annotations

from typing import NamedTuple

from rejoinder.providers import KINDS


class ProblemType(NamedTuple):
    """A kind of problem; `title` is the same each time, `meaning` says when it happens and what to do."""

    status: int
    title: str
    meaning: str


TYPES: dict[str, ProblemType] = {
    # The request itself.
    "bad_request": ProblemType(
        400,
        "The request is wrong",
        "A parameter or a field is missing, unknown or of the wrong kind; `errors` names it.",
    ),
    "bad_json": ProblemType(
        400, "The body is not JSON", "The body cannot be read as JSON; `detail` says where it breaks."
    ),
    "bad_message": ProblemType(400, "The request cannot be taken", "What was asked for does not fit together."),
    "bad_cursor": ProblemType(
        400, "Not the cursor of a page", "`before` must be the `next_cursor` that a page of the same order gave."
    ),
    "bad_range": ProblemType(400, "Not a range of time", "`since` comes before `until`, by 90 days at most (Unix ms)."),
    "bad_provider": ProblemType(
        400, "Not a provider", "One is named by kind and name, `llm:guide`; kinds are `vad`, `stt`, `llm` and `tts`."
    ),
    "bad_event_id": ProblemType(
        400, "Not the number of an event", "`Last-Event-ID` (or `after`) must be the id of the last event that arrived."
    ),
    "bad_topics": ProblemType(
        400, "Not topics of the stream", "There are `live`, `overview` and `session:ID`, with commas between them."
    ),
    "bad_agent_name": ProblemType(
        400, "Not a name for an agent", "Names have 1 to 64 lower-case letters, digits, - and _."
    ),
    "unknown_scope": ProblemType(
        400, "No such scope", "An API key has scopes that the server knows, and at least one."
    ),
    "empty_text": ProblemType(400, "The text is empty", "There must be something to say: at least one word."),
    "text_too_long": ProblemType(400, "The text is too long", "Texts are bounded by the server's `limits.text_chars`."),
    "not_found": ProblemType(404, "No such address", "No route has this path; /openapi.json lists them."),
    "method_not_allowed": ProblemType(
        405, "Not with this method", "The path is there; the header `Allow` has its methods."
    ),
    "too_large": ProblemType(413, "The body is too large", "The server reads no more than a bounded number of bytes."),
    "unsupported_media_type": ProblemType(
        415, "Not this media type", "Send the media type that the operation documents."
    ),
    # Who asks, and how often.
    "unauthorized": ProblemType(
        401,
        "Not known here",
        "The API key, room token, ticket or login is missing, wrong, used up, revoked or has expired.",
    ),
    "forbidden": ProblemType(
        403, "Not allowed", "The key lacks a scope, or the role of the token or account does not cover this."
    ),
    "csrf": ProblemType(
        403,
        "Not from the server's own page",
        "A login's cookie counts for requests of the server's own pages, with the header `X-CSRF-Token` for whatever "
        "is not GET. Programs use an API key.",
    ),
    "prove_password": ProblemType(
        403,
        "The password once more",
        "Who is logged in types it again before changing keys, accounts or settings (`POST /admin/api/prove`); it "
        "holds for ten minutes.",
    ),
    "bad_login": ProblemType(
        401, "Wrong name or password", "It is not said which, nor whether there is such an account."
    ),
    "wrong_password": ProblemType(403, "Wrong password", "It is that of the account which is logged in."),
    "login_delayed": ProblemType(
        429, "Too many wrong passwords", "Each one more makes the next wait longer, up to a minute; see `Retry-After`."
    ),
    "bad_link": ProblemType(
        410, "The link is no good any more", "It does once, and for a limited time: ask an admin for another one."
    ),
    "bad_user_name": ProblemType(
        422, "Not a name for an account", "Names have 1 to 64 letters (a-z), digits and `. _ @ + -`."
    ),
    "weak_password": ProblemType(
        422, "Not a password to be taken", "It has 10 to 256 characters and is not the account's name."
    ),
    "bad_role": ProblemType(422, "No such role", "There are `viewer`, `analyst`, `operator`, `developer` and `admin`."),
    "unknown_user": ProblemType(404, "No such account", "GET /v1/users lists them."),
    "unknown_login": ProblemType(404, "No such login", "GET /admin/api/logins lists one's own."),
    "user_exists": ProblemType(409, "The name is taken", "Another account is called so."),
    "user_disabled": ProblemType(409, "The account is disabled", "Enable it first."),
    "last_admin": ProblemType(
        409, "The last admin", "Somebody must be able to manage accounts: make somebody else an admin first."
    ),
    "bad_host": ProblemType(
        403,
        "Another name than this machine's",
        "Without keys (`auth.mode` is `none`) the server answers to `127.0.0.1` and `localhost` only, so that no page "
        "whose name was made to mean this machine can use it.",
    ),
    "bad_origin": ProblemType(
        403, "Not from this page", "The page that connects is not in the server's `allowed_origins`."
    ),
    "rate_limited": ProblemType(429, "Too many requests", "Wait as long as `Retry-After` says."),
    "too_fast": ProblemType(
        429, "Too much at once", "The session has not come round to what it was told before; wait."
    ),
    "too_many_tickets": ProblemType(
        429, "Too many tickets", "Tickets that nobody uses expire soon; then there are new ones."
    ),
    # What the request is about.
    "unknown_session": ProblemType(404, "No such session", "GET /v1/sessions lists them."),
    "session_not_started": ProblemType(
        404, "The session has not started", "Nobody has joined its room yet; it starts with the first who does."
    ),
    "session_over": ProblemType(409, "The session is over", "It can still be read; a new one can be talked in."),
    "taken_over": ProblemType(
        409,
        "Somebody else has taken over",
        "One person at a time speaks instead of the agent; `detail` says who, and until when. An admin may take it "
        'from them: PUT the takeover with `{"force": true}`.',
    ),
    "session_live": ProblemType(409, "The session goes on", "What is kept of it can be deleted once it has ended."),
    "no_recording": ProblemType(
        404, "Not recorded", "There is no sound of this session: its agent did not want it kept, or the file is gone."
    ),
    "recording_unfinished": ProblemType(
        409, "Still being recorded", "The recording can be fetched once the session has ended."
    ),
    "recording_deleted": ProblemType(
        410, "The recording was deleted", "Its time was over, or somebody deleted it; it is not kept anywhere."
    ),
    "bad_byte_range": ProblemType(416, "No such part", "The header `Range` asks for bytes that are not there."),
    "unknown_room": ProblemType(404, "No such room", "GET /v1/rooms lists them."),
    "room_expired": ProblemType(
        410, "The room has expired", "Nobody joined it in time (`limits.room_ttl_s`); make a new one."
    ),
    "unknown_agent": ProblemType(422, "No such agent", "GET /v1/agents lists them."),
    **{
        f"unknown_{what}": ProblemType(
            503,
            "The agent is out of order",
            "The agent names what no plugin offers any more; GET /v1/plugins lists what there is.",
        )
        for what in (*(f"{kind}_provider" for kind in KINDS), "tool")
    },
    "unknown_event": ProblemType(
        400, "No such event", "The schema `Event` lists them; those of streamed text are not sent."
    ),
    "invalid_agent": ProblemType(
        422, "The definition is wrong", "`errors` names the fields of the agent that are wrong."
    ),
    "talk_closed": ProblemType(
        403,
        "The talk page is not open to you",
        "`talk.access` says who may talk there without a room's link; `detail` says what is missing.",
    ),
    "too_many_rooms": ProblemType(429, "Too many rooms", "One address is given `talk.rooms_per_minute`; wait."),
    "draft_gone": ProblemType(
        410, "The draft is gone", "Drafts of agents are in the memory of one process, and only so many: try it again."
    ),
    "unknown_section": ProblemType(404, "No such settings", "GET /v1/plugin_settings lists the sections there are."),
    "invalid_settings": ProblemType(
        422, "The settings are wrong", "`errors` names the keys of the section that are wrong."
    ),
    "setting_pinned": ProblemType(
        409, "Set elsewhere", "The environment or the settings file has this setting, or it is for these alone."
    ),
    "agent_fixed": ProblemType(
        409, "Defined by the settings", "Such an agent is changed in the server's settings only."
    ),
    "version_mismatch": ProblemType(
        412, "Changed meanwhile", "The agent has another version than `If-Match` says: read it again, then change it."
    ),
    "unknown_document": ProblemType(404, "No such document", "GET /v1/documents lists them."),
    "bad_document": ProblemType(422, "The document cannot be taken", "It has no text, no title, or is too long."),
    "unknown_key": ProblemType(404, "No such API key", "GET /v1/keys lists them."),
    "unknown_webhook": ProblemType(404, "No such webhook", "GET /v1/webhooks lists them."),
    "unknown_delivery": ProblemType(404, "No such delivery", "GET the webhook's deliveries lists them."),
    "webhook_disabled": ProblemType(409, "The webhook is disabled", 'PATCH it with `{"enabled": true}` first.'),
    "too_many_webhooks": ProblemType(409, "Too many webhooks", "Delete some; one can have many events."),
    "bad_url": ProblemType(422, "Not an address", "It must begin with https:// or http:// and name a host."),
    "unknown_host": ProblemType(422, "No such host", "The name in the address is not known here."),
    "address_refused": ProblemType(
        422, "Not to this address", "Private networks are reached with `webhooks.allow_private` only; some never are."
    ),
    # A request that comes twice.
    "bad_idempotency_key": ProblemType(400, "Not an idempotency key", "It has 1 to 255 visible ASCII characters."),
    "idempotency_unsupported": ProblemType(
        400, "Not with an idempotency key", "The answer holds a secret, which is not kept; send it without the key."
    ),
    "idempotency_too_large": ProblemType(
        413, "Too large for an idempotency key", "Such a request has at most 10 MiB; send it without the key."
    ),
    "idempotency_mismatch": ProblemType(
        422, "The key is another request's", "Send a key again only with the same method, path, query and body."
    ),
    "idempotency_in_progress": ProblemType(
        409, "Still being done", "The first request with this key is not answered yet; send it again in a moment."
    ),
    "idempotency_streamed": ProblemType(
        409, "Done, and not kept", "The answer was a stream or too large; `detail` names its session, if any."
    ),
    # The server.
    "internal": ProblemType(
        500, "The server failed", "A defect: the server's log has what happened under `request_id`."
    ),
    "full": ProblemType(503, "The server is full", "It has as many live sessions as it takes (`limits.sessions`)."),
    "draining": ProblemType(503, "The server is about to stop", "It takes no new sessions; another one will."),
    "query_too_slow": ProblemType(
        503, "The question is too large", "It was cut off, so that calls do not suffer; ask for a shorter time."
    ),
    "store_unavailable": ProblemType(503, "The database is not available", "Try again; /readyz tells when it is back."),
    "bad_config": ProblemType(503, "The settings are wrong", "The agent cannot be loaded with the server's settings."),
    "missing_dependency": ProblemType(503, "A package is missing", "The agent needs a package that the server lacks."),
    "missing_model": ProblemType(503, "A model is missing", "The agent needs a model that the server has not fetched."),
    "provider_failed": ProblemType(503, "A provider failed", "The STT, LLM, TTS or VAD behind the agent did not work."),
}
