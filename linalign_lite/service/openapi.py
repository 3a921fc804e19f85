"""The OpenAPI description of the service."""

from __future__ import annotations

from typing import Any

from linalign_lite.version import __version__

_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
}
_HEAD = {
    "type": "object",
    "required": ["name", "space", "dim", "n_outputs", "labels", "profile", "max_error"],
    "properties": {
        "name": {"type": "string"},
        "space": {"type": "object"},
        "dim": {"type": "integer", "minimum": 1},
        "n_outputs": {"type": "integer", "minimum": 1},
        "labels": {"type": "array", "items": {"type": "string"}},
        "profile": {"enum": ["private", "trusted"]},
        "max_error": {"type": "number"},
        "needs_account": {"type": "boolean"},
        "limit": {"type": ["integer", "null"]},
        "bits_limit": {"type": ["integer", "null"]},
    },
}
_WHAT = {
    400: "not what is expected here",
    403: "not allowed, or not signed by an account that is",
    404: "no such head",
    408: "the request did not arrive in time",
    411: "no length was stated",
    413: "too large",
    422: "it does not fit this head",
    429: "too many requests wait; Retry-After says when to ask again",
    503: "the service cannot answer now",
}


def document() -> dict[str, Any]:
    """Return the description as JSON."""
    head = [_parameter("head", "path", "name of a head")]
    key = [_parameter("key", "path", "digest of a public key, 64 hexadecimal digits")]
    signed = [
        _parameter("linalign-account", "header", "public signing key, 64 hexadecimal digits"),
        _parameter("linalign-time", "header", "seconds since 1970"),
        _parameter("linalign-signature", "header", "signature, 128 hexadecimal digits"),
    ]
    heads = {"type": "object", "properties": {"heads": {"type": "array", "items": _HEAD}}}
    sent = {"required": True, "content": _OCTETS}
    named = _json({"type": "object", "properties": {"key": {"type": "string"}}})
    paths: dict[str, dict[str, Any]] = {
        "/v1/heads": {"get": _operation("List the heads.", {200: _json(heads)})},
        "/v1/heads/{head}": {
            "get": _operation("Describe one head.", {200: _json(_HEAD)}, 404, parameters=head)
        },
        "/v1/heads/{head}/score": {
            "post": _operation(
                "Score an encrypted query (*.query); the answer is a *.response.",
                {200: {"description": "the encrypted scores", "content": _OCTETS}},
                *(400, 403, 404, 408, 411, 413, 422, 429, 503),
                parameters=head,
                requestBody=sent,
            )
        },
        "/v1/heads/{head}/budget": {
            "get": _operation(
                "Say what an account has used; the account signs the request.",
                {200: _json({"type": "object"})},
                *(400, 403, 404, 503),
                parameters=head + signed,
            )
        },
        "/v1/keys": {
            "post": _operation(
                "Register a public key (public.key).",
                {200: named, 201: named},
                *(400, 403, 408, 411, 413, 429),
                requestBody=sent,
            )
        },
        "/v1/keys/{key}/proof": {
            "put": _operation(
                "Add the proof of a registered key (public.proof).",
                {200: named},
                *(400, 403, 408, 411, 413, 429, 503),
                parameters=key,
                requestBody=sent,
            )
        },
        "/health": {"get": _operation("Say that the process lives.", {200: _json({})})},
        "/ready": {"get": _operation("Say whether queries are scored.", {200: _json({})}, 503)},
        "/openapi.json": {"get": _operation("This description.", {200: _json({})})},
    }
    info = {"title": "linalign-lite scoring service", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _operation(summary: str, found: dict[int, Any], *refused: int, **more: Any) -> dict[str, Any]:
    answers = {str(status): answer for status, answer in found.items()}
    answers |= {str(status): {**_json(_ERROR), "description": _WHAT[status]} for status in refused}
    return {"summary": summary, "responses": answers, **more}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "JSON", "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, place: str, what: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": place, "required": True, "description": what, "schema": schema}
