"""`metadata.user_id`: whose call it is, in the caller's own words. Pure.

Claude Code puts three ids into it. The account (or, without one, the device) is the user; the session is
not: a new conversation must not be a new user with a new allowance.

    {"device_id": "…", "account_uuid": "…", "session_id": "…"}      newer versions
    user_<device>_account_<account>_session_<session>              older ones
"""

import re

import msgspec

TEXT_LENGTH_MAX = 256
_OLDER = re.compile(r"user_([0-9A-Za-z]*)_account_([0-9A-Za-z-]*)_session_([0-9A-Za-z-]*)")


class _ClaudeCode(msgspec.Struct):
    device_id: str | None = None
    account_uuid: str | None = None
    session_id: str | None = None


_decode = msgspec.json.Decoder(_ClaudeCode).decode


def end_user_of(user_id: str | None) -> str | None:
    """The end user that a request names; None where it names none."""
    ids = _ids(user_id)
    return user_id or None if ids is None else ids.account_uuid or ids.device_id or None


def session_of(user_id: str | None) -> str | None:
    """The conversation that Claude Code names there; None for any other text."""
    ids = _ids(user_id)
    return None if ids is None else ids.session_id or None


def _ids(user_id: str | None) -> _ClaudeCode | None:
    """Claude Code's three ids; None where the text is not of its making."""
    if not user_id:
        return None
    if user_id[0] == "{":
        try:
            return _decode(user_id)
        except msgspec.DecodeError:
            return None
    older = _OLDER.fullmatch(user_id) if user_id.startswith("user_") else None
    return None if older is None else _ClaudeCode(older[1], older[2], older[3])
