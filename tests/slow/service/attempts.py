"""Hostile HTTP requests, drawn from a seed: bytes to send, and the answers that are allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from fuzz import frames
from fuzz.mutators import EDGES, damaged

NORMAL = frozenset({200, 201, 400, 403, 404, 405, 411, 413, 422})
UNREAD = NORMAL | {100, 408}  # of a body that may not arrive
METHODS = (
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT",
    b"PROPFIND", b"PURGE", b"PRI", b"get", b"G\x00T", b"", b"M-SEARCH", b"X" * 300,
)  # fmt: skip
PIECES = (
    b"%00", b"%2e%2e", b"%2F", b"..", b"//", b"%", b"%zz", b"%C3%A9", b"\xc3\xa9", b"\xff", b"%ff",
    b"\x00", b"%0d%0aX:1", b" ", b"?", b"#", b"{head}", b"%68ead0", b"head0", b"HEAD0", b"a" * 5000,
    b"%F0%9F%A6%8A", b"*", b";", b"'", b"<script>", b"${7*7}", b"\\", b"http://other/",
)  # fmt: skip
PATHS = (
    b"/v1/heads", b"/v1/heads/head0", b"/v1/heads/head0/score", b"/v1/heads/head0/budget",
    b"/v1/keys", b"/v1/keys/" + b"0" * 64 + b"/proof", b"/health", b"/ready",
    b"/openapi.json", b"/",
)  # fmt: skip
NAMES = (
    b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"Expect", b"Upgrade",
    b"Range", b"Content-Encoding", b"Content-Type", b"Accept-Encoding", b"Cookie", b"Origin",
    b"Forwarded",
    b"X-Forwarded-For", b"X-Forwarded-Proto", b"TE", b"Trailer", b"linalign-account",
    b"linalign-time", b"linalign-signature", b"If-None-Match", b"", b"X Y", b"X\x00", b"\xff", b":",
)  # fmt: skip
VALUES = (
    b"", b"0", b"-1", b"1", b"+1", b"1e3", b"0x10", b"9" * 30, b"9" * 5000, b"1, 1", b"1_0",
    b"\xef\xbc\x91", b"chunked", b"gzip, chunked", b"chunked, identity", b"close", b"keep-alive",
    b"upgrade", b"websocket", b"h2c", b"100-continue", b"200-continue", b"bytes=0-99999999999",
    b"\x00", b"\xff\xfe", b"a\rb", b"a\tb", b"127.0.0.1", b"999.1.1.1, x", b"00" * 32, b"zz" * 64,
    b"x" * 9000, b"application/json", b"null", b"https://example.org",
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """Bytes for one connection, and the answers that are right.

    ``answers``: their number, if it is known. ``dropped``: fewer, even none, are right, too.
    ``ends``: the client ends its side, and waits for answers; ``leaves``: it waits for none.
    """

    data: bytes
    statuses: frozenset[int] = NORMAL
    answers: int | None = 1
    dropped: bool = False
    ends: bool = False
    leaves: bool = False


@dataclass(frozen=True)
class Corpus:
    """Requests' bodies that are right: queries, public keys and proofs."""

    queries: Sequence[bytes]
    keys: Sequence[bytes]
    proofs: Sequence[bytes]
    digests: Sequence[str]


def request(
    method: bytes, path: bytes, body: bytes = b"", *lines: bytes, length: bytes | None = b""
) -> bytes:
    """A request. ``length``: the one that is stated; None: none is."""
    head = [method + b" " + path + b" HTTP/1.1", b"Host: service", *lines]
    if length is not None:
        head.append(b"Content-Length: " + (length or str(len(body)).encode()))
    return b"\r\n".join([*head, b"", body])


def _framed(r: Random, good: Sequence[bytes], every: Sequence[bytes]) -> bytes:
    body = r.choice(good)
    try:
        return body if r.random() < 0.02 else frames.mutate(body, r, every)[: 1 << 18]
    except (RecursionError, ValueError, OverflowError):  # of the mutator, twice at one place
        return damaged(body, r)


