"""chat: a conversation in the terminal, through the gateway like any other client."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, show
from appliance.errors import PeerUnreachableError, SignatureError, UsageError
from appliance.kit.http import HttpClient
from appliance.wiring import places


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the command."""
    app.command(name, help=help_text)(chat)


def chat(
    model: Annotated[str, typer.Argument(help="The deployment's name.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this and end; else a conversation.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most this long an answer.")] = 512,
    key: Annotated[
        str | None, typer.Option("--key", envvar="APPLIANCE_API_KEY", help="The API key.")
    ] = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    hint = "appliance status says whether it serves"
    gateway = HttpClient.over_tcp(_url(state_dir), "the gateway", hint, key or "")
    body = {"model": model, "max_tokens": max_tokens, "stream": True}
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None:
        said = _answer(gateway, {**body, "messages": [_user(prompt)]}, echo=not as_json)
        if as_json:
            show({"model": model, "content": said}, "", as_json=True)
        return
    _converse(gateway, body)


def _converse(gateway: HttpClient, body: dict[str, Any]) -> None:
    print(f"Talking to {body['model']}; an empty line or Ctrl-D ends it.")
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if not text:
            return
        messages.append(_user(text))
        said = _answer(gateway, {**body, "messages": messages}, echo=True)
        messages.append({"role": "assistant", "content": said})


def _answer(gateway: HttpClient, body: dict[str, Any], *, echo: bool) -> str:
    parts = []
    for line in _lines(gateway, body):
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise PeerUnreachableError(str(event["error"].get("message")))
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content") or ""
            parts.append(text)
            if echo:
                print(text, end="", flush=True)
    if echo:
        print()
    return "".join(parts)


def _lines(gateway: HttpClient, body: dict[str, Any]) -> Iterator[str]:
    try:
        yield from gateway.lines("POST", "/v1/chat/completions", body)
    except SignatureError as error:
        hint = "--key KEY or APPLIANCE_API_KEY; appliance gateway key create NAME makes one"
        raise SignatureError(error.what, hint=hint) from error


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _url(state: Path) -> str:
    try:
        found = json.loads((state / places.GATEWAY_ADDRESS).read_text())
    except (OSError, ValueError) as error:
        raise PeerUnreachableError(
            f"no gateway runs on {state}", hint="start it with: appliance gateway run"
        ) from error
    host = f"[{found['host']}]" if ":" in found["host"] else found["host"]
    if not isinstance(found.get("port"), int):
        raise UsageError(f"{state / places.GATEWAY_ADDRESS} names no port")
    return f"http://{host}:{found['port']}"
