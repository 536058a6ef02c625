"""OCI registries: their addresses, and how to say who we are.

Follows the OCI distribution specification 1.1 and the token scheme that registries share
(https://distribution.github.io/distribution/spec/auth/token/).
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from appliance.core.ids import Digest, digest
from appliance.errors import (
    BadDocumentError,
    MalformedError,
    PeerUnreachableError,
    StateUnusableError,
    UsageError,
)
from appliance.kit.remote import Remote
from appliance.kit.weblink import Login, Url

SCHEMES = {"oci": "https", "oci+http": "http"}
_REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<scheme>oci(?:\+http)?)://(?P<host>[^/@]+)/(?P<repository>{_REPOSITORY}(?:/{_REPOSITORY})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')
_MOST_TOKEN_BYTES = 64 << 10
_EXAMPLE = "oci://HOST/REPOSITORY:TAG, or with @sha256:... instead of the tag"


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository in a registry, and which manifest in it."""

    registry: Url
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Return the reference in ``oci://HOST/REPOSITORY:TAG``.

        ``oci+http://`` speaks to registries without TLS.

        Raises:
            UsageError: it is none; the error shows nothing of it, for it may hold a password.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UsageError("that is not a place in a registry", hint=_EXAMPLE)
        registry = Url.parse(f"{SCHEMES[found['scheme']]}://{found['host']}")
        pinned = None if found["digest"] is None else digest(found["digest"])
        if pinned is None and found["tag"] is None:
            raise UsageError(f"{text} names neither a tag nor a digest", hint=_EXAMPLE)
        return cls(registry, found["repository"], found["tag"], pinned)

    def __str__(self) -> str:
        scheme = next(s for s, web in SCHEMES.items() if web == self.registry.scheme)
        which = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{scheme}://{self.registry.authority}/{self.repository}{which}"

    @property
    def which(self) -> str:
        """What a manifest's address ends with."""
        return str(self.digest or self.tag)

    def blob(self, found: str) -> Url:
        """Return where a blob is."""
        return self._below(f"blobs/{found}")

    def manifest(self, which: str) -> Url:
        """Return where a manifest is, by tag or digest."""
        return self._below(f"manifests/{which}")

    @property
    def uploads(self) -> Url:
        """Where uploads begin."""
        return self._below("blobs/uploads/")

    def _below(self, path: str) -> Url:
        return self.registry.below(f"v2/{self.repository}/{path}")


class RegistryAccount:
    """Who we are for one registry: nobody, a name with each request, or a token for a while."""

    def __init__(self, registry: Url, login: Login | None) -> None:
        self._registry = registry
        self._login = login
        self._header = ""

    def headers(self, url: Url) -> Mapping[str, str]:
        """Return what was agreed on with the registry; blobs on other hosts get none of it."""
        if not self._header or url.origin != self._registry.origin:
            return {}
        return {"Authorization": self._header}

    def challenged(self, remote: Remote, url: Url, challenge: str) -> bool:
        """Answer a challenge; see ``Auth``."""
        kind, _, rest = challenge.partition(" ")
        if url.origin != self._registry.origin:
            return False
        if kind.lower() == "basic" and self._may_send(url):
            self._header = self._login.header() if self._login else ""
            return bool(self._header)
        if kind.lower() == "bearer":
            self._header = "Bearer " + self._token(remote, dict(_PARAMETER.findall(rest)))
            return True
        return False

    def _may_send(self, url: Url) -> bool:
        return self._login is not None and url.keeps_secrets

    def _token(self, remote: Remote, asked: Mapping[str, str]) -> str:
        """Fetch a token where the registry says, if that is a place that it may say."""
        issuer = remote.led(self._registry, self._registry, asked.get("realm", ""))
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        headers = {}
        if self._login is not None and self._may_send(issuer):
            headers["Authorization"] = self._login.header()
        url = issuer.with_query(urlencode(query)) if query else issuer
        try:
            found = json.loads(remote.get(url, _MOST_TOKEN_BYTES, headers))
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError, RecursionError, MalformedError) as error:
            raise PeerUnreachableError(f"{issuer} gave something that is not a token") from error
        if not isinstance(token, str) or not all("!" <= c <= "~" for c in token):
            raise PeerUnreachableError(f"{issuer} gave something that is not a token")
        return token


def login_for(registry: Url, path: Path | None) -> Login | None:
    """Return the account for a registry in a file that docker, podman or oras log in to.

    Args:
        registry: Where.
        path: The file; None takes theirs, if there is one.

    Raises:
        StateUnusableError, BadDocumentError: the file that was named cannot be read, or is none.
    """
    candidates = [path] if path is not None else _usual_files()
    for candidate in candidates:
        try:
            found = json.loads(candidate.read_bytes())
            entry = found.get("auths", {}).get(registry.authority)
        except FileNotFoundError as error:
            if path is not None:
                raise StateUnusableError(f"there is no file of accounts at {path}") from error
            continue
        except OSError as error:
            raise StateUnusableError(f"{candidate} cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            raise BadDocumentError(f"{candidate} is not a file of accounts") from error
        if entry is not None:
            return _login(entry, candidate)
    return None


def _usual_files() -> list[Path]:
    named = os.environ.get("REGISTRY_AUTH_FILE")
    if named:
        return [Path(named)]
    found = []
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "containers" / "auth.json")
    docker = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    return [*found, Path(docker) / "config.json"]


def _login(entry: Any, path: Path) -> Login | None:
    """Return the account in one entry; one that only a helper program knows is none to us."""
    try:
        user, _, password = (
            base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
        )
    except (AttributeError, TypeError, binascii.Error, UnicodeDecodeError) as error:
        raise BadDocumentError(f"{path} is not a file of accounts") from error
    return Login(user, password) if user else None