def _query(r: Random, c: Corpus) -> Attempt:
    body = _framed(r, c.queries, [*c.queries, *c.keys])
    return Attempt(request(b"POST", b"/v1/heads/head0/score", body))


def _key(r: Random, c: Corpus) -> Attempt:
    return Attempt(request(b"POST", b"/v1/keys", _framed(r, c.keys, c.queries)[: 1 << 17]))


def _proof(r: Random, c: Corpus) -> Attempt:
    digest = r.choice((*c.digests, "0" * 64, "zz", r.randbytes(32).hex(), "\u00e9")).encode()
    body = damaged(r.choice(c.proofs), r, c.keys)[: 1 << 16]
    return Attempt(
        request(b"PUT", b"/v1/keys/" + digest + b"/proof", body), dropped=b"\xc3" in digest
    )


def _name(r: Random, c: Corpus) -> Attempt:
    parts = [
        r.choice((b"v1", b"heads", b"keys", b"score", *PIECES)) for _ in range(r.randrange(1, 5))
    ]
    path = b"/" + b"/".join(parts) if r.random() < 0.7 else r.choice(PATHS) + r.choice(PIECES)
    return Attempt(request(r.choice((b"GET", b"POST")), path, b"x"), dropped=True, answers=None)


def _budget(r: Random, c: Corpus) -> Attempt:
    lines = []
    for name, size in ((b"account", 32), (b"signature", 64), (b"time", 0)):
        good = r.randbytes(size).hex().encode() or str(r.choice(EDGES)).encode()
        if (sort := r.random()) < 0.8:
            lines.append(b"linalign-" + name + b": " + good)
        elif sort < 0.9:
            lines.append(b"linalign-" + name + b": " + r.choice(VALUES[:12]))
    return Attempt(
        request(b"GET", b"/v1/heads/head0/budget", b"", *lines), dropped=True, answers=None
    )


def _plain(r: Random, c: Corpus) -> Attempt:
    return Attempt(request(b"GET", r.choice((*PATHS[:2], *PATHS[6:]))))


def _method(r: Random, c: Corpus) -> Attempt:
    method = r.choice(METHODS)
    body = r.choice((b"", b"x"))
    return Attempt(request(method, r.choice(PATHS), body), dropped=True, answers=None)


def _headers(r: Random, c: Corpus) -> Attempt:
    lines = [r.choice(NAMES) + r.choice((b": ", b":", b" : ", b"", b"\t:")) + r.choice(VALUES)
             for _ in range(r.choice((1, 1, 2, 5, 100)))]  # fmt: skip
    if r.random() < 0.2:
        lines.append(r.randbytes(r.randrange(200)))
    return Attempt(request(r.choice(METHODS[:4]), r.choice(PATHS), b"xx", *lines), UNREAD,
                   dropped=True, answers=None, ends=r.random() < 0.995)  # fmt: skip


def _length(r: Random, c: Corpus) -> Attempt:
    """Lengths that lie: the rest never comes, or is the next request."""
    body, path = (
        r.choice(c.keys)[: r.choice((0, 10, 5000))],
        r.choice((PATHS[2], PATHS[4], PATHS[6])),
    )
    near = str(max(0, len(body) + r.choice((-5, -1, 1, 7, 100_000)))).encode()
    stated = r.choice(
        (near, near, near, b"-1", b"9" * 19, b"9" * 25, b"0x5", b"5 5", b"5,5", b"+5")
    )
    more = r.choice(((), (), (b"Content-Length: 3",), (b"Transfer-Encoding: chunked",)))
    return Attempt(request(b"POST", path, body, *more, length=stated), UNREAD, dropped=True,
                   answers=None, ends=True)  # fmt: skip


