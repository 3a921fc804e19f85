"""The OpenAPI description of the service."""

from __future__ import annotations

from typing import Any

from linalign_lite.version import __version__

_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_TEXT, _FLAG, _COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
_LIMIT = {"type": ["integer", "null"], "minimum": 1}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _hexadecimal(digits: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[0-9a-fA-F]{{{digits}}}$"}


_ERROR = _object(error=_TEXT, message=_TEXT)
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 64}
_HEAD = _object(
    name=_NAME,
    space={"type": "object"},
    dim={"type": "integer", "minimum": 1},
    n_outputs={"type": "integer", "minimum": 1},
    labels={"type": "array", "items": _TEXT},
    index=_FLAG,
    profile={"enum": ["private", "trusted"]},
    max_error={"type": "number", "minimum": 0},
    needs_account=_FLAG,
    has_budget=_FLAG,
    limit=_LIMIT,
    bits_limit=_LIMIT,
)
_FIT = _object(
    name=_NAME,
    space={"type": "object"},
    dim={"type": "integer", "minimum": 1},
    texts=_COUNT,
    text_digest=_TEXT,
    limit=_LIMIT,
    bits_limit=_LIMIT,
    most_bytes=_COUNT,
)
_USAGE = _object(
    account=_hexadecimal(64),
    used=_COUNT,
    pending=_COUNT,
    limit=_COUNT,
    bits=_COUNT,
    bits_limit=_LIMIT,
    closed=_FLAG,
)
_REFUSED = {
    400: "not what is expected here",
    403: "not allowed, or not signed by an account that is",
    404: "no such head or fit, or no budget, index, ids or centroids of it",
    408: "the request did not arrive in time",
    411: "no length was stated",
    413: "too large",
    422: "it does not fit this head or fit",
    429: "too many requests wait; Retry-After says when to ask again",
    503: "the service cannot answer now",
}
_RETRY = {"description": "seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
_UPLOAD = (400, 403, 408, 411, 413, 429, 503)


def document() -> dict[str, Any]:
    """Return the description as JSON."""
    head = [_parameter("head", "path", "name of a head", _NAME)]
    digits = _hexadecimal(64)
    key = [_parameter("key", "path", "digest of a public key", digits)]
    moment = {"type": "string", "pattern": "^[0-9]{1,20}$"}
    signed = [
        _parameter("linalign-account", "header", "public signing key", digits),
        _parameter("linalign-time", "header", "seconds since 1970", moment),
        _parameter("linalign-signature", "header", "signature", _hexadecimal(128)),
    ]
    sent = {"required": True, "content": _OCTETS}
    named = _json("digest of the key", _object(key=digits))
    scores = {"description": "the encrypted scores", "content": _OCTETS}
    counters = {"description": "counters", "content": {"text/plain": {"schema": _TEXT}}}
    ids = {"description": "an id a line", "content": {"text/plain": {"schema": _TEXT}}}
    ready = _object(ready=_FLAG)
    fit = [_parameter("fit", "path", "name of a fit", _NAME)]
    fits = _json("the fits", _object(fits={"type": "array", "items": _FIT}))
    products = {"description": "the encrypted products", "content": _OCTETS}
    heads = _json("the heads", _object(heads={"type": "array", "items": _HEAD}))
    paths: dict[str, dict[str, Any]] = {
        "/v1/heads": {"get": _operation("List the heads.", {200: heads})},
        "/v1/heads/{head}": {
            "get": _operation(
                "Describe one head.", {200: _json("the head", _HEAD)}, 404, parameters=head
            )
        },
        "/v1/heads/{head}/index": {
            "get": _operation(
                "Send the index.json of an index.",
                {200: _json("the card", {"type": "object"})},
                *(404, 429),
                parameters=head,
            )
        },
        "/v1/heads/{head}/ids": {
            "get": _operation(
                "Send the ids.txt of an index.", {200: ids}, *(404, 429), parameters=head
            )
        },
        "/v1/heads/{head}/centroids": {
            "get": _operation(
                "Send the centroids.rows of an index.",
                {200: {"description": "centroids", "content": _OCTETS}},
                *(404, 429),
                parameters=head,
            )
        },
        "/v1/heads/{head}/score": {
            "post": _operation(
                "Score an encrypted query (*.query); the answer is a *.response.",
                {200: scores},
                *(404, 422, *_UPLOAD),
                parameters=head,
                requestBody=sent,
            )
        },
        "/v1/heads/{head}/budget": {
            "get": _operation(
                "Say what an account has used; the account signs the request.",
                {200: _json("what it has used, and its limits", _USAGE)},
                *(400, 403, 404, 503),
                parameters=head + signed,
            )
        },
        "/v1/fits": {"get": _operation("List the states for private fits.", {200: fits})},
        "/v1/fits/{fit}/answer": {
            "post": _operation(
                "Multiply an offer (*.offer) by the states of a fit; the answer is a *.answer.",
                {200: products},
                *(404, 422, *_UPLOAD),
                parameters=fit,
                requestBody=sent,
            )
        },
        "/v1/keys": {
            "post": _operation(
                "Register a public key (public.key).",
                {200: named, 201: named},
                *_UPLOAD,
                requestBody=sent,
            )
        },
        "/v1/keys/{key}/proof": {
            "put": _operation(
                "Add the proof of a registered key (public.proof).",
                {200: named},
                *_UPLOAD,
                parameters=key,
                requestBody=sent,
            )
        },
        "/health": {
            "get": _operation(
                "Say that the process lives.", {200: _json("it does", _object(status=_TEXT))}
            )
        },
        "/ready": {
            "get": _operation(
                "Say whether queries are scored.",
                {200: _json("they are", ready), 503: _json("not yet, or not any more", ready)},
            )
        },
        "/metrics": {"get": _operation("Counters, for Prometheus.", {200: counters}, 403)},
        "/openapi.json": {
            "get": _operation("This description.", {200: _json("JSON", {"type": "object"})})
        },
    }
    info = {
        "title": "linalign-lite scoring service",
        "version": __version__,
        "description": "Other paths are answered with 404, other methods of a path with 405 and"
        " Allow, in the form of all errors. Bytes that are no HTTP request get 400, and a"
        " connection above the limit 503, both as plain text.",
    }
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _operation(summary: str, found: dict[int, Any], *refused: int, **more: Any) -> dict[str, Any]:
    answers = {str(status): answer for status, answer in found.items()}
    for status in refused:
        answers[str(status)] = _json(_REFUSED[status], _ERROR)
        if status == 429:
            answers[str(status)]["headers"] = {"Retry-After": _RETRY}
    return {"summary": summary, "responses": answers, **more}


def _json(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, place: str, what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": True, "description": what, "schema": schema}
