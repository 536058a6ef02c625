"""This node's certificate: ask for it, take it, say how it is."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.errors import ScopeError, UsageError
from appliance.node.api.answers import object_of, route
from appliance.node.api.services import LocalServices
from appliance.node.enrolment import asked_over_http
from appliance.trust.enrolment import EnrolmentToken


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Enrolment(services)
    return [
        route("GET", "/v1/certificate", group.show),
        route("POST", "/v1/certificate", group.enrol),
        route("POST", "/v1/certificate/export", group.export),
        route("POST", "/v1/certificate/import", group.take),
    ]


class _Enrolment:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def show(self, _: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._services.certificates.status))

    async def enrol(self, request: Request) -> Response:
        """Ask the hub over HTTP: with a token, or by this node's key alone."""
        body = await object_of(request)
        url, text, authority = (_text(body, name) for name in ("hub", "token", "authority"))
        token = EnrolmentToken.parse(text) if text else None
        if token is not None and authority and authority.lower() != token.authority:
            raise ScopeError(
                "the token is of another authority than --ca names",
                hint="compare the hash with: appliance hub ca; then make another token there",
            )
        return JSONResponse(await asyncio.to_thread(self._enrolled, url, token, authority))

    async def export(self, request: Request) -> Response:
        certificates, medium = self._services.certificates, _folder(await object_of(request))
        await asyncio.to_thread(certificates.export, medium)
        found = await asyncio.to_thread(certificates.status)
        return JSONResponse({"node": found["node"], "fingerprint": found["fingerprint"]})

    async def take(self, request: Request) -> Response:
        body = await object_of(request)
        authority, medium = _text(body, "authority"), _folder(body)
        certificates = self._services.certificates
        taken = await asyncio.to_thread(
            lambda: certificates.take_folder(medium, authority=authority)
        )
        return JSONResponse(asdict(taken))

    def _enrolled(
        self, url: str, token: EnrolmentToken | None, authority: str
    ) -> dict[str, object]:
        certificates = self._services.certificates
        chain = asked_over_http(url, certificates.request(token), certificates.authorities())
        taken = certificates.take(chain, authority=token.authority if token else authority)
        certificates.remember_hub(url)
        return asdict(taken)


def _text(body: dict[str, Any], name: str) -> str:
    found = body.get(name, "")
    if not isinstance(found, str):
        raise UsageError(f"{name} is not a text")
    return found


def _folder(body: dict[str, Any]) -> Path:
    path = body.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError("path is not the absolute path of a folder")
    return Path(path)