def _chunked(r: Random, c: Corpus) -> Attempt:
    sizes = (
        b"0",
        b"1",
        b"5",
        b"-1",
        b"ffffffffffffffff",
        b"f" * 40,
        b"zz",
        b"",
        b"1;a=" + b"b" * 999,
    )
    body = b"".join(
        r.choice(sizes) + b"\r\n" + b"x" * r.randrange(6) + r.choice((b"\r\n", b"\n", b""))
        for _ in range(r.randrange(5))
    )
    lines = [b"Transfer-Encoding: " + r.choice((b"chunked", b"Chunked", b"chunked, chunked", b"x"))]
    ended = body + r.choice((b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b""))
    return Attempt(request(b"POST", r.choice(PATHS[2:5]), ended, *lines, length=None), UNREAD,
                   dropped=True, answers=None, ends=True)  # fmt: skip


def _expect(r: Random, c: Corpus) -> Attempt:
    body = _framed(r, c.keys, c.keys)
    return Attempt(request(b"POST", b"/v1/keys", body, b"Expect: 100-continue"), UNREAD,
                   answers=None)  # fmt: skip


def _pipelined(r: Random, c: Corpus) -> Attempt:
    several = [_plain, _key, _query, _plain]
    count = r.randrange(2, 12)
    data = b"".join(r.choice(several)(r, c).data for _ in range(count))
    return Attempt(data, answers=count, ends=r.random() < 0.5)


def _half(r: Random, c: Corpus) -> Attempt:
    """A client that ends its side: of a whole request it gets the answer, of a half none."""
    whole = r.choice((_query, _key, _plain))(r, c).data
    if r.random() < 0.5:
        return Attempt(whole, ends=True)
    return Attempt(whole[: r.randrange(len(whole))], UNREAD, answers=None, dropped=True, ends=True)


def _octets(r: Random, c: Corpus) -> Attempt:
    data = r.choice((_query, _key, _plain))(r, c).data
    head, end, body = data.partition(b"\r\n\r\n")
    mutated = r.choice((r.randbytes(200), damaged(head, r) + end + body, damaged(data, r)))
    return Attempt(mutated, UNREAD, answers=None, dropped=True, ends=r.random() < 0.995)


def _flood(r: Random, c: Corpus) -> Attempt:
    """Megabytes of headers, of one header, of a path, or of requests that wait."""
    size = r.choice((1 << 18, 1 << 20, 1 << 21))
    few = request(b"GET", b"/health", b"", length=None)
    data = r.choice((
        request(b"GET", b"/health", b"", *[b"X-%d: y" % i for i in range(size // 12)]),
        request(b"GET", b"/health", b"", b"X: " + b"y" * size),
        request(b"GET", b"/" + b"y" * size),
        few * (size // len(few)),
    ))  # fmt: skip
    return Attempt(data, answers=None, dropped=True, ends=True)


def _leaving(r: Random, c: Corpus) -> Attempt:
    data = r.choice((_query, _key, _plain, _pipelined))(r, c).data
    return Attempt(data[: r.choice((0, 1, len(data) // 2, len(data)))], leaves=True)


KINDS: dict[str, tuple[int, Callable[[Random, Corpus], Attempt]]] = {
    "query": (260, _query), "key": (120, _key), "proof": (80, _proof), "name": (120, _name),
    "budget": (60, _budget), "plain": (60, _plain), "method": (50, _method),
    "headers": (60, _headers), "length": (50, _length), "chunked": (30, _chunked),
    "expect": (20, _expect), "pipelined": (30, _pipelined), "half": (30, _half),
    "octets": (50, _octets), "leaving": (25, _leaving), "flood": (2, _flood),
}  # fmt: skip


def draw(r: Random, corpus: Corpus) -> tuple[str, Attempt]:
    """The kind of an attempt, and the attempt."""
    (kind,) = r.choices(list(KINDS), [share for share, _ in KINDS.values()])
    return kind, KINDS[kind][1](r, corpus)
