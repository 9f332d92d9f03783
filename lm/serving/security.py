"""Who may ask: keys, and for a server of this machine alone the names that it has."""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address

from lm.errors import UserError
from lm.files import read_text

VARIABLE = "LM_API_KEYS"
LOCAL = {"localhost", "127.0.0.1", "::1"}


class Keys:
    """Those that may ask; none: everybody."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [sha256(key.encode()).digest() for key in keys]

    def __len__(self) -> int:
        return len(self._hashes)

    def accept(self, authorization: str) -> bool:
        """Whether a header `Authorization: Bearer KEY` has one of them, in a time that tells nothing: hashes
        are of one length, and all of them are compared."""
        kind, _, key = authorization.partition(" ")
        given = sha256(key.strip().encode()).digest()
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return not found or (kind.lower() == "bearer" and any(found))


def read_keys(path: str | None, variable: str | None) -> Keys:
    """The keys of a file, one a line (# begins a comment), and of an environment variable, with commas.

    Raises:
        UserError: the file can't be read; or what was given has no key.
    """
    lines = read_text(path).splitlines() if path else []
    keys = [line.partition("#")[0].strip() for line in lines]
    keys += [] if variable is None else re.split(r"[\s,]+", variable)
    keys = [key for key in keys if key]
    if not keys and (path or variable is not None):
        raise UserError(f"{path or VARIABLE} has no key: write one a line, 20 characters or more by chance")
    return Keys(keys)


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server at that address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name in a header `Host`, without the port."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
