"""Seconds and bytes of secure aggregation for clients and server: ``python -m benchmarks.secure_aggregation``.

All clients and the server run in one process and exchange the bytes of the protocol; each party's processor time is
taken apart. Rows are random words. After the masked rows are made, every pattern of dropouts ends the round in a child
of its own (`os.fork`), so that all start from the same masks; dropouts before sharing need a round of their own. Every
sum is compared with the sum of the rows that arrived. Writes ``docs/results/secure-aggregation.{md,json}``.
"""

import argparse
import json
import os
import platform
import resource
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np

from benchmarks.environments import ROOT
from fedsec.defenses.secure_aggregation.client import Client
from fedsec.defenses.secure_aggregation.graph import threshold_of
from fedsec.defenses.secure_aggregation.keys import Identity
from fedsec.defenses.secure_aggregation.messages import Aborted, ProtocolError, Terms
from fedsec.defenses.secure_aggregation.server import Server

PHASES = ("keys", "shares", "upload", "agreement", "revelation")
SIZES = {
    "500 x 100,000": (500, 100_000, (40, 80, None)),
    "100 x 1,000,000": (100, 1_000_000, (None,)),
}
RATES = (0.1, 0.3)
PROTOTYPE = {
    ("500 x 100,000", None, 0.0): 0.04,
    ("500 x 100,000", None, 0.1): 2.0,
    ("500 x 100,000", 40, 0.1): 0.19,
    ("500 x 100,000", 40, 0.3): 0.39,
}
"""Seconds of the server in a prototype of the masks alone, without Shamir's shares, on another such machine."""


