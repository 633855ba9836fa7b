"""Who may come in, as files say it: one worker a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerctx.errors import InvalidConfig
from workerctx_starlette.gateway._identity import Identity

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS: Final = 3
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""What RFC 4514 calls the parts of a name."""


def read_identities(path: Path) -> dict[str, Identity]:
    """Read a file of identities by what they show: a token, or the name in a certificate.

    Each line has who it is, its namespaces with commas between them, and what it shows; lines that are empty or begin
    with ``#`` are left out. A ``!`` before who it is lets its handlers do what operators do.

    Raises:
        InvalidConfig: The file cannot be read, or a line makes no sense; what it shows is not repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as exc:
        raise InvalidConfig(f"{path} cannot be read: {exc}") from exc
    found: dict[str, Identity] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        columns = line.split(None, _COLUMNS - 1)
        if len(columns) < _COLUMNS:
            raise InvalidConfig(
                f"line {number} of {path} has {len(columns)} of {_COLUMNS} columns: who it is, its namespaces, and what"
                " it shows"
            )
        subject, namespaces, shown = columns
        shown = shown.strip()
        if shown in found:
            raise InvalidConfig(f"line {number} of {path} shows the same as {found[shown].subject!r} does")
        found[shown] = Identity(
            subject.removeprefix("!"),
            tuple(name for name in namespaces.split(",") if name),
            steers=subject.startswith("!"),
        )
    return found


def tls_extension(ssl_object: Any) -> dict[str, Any]:
    """Return what ASGI's ``tls`` extension says of a connection whose client certificate was verified."""
    certificate: dict[str, Any] = ssl_object.getpeercert() or {}
    return {
        "client_cert_name": distinguished_name(certificate.get("subject", ())) or None,
        "client_cert_error": None,
        "tls_version": None,
        "cipher_suite": None,
    }


def distinguished_name(subject: Any) -> str:
    """Write a certificate's subject as RFC 4514 does, the last part first."""
    return ",".join(
        "+".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in part)
        for part in reversed(tuple(subject))
    )


def _escaped(value: str) -> str:
    value = "".join(f"\\{char}" if char in '\\,+"<>;' else char for char in value)
    if value.startswith(("#", " ")):
        value = f"\\{value}"
    return f"{value[:-1]}\\ " if value.endswith(" ") and len(value) > 1 else value
