"""Who holds the secret key, and what that means: the same for every scheme of this folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsec.errors import ConfigurationError, Problem

KeyHolder = Annotated[
    Literal["clients", "authority", "threshold"],
    Field(
        description="who holds the secret key: every client the same one, or a party of its own; `threshold` (shares "
        "of which several are needed) is refused, because the libraries have no such decryption"
    ),
]


def refuse_threshold(name: str, key_holder: str) -> None:
    """Refuse what is not there before anything is encrypted under a key that somebody does hold.

    Raises:
        ConfigurationError: the key is to be shared by a threshold.
    """
    if key_holder != "threshold":
        return
    raise ConfigurationError(
        [
            Problem(
                path="key_holder",
                found="threshold",
                expected=f"{name} with a key that one party holds: neither TenSEAL nor phe can decrypt with shares of "
                "a key, so a threshold would be a claim that nothing enforces",
                hint="Use `key_holder: authority` (a party that does not collude with the server) or `clients`",
            )
        ]
    )


def holders_of_key(key_holder: str) -> frozenset[str]:
    """The role that opens a ciphertext."""
    return frozenset({"client" if key_holder == "clients" else "key-holder"})


def custody_claims(key_holder: str) -> dict[str, float | str]:
    """Who opens what."""
    if key_holder == "clients":
        return {
            "key_custody": "every client holds the same secret key: the server together with any one client opens "
            "every upload, and every client reads the aggregate",
            "opened_by": "server+client",
        }
    return {
        "key_custody": "a party of its own holds the secret key: the server together with it opens every upload, "
        "and it reads the aggregate",
        "opened_by": "server+key-holder",
    }