class Round:
    """One round, with the processor time of every party."""

    def __init__(self, n, length, degree, active, gone=None):
        self.gone = {phase: set() for phase in PHASES} | (gone or {})
        self.terms = Terms(session=os.urandom(16), round=0, length=length, degree=degree, active_server=active)
        people = {number: Identity(number) for number in range(n)}
        directory = {number: identity.public for number, identity in people.items()}
        self.client_seconds = dict.fromkeys(range(n), 0.0)
        self.server_seconds = {}
        self.up = self.down = 0
        self.clients = {number: Client(who, self.terms, directory) for number, who in people.items()}
        self.server = Server(self.terms)
        self.silent = set(self.gone["keys"])
        self._collect("set-up", {c: b"" for c in people}, lambda c, _: self.clients[c].advertise(), "receive_keys")
        rosters = self._serve("set-up", self.server.roster)
        self.silent |= self.gone["shares"]
        self._collect("set-up", rosters, lambda c, m: self.clients[c].share(m), "receive_shares")
        deliveries = self._serve("set-up", self.server.deliver)
        self.ready = self._collect("set-up", deliveries, lambda c, m: self.clients[c].accept(m), None)
        self.set_up_seconds = dict(self.client_seconds)

    def _serve(self, phase, function):
        started = process_time()
        messages = function()
        self.server_seconds[phase] = self.server_seconds.get(phase, 0.0) + process_time() - started
        self.down += sum(map(len, messages.values()))
        return messages

    def _collect(self, phase, messages, answer, receive):
        """Ask clients, and hand what they answer to the server; returns who answered."""
        answered = []
        for number, message in messages.items():
            if number in self.silent:
                continue
            started = process_time()
            try:
                reply = answer(number, message)
            except ProtocolError:
                continue
            finally:
                self.client_seconds[number] += process_time() - started
            answered.append(number)
            if receive is not None:
                self.up += len(reply)
                started = process_time()
                getattr(self.server, receive)(reply)
                self.server_seconds[phase] = self.server_seconds.get(phase, 0.0) + process_time() - started
        return answered

    def mask(self):
        """Masked rows of everybody who is ready."""
        self.masked = {}
        for number in self.ready:
            row = row_of(number, self.terms.length)
            started = process_time()
            self.masked[number] = self.clients[number].mask(row)
            self.client_seconds[number] += process_time() - started

    def finish(self, gone):
        """The rest of the round."""
        n = len(self.clients)
        truth = np.zeros(self.terms.length, np.uint32)
        result = {"result": "right sum"}
        try:
            self.silent |= gone.get("upload", set())
            self._collect("add", self.masked, lambda c, m: m, "receive_masked")
            for number in self.server.sum.senders:
                truth += row_of(number, self.terms.length)
            self.silent |= gone.get("agreement", set())
            if self.terms.active_server:
                survivors = self._serve("recover", self.server.survivors)
                self._collect("recover", survivors, lambda c, m: self.clients[c].agree(m), "receive_agreement")
            self.silent |= gone.get("revelation", set())
            requests = self._serve("recover", self.server.request)
            self._collect("recover", requests, lambda c, m: self.clients[c].unmask(m), "receive_revelation")
            started = process_time()
            try:
                total = self.server.finish()
            finally:
                self.server_seconds["recover"] += process_time() - started
            if not np.array_equal(total, truth):
                result["result"] = "wrong sum"
        except Aborted as reason:
            result["result"] = f"aborted: {reason}"
        there = [c for c in self.clients if c not in self.silent] or [0]
        rows = len(self.server.sum.senders) * (4 * self.terms.length + 33)
        return result | {
            "client_seconds": median(self.client_seconds[c] for c in there),
            "client_set_up": median(self.set_up_seconds[c] for c in there),
            "server_seconds": sum(self.server_seconds.values()),
            "server_set_up": self.server_seconds["set-up"],
            "server_add": self.server_seconds.get("add", 0.0),
            "server_recover": self.server_seconds.get("recover", 0.0),
            "recovered": len(self.server.recovered),
            "overhead_up": (self.up - rows) / n,
            "overhead_down": self.down / n,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def row_of(number, length):
    """The row of a client: random words."""
    return np.random.default_rng(number).integers(0, 1 << 32, length, dtype=np.uint32)


def in_child(function):
    """What a function returns in a fork of this process (JSON-able)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                pipe.write(json.dumps(function()))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def chosen(n, rate, phase):
    """Who vanishes."""
    count = round(rate * n)
    order = np.random.default_rng([n, PHASES.index(phase)]).permutation(n)
    return {int(c) for c in order[:count]}


def measure(name, degree, active, *, early):
    """All patterns of dropouts of one size and graph."""
    n, length, _ = SIZES[name]
    rows = []

    def note(phase, rate, result):
        rows.append(
            {"size": name, "neighbours": degree, "active_server": active, "phase": phase, "dropouts": rate}
            | {"threshold": threshold_of(degree or n - 1, active_server=active)} | result
        )  # fmt: skip
        print(name, degree, active, phase, rate, result["result"], f"{result['server_seconds']:.2f}", flush=True)

    def late():
        session = Round(n, length, degree, active)
        session.mask()
        found = [("none", 0.0, in_child(lambda: session.finish({})))]
        for phase in PHASES[2:]:
            if phase == "agreement" and not active:
                continue
            for rate in RATES:
                gone = {phase: chosen(n, rate, phase)}
                found.append((phase, rate, in_child(lambda gone=gone: session.finish(gone))))
        return found

    for phase, rate, result in in_child(late):
        note(phase, rate, result)
    for phase in PHASES[:2] if early else ():
        for rate in RATES:

            def whole(phase=phase, rate=rate):
                session = Round(n, length, degree, active, {phase: chosen(n, rate, phase)})
                session.mask()
                return session.finish({})

            note(phase, rate, in_child(whole))
    return rows


def table(rows):
    """The Markdown page."""
    lines = [
        "# Seconds and bytes of secure aggregation",
        "",
        "Written by `python -m benchmarks.secure_aggregation`. All parties in one process, words of 32 bits, and the",
        "processor time of every party on one core taken apart. Client: median over those that stay, the whole round.",
        "Server: the whole round; *recover*: of it what follows the rows (collect shares, open secrets, expand masks).",
        "Every sum was compared with the sum of the rows that arrived. Bytes: per client, without the masked row.",
        "*Prototype*: seconds of the server for masks alone, without shares, measured before on another such machine.",
        "",
        f"Machine: {processor()}, Python {platform.python_version()}.",
        "",
    ]
    for name in SIZES:
        lines += [
            f"## {name}",
            "",
            "| server | neighbours | threshold | vanish | before | result | client, s | server, s | recover, s | "
            "prototype, s | up, kB | down, kB |",
            "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in (r for r in rows if r["size"] == name):
            known = (
                PROTOTYPE.get((name, row["neighbours"], row["dropouts"]))
                if row["phase"] in ("none", "upload")
                else None
            )
            result = row["result"].split(":")[0]
            lines.append(
                f"| {'may cheat' if row['active_server'] else 'curious'} | {row['neighbours'] or 'all'} "
                f"| {row['threshold']} | {row['dropouts']:.0%} | {row['phase'] if row['dropouts'] else ''} | {result} "
                f"| {row['client_seconds']:.3f} | {row['server_seconds']:.2f} | {row['server_recover']:.2f} "
                f"| {'' if known is None else known} | {row['overhead_up'] / 1000:.1f} "
                f"| {row['overhead_down'] / 1000:.1f} |"
            )
        lines.append("")
    lines += [
        "*Before*: the step before which they vanish: keys, shares, upload of the row, agreement on the survivors,",
        "the revelation of shares. A round is aborted where some neighbourhood is left with fewer than its threshold:",
        "sparse graphs need more neighbours than their average loss suggests, and a threshold above two thirds leaves",
        "less room for 30%.",
        "",
    ]
    return "\n".join(lines)


def processor():
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--neighbours", nargs="*", help="only these numbers, `all` for the complete graph")
    parser.add_argument("--servers", nargs="*", default=["curious", "cheating"], choices=["curious", "cheating"])
    parser.add_argument(
        "--late", action="store_true", help="no dropouts before sharing, which need rounds of their own"
    )
    given = parser.parse_args()
    rows = []
    for name in given.sizes:
        for degree in SIZES[name][2]:
            if given.neighbours is None or str(degree or "all") in given.neighbours:
                for server in given.servers:
                    rows += measure(name, degree, server == "cheating", early=not given.late)
                    write(given.output, rows)


def write(folder, rows):
    """The results so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secure-aggregation.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "secure-aggregation.md").write_text(table(rows))


if __name__ == "__main__":
    main()
