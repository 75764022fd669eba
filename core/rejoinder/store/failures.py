"""Database errors in words: what happened, why, and what to do; and whether the row or the database is to blame."""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rejoinder.errors import StoreError

_BAD_DATA_CLASSES = ("22", "23")  # SQLSTATE: data exception, integrity constraint violation

# Why and what to do, by the beginning of SQLite's error name; False where trying again cannot help.
_SQLITE = {
    "SQLITE_BUSY": (
        "it is locked by another process",
        "Stop the other writer, or use PostgreSQL for more than one.",
        True,
    ),
    "SQLITE_LOCKED": ("it is locked by another connection", "Close what else has it open.", True),
    "SQLITE_FULL": ("the disk is full", "Free some space; what waits is written as soon as there is room.", True),
    "SQLITE_IOERR": ("the disk refused to read or write", "Check the disk's space, quota and health.", True),
    "SQLITE_READONLY": ("it is read-only", "Give this user the right to write the file and its directory.", True),
    "SQLITE_PERM": ("access is denied", "Give this user the right to write the file and its directory.", True),
    "SQLITE_CANTOPEN": (
        "the file cannot be opened",
        "Create its directory and give this user the right to write there, or set REJOINDER_DATABASE_URL.",
        True,
    ),
    "SQLITE_NOTADB": ("the file is not an SQLite database", "Set REJOINDER_DATABASE_URL to another file.", False),
    "SQLITE_CORRUPT": ("the file is damaged", "Restore it from a backup, or set REJOINDER_DATABASE_URL.", False),
}


def place(url: URL) -> str:
    """The database's name for people, without its password (which may also be in the query)."""
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database or ':memory:'!r}"
    return f"the database {url.set(query={}).render_as_string(hide_password=True)!r}"


def store_error(error: BaseException, url: URL) -> StoreError:
    """The one error that the rest of the program sees for `error`."""
    if isinstance(error, StoreError):
        return error
    where = place(url)
    if is_bad_row(error):
        return StoreError(f"A row was refused by {where}: {_text(error)}.", code="row_refused", retryable=False)
    if isinstance(error, PoolTimeout):
        return StoreError(f"No connection to {where} became free in time.", fix="Try again; lower the load.")
    if isinstance(error, DBAPIError):
        name = getattr(error.orig, "sqlite_errorname", None) or ""
        for prefix, (why, fix, retryable) in _SQLITE.items():
            if name.startswith(prefix):
                return StoreError(
                    f"Cannot use {where}: {why} ({_text(error)}).", fix=fix, retryable=retryable, code=_code(retryable)
                )
        if error.connection_invalidated:
            return StoreError(f"The connection to {where} was lost ({_text(error)}).", fix="Check that it is running.")
    if isinstance(error, OSError):
        return StoreError(f"Cannot reach {where}: {_text(error)}.", fix="Check its address and that it is running.")
    return StoreError(f"Cannot use {where}: {_text(error)}.", fix="Run `rejoinder db check`.")


def is_bad_row(error: BaseException) -> bool:
    """Whether the values are to blame, so that the same rows would be refused again."""
    if isinstance(error, IntegrityError | DataError):
        return True
    if isinstance(error, DBAPIError):
        if str(getattr(error.orig, "sqlstate", None) or "").startswith(_BAD_DATA_CLASSES):
            return True
        # A value whose type sqlite3 cannot store; its other programming errors are not the row's fault.
        return isinstance(error, ProgrammingError) and str(error.orig).startswith("Error binding parameter")
    return isinstance(error, UnicodeError | OverflowError)


def _code(retryable: bool) -> str:
    return "store_unavailable" if retryable else "store_unusable"


def _text(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).strip().rstrip(".") or type(cause).__name__
