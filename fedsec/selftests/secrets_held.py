"""Who holds what: no key in the server's hands, no plaintext on the wire, nothing that repeats."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2

from fedsec.errors import FedsecError
from fedsec.protocol.payload import Kind, Masked, Plain, Sealed
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, Bench
from fedsec.selftests.seeds import recorded_seeds
from fedsec.selftests.sums import hidden, masked

SERVER = "server"
CANARY = 0.0371704
"""A value that no stage would write by chance."""
ENOUGH_BITS = 64
_DEPTH = 12


def sealed(bench: Bench) -> str:
    """Sealed rows; masks cancel, and whoever adds rows up reads the sum."""
    return hidden(bench) or ("" if bench.defense.emits == Kind.SEALED else "sums of masked rows are read without keys")


def no_secret_at_the_server(bench: Bench) -> Answer:
    """Everything that can be reached from the public operations, looked through for secret keys."""
    done = bench.round(bench.stages(), bench.updates(), bench.weights())
    sent = done.sent[0]
    if not isinstance(sent, Sealed | Masked):
        return Answer(False, f"a {sent.kind} payload", "a sealed or masked one")
    found = sorted(set(secrets_in(sent.scheme, "scheme")))
    return Answer(not found, "; ".join(found) or "no secret key", "no secret key within reach of the server")


def secrets_in(value: Any, path: str, seen: set[int] | None = None, depth: int = 0) -> Iterator[str]:
    """Where secret keys can be reached from an object: attributes, items, and serialised contexts.

    An object that says in ``party`` whose it is, and is not the server's, is not looked into.

    Args:
        value: the object.
        path: how it was reached.
        seen: identities of what was looked at.
        depth: of the walk.
    """
    seen = set() if seen is None else seen
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | torch.Tensor | torch.dtype | type):
        return
    if id(value) in seen or depth > _DEPTH:
        return
    seen.add(id(value))
    if isinstance(value, bytes | bytearray | memoryview):
        if _context_with_secret(bytes(value)):
            yield f"{path}: a serialised context with the secret key"
        return
    if str(getattr(value, "party", SERVER)) != SERVER:
        return  # another party of the protocol, which is simulated in the same process
    kind = type(value).__name__.lower()
    if "private" in kind or "secretkey" in kind:
        yield f"{path}: a {type(value).__name__}"
        return
    for question in ("has_secret_key", "is_private"):
        ask = getattr(value, question, None)
        if callable(ask) and not isinstance(value, type):
            try:
                if ask() is True:
                    yield f"{path}: {question}() is true"
            except (RuntimeError, ValueError, TypeError):
                continue
    if isinstance(value, Mapping):
        items = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, Sequence | set | frozenset):
        items = [(f"{path}[{place}]", item) for place, item in enumerate(value)]
    else:
        slots = {name: getattr(value, name, None) for name in getattr(type(value), "__slots__", ())}
        items = [(f"{path}.{name}", item) for name, item in {**slots, **getattr(value, "__dict__", {})}.items()]
    for where, item in items:
        yield from secrets_in(item, where, seen, depth + 1)


def _context_with_secret(data: bytes) -> bool:
    if len(data) < 64:
        return False
    try:
        import tenseal

        return bool(tenseal.context_from(data, n_threads=1).has_secret_key())
    except Exception:  # whatever a parser of foreign bytes raises: they are no context
        return False


def opener_needs_its_keys(bench: Bench) -> Answer:
    """Opening with an empty vault: who holds no key reads nothing."""
    values = bench.updates()
    stages = bench.stages()
    done = bench.round(stages, values, bench.weights())
    stranger = bench.stages()
    stranger.participants = tuple(range(CLIENTS))
    try:
        opened = stranger.opening(done.aggregate, 0, ())[-1]
    except (FedsecError, PermissionError, TypeError, ValueError, RuntimeError, KeyError) as error:
        return Answer(True, f"refused: {type(error).__name__}", "a refusal, or nothing of the sum")
    if not isinstance(opened, Plain):
        return Answer(True, f"still {opened.kind}", "a refusal, or nothing of the sum")
    read = opened.values[0].double()
    if float(opened.weights.sum()) == 0.0 and not bool(read.any()):
        return Answer(True, "nothing", "a refusal, or nothing of the sum")
    near = bool(torch.isfinite(read).all()) and float((read - done.right).abs().max()) < 0.5 * float(
        done.right.abs().max()
    )
    return Answer(not near, "the sum" if near else "numbers that have nothing to do with it", "nothing of the sum")


def canaries(bench: Bench) -> Answer:
    """A row of one recognisable value, looked for in the bytes in every form in which it is usually written."""
    values = torch.full((CLIENTS, bench.updates().shape[1]), CANARY)
    done = bench.round(bench.stages(), values, bench.weights())
    if bench.defense.open_share > 0:
        return _open_part(bench, done.serialised())
    hits: set[str] = set()
    for row, written in enumerate(done.serialised()):
        weight = float(done.given.weights[row])
        hits.update(name for name, pattern in patterns(CANARY, weight) if pattern in written)
    found = ", ".join(sorted(hits)) or "none of it"
    return Answer(not hits, f"{found} in {CLIENTS} rows", "no plaintext in the bytes on the wire")


def _open_part(bench: Bench, written: list[bytes]) -> Answer:
    """Of a defense that says that it leaves a share in clear: no more than that."""
    allowed = math.ceil(bench.defense.open_share * bench.updates().shape[1])
    found = max(row.count(struct.pack("<f", CANARY)) for row in written)
    return below(found, allowed, "coordinates in clear:")


def patterns(value: float, weight: float) -> Iterator[tuple[str, bytes]]:
    """How a run of one value may stand on the wire.

    Args:
        value: of the update.
        weight: of the client; the value may have been multiplied by it.

    Yields:
        ``(name, bytes)``.
    """
    for number, said in ((value, "the value"), (value * weight, "the weighted value")):
        for order, code in (("little", "<"), ("big", ">")):
            yield f"{said} as float32 ({order}-endian)", struct.pack(f"{code}4f", *[number] * 4)
            yield f"{said} as float64 ({order}-endian)", struct.pack(f"{code}2d", *[number] * 2)
            for bits in range(10, 31):
                whole = round(number * 2**bits)
                if 2**12 < whole < 2**31:
                    yield f"{said} in fixed point of 2^-{bits}", struct.pack(f"{code}4i", *[whole] * 4)
        yield f"{said} as text", f"{number:.6g}".encode()


def fresh(bench: Bench) -> Answer:
    """The same row from two clients, in two rounds, and in two runs of one seed: bytes that have nothing in common."""
    values = bench.updates()[:1].expand(CLIENTS, -1).clone()
    weights = torch.ones(CLIENTS, dtype=torch.float64)
    stages = bench.stages()
    first = bench.round(stages, values, weights).serialised()
    second = bench.round(stages, values, weights, number=1).serialised()
    again = bench.round(bench.stages(), values, weights).serialised()
    shares = {
        "two clients": common(first[0], first[1]),
        "two rounds": common(first[0], second[0]),
        "two runs of one seed": common(first[0], again[0]),
    }
    worst = max(shares, key=lambda name: shares[name])
    return below(shares[worst], 0.05, f"share of words that nearly repeat between {worst}:")


def common(one: bytes, other: bytes) -> float:
    """Share of the 4-byte words, zeros left out, of which two texts have nearly (by less than 256) the same."""
    size = min(len(one), len(other)) // 4
    a, b = (np.frombuffer(text[: 4 * size], "<u4") for text in (one, other))
    told = (a != 0) | (b != 0)
    distance = np.minimum(a - b, b - a)
    return float((distance[told] < 256).mean()) if told.any() else 1.0


def uniform_masks(bench: Bench) -> Answer:
    """Chi-square of the bytes of masked rows of zeros, headers left out."""
    counts = np.zeros(256)
    stages = bench.stages(rounds=8)
    zeros = torch.zeros_like(bench.updates())
    for number in range(8):
        for written in bench.round(stages, zeros, bench.weights(), number=number).serialised():
            body = np.frombuffer(written, np.uint8)[-4 * zeros.shape[1] :]
            counts += np.bincount(body, minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    chance = float(chi2.sf(statistic, 255))
    found = f"chi-square {statistic:.0f} on 255 degrees over {counts.sum():.0f} bytes (chance {chance:.2g})"
    return Answer(chance > 1e-6, found, "a chance above 1e-06")


def seed_entropy(bench: Bench) -> Answer:
    """Seeds that the stage gives to generators of pseudo-random numbers while it masks."""
    stages = bench.stages(rounds=8)
    with recorded_seeds() as seeds:
        for number in range(8):
            bench.round(stages, bench.updates(), bench.weights(), number=number)
    small: list[str] = []
    for source, values in sorted(seeds.items()):
        bits = max(value.bit_length() for value in values)
        if len(set(values)) >= CLIENTS and bits < ENOUGH_BITS - 8:
            small.append(f"{source}: {len(values)} seeds, none above 2^{bits}, so 2^{bits} guesses open every mask")
    return Answer(not small, "; ".join(small) or "no generator with a small seed", f"at least {ENOUGH_BITS} bits")


TESTS = (
    KnownAnswer("server-holds-no-key", "Is no secret key within reach of the server", hidden, no_secret_at_the_server),
    KnownAnswer("opening-needs-keys", "Does who holds no key read nothing", sealed, opener_needs_its_keys),
    KnownAnswer("plaintext-canaries", "Is no plaintext in the bytes on the wire", hidden, canaries),
    KnownAnswer("freshness", "Do equal rows never give equal bytes", hidden, fresh),
    KnownAnswer("mask-uniformity", "Are masked words uniform", masked, uniform_masks),
    KnownAnswer("seed-entropy", "Are the seeds of masks too many to be guessed", hidden, seed_entropy),
)
