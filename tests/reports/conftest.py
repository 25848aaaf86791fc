"""A deterministic result file with invented numbers, as large and as varied as a real one."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest

SIDE = 14
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "fedsec/audit/run.py", line 88, in run_cell\n'
    "    judgement = judge.measure(evidence, truth)\n"
    "ValueError: 3 reconstructions name round 7, which was not recorded <round 7 & sender 'client:1'>\n"
)

STACKS: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("none", ()),
    ("clip", ({"name": "clip", "family": "clipping", "enforced_by": "client", "parameters": {"bound": 1.0}},)),
    (
        "clip+dp-client",
        (
            {"name": "clip", "family": "clipping", "enforced_by": "client", "parameters": {"bound": 0.5}},
            {
                "name": "dp-client",
                "family": "privacy",
                "enforced_by": "server",
                "parameters": {"noise_multiplier": 0.8, "delta": 1e-5},
            },
        ),
    ),
    ("dp-local", ({"name": "dp-local", "family": "privacy", "enforced_by": "client", "parameters": {"sigma": 1.1}},)),
    ("ckks", ({"name": "ckks", "family": "encryption", "enforced_by": "format", "parameters": {"degree": 8192}},)),
    ("multi-krum", ({"name": "multi-krum", "family": "aggregation", "enforced_by": "server", "parameters": {"f": 2}},)),
    ("coordinate-median", ({"name": "coordinate-median", "family": "aggregation", "enforced_by": "server"},)),
    ("foolsgold", ({"name": "foolsgold", "family": "aggregation", "enforced_by": "server"},)),
    ("update-statistics", ({"name": "update-statistics", "family": "detection", "enforced_by": "server"},)),
    ("pgd-at", ({"name": "pgd-at", "family": "adversarial", "enforced_by": "client", "parameters": {"epsilon": 0.1}},)),
)

# (label, family, judge, active, capability, headline, unit, floor, ceiling, undefended, stacks that help with the rest)
ATTACKS: tuple[tuple[Any, ...], ...] = (
    (
        "linear-layer-inversion",
        "inversion",
        "reconstruction",
        False,
        "observe updates",
        "identified",
        0.02,
        0.98,
        {"clip+dp-client": 0.93, "dp-local": 0.03, "ckks": 0.28},
    ),
    (
        "dlg",
        "inversion",
        "reconstruction",
        False,
        "observe updates",
        "identified",
        0.02,
        0.71,
        {"dp-local": 0.02, "ckks": None, "clip": 0.66},
    ),
    (
        "inverting-gradients",
        "inversion",
        "reconstruction",
        False,
        "observe updates",
        "identified",
        0.02,
        0.86,
        {"dp-local": 0.04, "ckks": 0.11, "clip": 0.84},
    ),
    (
        "property-inference",
        "property",
        "property",
        False,
        "observe updates",
        "auc",
        0.5,
        0.83,
        {"dp-local": 0.56, "ckks": 0.61},
    ),
    (
        "loss-threshold",
        "membership",
        "membership",
        False,
        "query access",
        "tpr_at_1pct",
        0.01,
        0.075,
        {"clip+dp-client": 0.013, "dp-local": 0.012},
    ),
    (
        "label-flip",
        "poisoning",
        "availability",
        True,
        "training data control",
        "accuracy_lost",
        0.004,
        0.21,
        {"multi-krum": 0.02, "coordinate-median": 0.05, "update-statistics": 0.11},
    ),
    (
        "sign-flip",
        "poisoning",
        "availability",
        True,
        "model control",
        "accuracy_lost",
        0.004,
        0.68,
        {"multi-krum": 0.01, "coordinate-median": 0.06, "update-statistics": 0.02, "clip": 0.68},
    ),
    (
        "alie",
        "poisoning",
        "availability",
        True,
        "model control",
        "accuracy_lost",
        0.004,
        0.018,
        {"multi-krum": 0.44, "coordinate-median": 0.19},
    ),
    (
        "sybil x label-flip",
        "sybil",
        "targeted",
        True,
        "additional identities",
        "flipped",
        0.03,
        0.77,
        {"foolsgold": 0.05, "multi-krum": 0.71},
    ),
    (
        "pgd",
        "evasion",
        "evasion",
        False,
        "testing data control",
        "evaded",
        0.06,
        0.97,
        {"pgd-at": 0.34, "dp-local": 0.95},
    ),
)

STORIES = {
    "inversion": "The operator of the server follows the protocol and rebuilds training images from what clients send.",
    "property": "The server learns whether a client's patients are mostly women, which no client agreed to share.",
    "membership": "Whoever holds the released model finds out whether a given person was in the training data.",
    "poisoning": "Three of ten clients send updates that are made to spoil the shared model.",
    "sybil": "One attacker joins under six made-up identities and steers the shared model.",
    "evasion": "A user of the released model changes an input so slightly that nobody sees it, and it is misread.",
}
UNITS = {"identified": "share", "auc": "", "tpr_at_1pct": "share", "accuracy_lost": "share", "flipped": "share"}
DESCRIPTIONS = {
    "identified": "share of reconstructions that are nearer to their true example than all same-class decoys",
    "auc": "area under the ROC curve",
    "tpr_at_1pct": "share of members found while 1% of non-members are accused",
    "accuracy_lost": "test accuracy lost against the honest federation of the same seed",
    "flipped": "share of test examples of the source class that are read as the target class",
    "evaded": "share of correctly read test inputs that are misread after the change",
}


def band(advantage: float) -> str:
    for name, bound in (("critical", 0.75), ("high", 0.5), ("medium", 0.25), ("low", 0.05)):
        if advantage >= bound:
            return name
    return "none"


def clip01(value: float) -> float:
    return min(1.0, max(0.0, value))


def drawing(rng: random.Random, noise: float, shape: tuple[int, int, int]) -> tuple[list[float], list[float]]:
    """A ring with a stroke, and the same with noise, as flat lists in [0, 1]."""
    channels, side, _ = shape
    cx, cy, r = (rng.uniform(0.4, 0.6) * side, rng.uniform(0.4, 0.6) * side, rng.uniform(0.18, 0.32) * side)
    angle = rng.uniform(0, math.pi)
    tint = [rng.uniform(0.4, 1.0) for _ in range(channels)]
    clean, noisy = [], []
    for c in range(channels):
        for i in range(side):
            for j in range(side):
                ring = math.exp(-(((math.hypot(j - cx, i - cy) - r) / 1.1) ** 2))
                line = math.exp(-((((j - cx) * math.sin(angle) - (i - cy) * math.cos(angle)) / 1.3) ** 2))
                inside = 1.0 if math.hypot(j - cx, i - cy) < r * 1.6 else 0.0
                value = clip01(tint[c] * max(ring, line * inside))
                clean.append(round(value, 3))
                noisy.append(round(clip01(value * (1 - noise) + noise * rng.random()), 3))
    return clean, noisy


def metric(value: float, floor: float, ceiling: float, n: int, name: str, headline: bool) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / n)
    low, high = max(0.0, value - half), min(1.0, value + half)
    gain = [round(clip01((x - floor) / (ceiling - floor)), 4) for x in (value, low, high)]
    return {
        "value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": n, "floor": floor,
        "ceiling": ceiling, "advantage": gain[0], "advantage_low": gain[1], "advantage_high": gain[2],
        "unit": UNITS.get(name, "share"), "description": DESCRIPTIONS.get(name, ""), "headline": headline,
        "resolution": 0.002 if name == "tpr_at_1pct" else None,
    }  # fmt: skip


def exhibits_for(family: str, value: float, rng: random.Random, public: bool) -> dict[str, Any]:
    if family == "inversion":
        pairs = [drawing(rng, clip01(1 - value) * (0.4 + 0.15 * k), (1, SIDE, SIDE)) for k in range(5)]
        return {
            "gallery": {
                "shape": [1, SIDE, SIDE],
                "original": [p[0] for p in pairs] if public else None,
                "reconstruction": [p[1] for p in pairs],
                "score": [round(clip01(value + 0.02 - 0.1 * k), 3) for k in range(5)],
                "order": "best to worst",
            }
        }
    if family in ("membership", "property"):
        fpr = [round((k / 60) ** 3, 6) for k in range(61)]
        power = max(0.15, 1 - 2 * abs((value if family == "property" else 0.5 + value * 3) - 0.5))
        return {"roc": {"fpr": fpr, "tpr": [round(f**power, 6) for f in fpr]}}
    if family in ("poisoning", "sybil"):
        x = list(range(1, 21))
        honest = [round(0.95 - 0.8 * math.exp(-k / 4), 4) for k in x]
        attacked = [round(h * (1 - value * (1 - math.exp(-k / 5))), 4) for h, k in zip(honest, x, strict=True)]
        return {"curves": {"honest accuracy": {"x": x, "y": honest}, "attacked accuracy": {"x": x, "y": attacked}}}
    return {}


def make_attack(row: tuple[Any, ...]) -> dict[str, Any]:
    label, family, judge, active, capability, *_ = row
    passive = "server" if capability == "observe updates" else "outsider"
    return {
        "label": label,
        "name": label.split(" ")[0],
        "family": family,
        "summary": f"Measures {family} with the method that the literature calls {label}",
        "position": "client:0+client:1+client:2" if active else passive,
        "story": STORIES[family],
        "knowledge": ["number of examples behind an update"] if family == "inversion" else [],
        "capabilities": [capability],
        "stage": "deployment" if family in ("evasion", "membership") else "training",
        "active": active,
        "judge": judge,
        "parameters": {"iterations": 300, "learning_rate": 0.1, "restarts": 2},
        "paper": {"title": "A paper about it", "authors": "A. Author and B. Author", "venue": "Venue 2020",
                  "where": "Section 3, algorithm 1"},
        "taxonomy": [
            {"framework": "nist-ai-100-2e2025", "id": "NISTAML.032", "name": "Data Reconstruction",
             "strength": "exact"},
            {"framework": "mitre-atlas-5.6", "id": "AML.T0024.001", "name": "Invert AI Model", "strength": "partial"},
            {"framework": "owasp-ml-2023", "id": "", "name": "", "strength": "none"},
        ],
        "cost": "minutes on a CPU" if family == "inversion" else "seconds on a CPU",
    }  # fmt: skip


def make_finding(row: tuple[Any, ...], stack: str, index: int, public: bool) -> dict[str, Any]:
    label, family, _, _, _, name, floor, undefended, helped = row
    rng = random.Random(f"{label}/{stack}")
    finding: dict[str, Any] = {
        "attack": label, "family": family, "stack": stack, "status": "measured", "severity": None, "metrics": {},
        "utility": {}, "cost": {}, "reason": "", "adaptive": label == "alie",
        "control_succeeded": label != "alie", "notes": [], "taxonomy": [],
        "exhibits": {}, "by_seed": {},
    }  # fmt: skip
    if helped.get(stack, 0) is None:
        return finding | {
            "status": "blocked",
            "reason": "Sealed: server receives it and cannot open it; no upload is readable",
        }
    if stack == "ckks" and label == "property-inference":
        return finding | {"status": "error", "reason": TRACEBACK}
    if stack == "update-statistics" and label == "inverting-gradients":
        return finding | {"status": "not run", "reason": "stopped by the user before this cell started"}
    if stack == "pgd-at" and family == "property":
        return finding | {"status": "not applicable", "reason": "the data has no attribute to infer in this federation"}
    value = helped.get(stack, clip01(undefended + rng.uniform(-0.02, 0.02)))
    n = {"inversion": 60, "membership": 1000, "property": 120, "evasion": 500}.get(family, 600)
    metrics = {name: metric(value, floor, 1.0, n, name, True)}
    if family == "inversion":
        psnr = metric(clip01(value), 0.1, 1.0, n, "psnr", False)
        metrics["psnr"] = psnr | {"value": 8 + 14 * value, "low": 7.5 + 14 * value, "high": 8.5 + 14 * value,
                                  "floor": 11.2, "ceiling": 40.0, "unit": "dB",
                                  "description": "peak signal-to-noise ratio of a matched reconstruction"}  # fmt: skip
    accuracy = utility_of(stack)
    lost = min(value, 0.9) * accuracy["accuracy"]["value"] if name == "accuracy_lost" else 0.0
    attacked = {k: round(max(0.0, v - lost), 4) if k in ("value", "low", "high") else v
                for k, v in accuracy["accuracy"].items()}  # fmt: skip
    if family == "membership":
        finding["notes"] = ["With 1000 candidates no false-positive rate below 0.2% can be resolved."]
    return finding | {
        "severity": band(metrics[name]["advantage_high"]),
        "metrics": metrics,
        "utility": {
            "accuracy": attacked,
        },
        "cost": {"seconds_per_cell": 1.6},
        "exhibits": exhibits_for(family, value, rng, public),
        "by_seed": {str(s): round(clip01(value + rng.uniform(-0.03, 0.03)), 4) for s in range(3)},
        "taxonomy": make_attack(row)["taxonomy"],
    }


def utility_of(stack: str) -> dict[str, Any]:
    accuracy = {"none": 0.951, "clip+dp-client": 0.902, "dp-local": 0.713, "pgd-at": 0.884, "multi-krum": 0.938}
    a = accuracy.get(stack, 0.947)
    ratio = {"ckks": 17.4}.get(stack, 1.0)
    slow = {"ckks": 3.61, "pgd-at": 6.9, "multi-krum": 1.04, "dp-local": 1.1}.get(stack, 1.01)
    return {
        "stack": stack,
        "accuracy": {"value": a, "low": round(a - 0.008, 4), "high": round(a + 0.007, 4), "n": 1500, "seeds": 3},
        "loss": round(-math.log(a), 4),
        "upload_bytes_per_client_round": round(31416 * ratio),
        "download_bytes_per_client_round": 31416,
        "seconds_per_round": round(0.042 * slow, 5),
        "ratio_upload": ratio,
        "ratio_seconds": slow,
        "accuracy_drop": {
            "value": round(0.951 - a, 4),
            "low": round(0.945 - a, 4),
            "high": round(0.957 - a, 4),
            "n": 1500,
        },
        "rejected_uploads": {"norm above 1.0": 4} if stack == "clip" else {},
        "dropouts": 2 if stack == "dp-local" else 0,
        "diagnostics": {"clipped_share": 0.31} if stack.startswith("clip") else {},
        "curve": {"x": list(range(1, 21)), "y": [round(a - 0.8 * math.exp(-k / 4), 4) for k in range(1, 21)]},
    }


def make_stack(label: str, defenses: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    claims = []
    if label == "clip+dp-client":
        claims = [
            {
                "defense": "dp-client",
                "epsilon": 3.1416,
                "delta": 1e-5,
                "sampler": "fixed, without replacement",
                "unit": "client",
                "adjacency": "replace-one",
                "accountant": "PRV",
                "empirical_lower_bound": 0.4,
            }
        ]
    if label == "dp-local":
        claims = [
            {
                "defense": "dp-local",
                "epsilon": 8.0,
                "delta": 1e-5,
                "sampler": "none",
                "unit": "update",
                "adjacency": "any two updates",
                "accountant": "analytic Gaussian",
            }
        ]
    if label == "ckks":
        claims = [{"defense": "ckks", "security_bits": 128, "largest_error": 3.2e-7}]
    return {
        "label": label,
        "defenses": [
            {
                "parameters": {}, "summary": f"Applies {d['name']} to every update", "cost": "little",
                "guarantee": {"protects": "the content of a single update", "against": "an honest-but-curious server",
                              "assuming": "the holder of the key does not collude"},
                "paper": {"title": f"The paper on {d['name']}", "authors": "C. Author", "venue": "Venue 2019",
                          "where": ""},
                **d,
            }
            for d in defenses
        ],
        "claims": claims,
        "status": "trained",
    }  # fmt: skip


def make_cell(row: tuple[Any, ...], finding: dict[str, Any], seed: int) -> dict[str, Any]:
    label, family = row[0], row[1]
    topic = {"inversion": "update", "property": "update"}.get(family, "model")
    aggregate = finding["stack"] == "ckks" and topic == "update"
    seen = finding["status"] == "measured"
    return {
        "key": f"{abs(hash_text(label + finding['stack'] + str(seed))):016x}",
        "attack": label, "stack": finding["stack"], "seed": seed, "status": finding["status"],
        "metrics": {k: {"value": m["value"], "n": m["n"], "floor": m["floor"], "ceiling": m["ceiling"]}
                    for k, m in finding["metrics"].items()},
        "cost": {"seconds": round(1.5 + seed * 0.1, 2)}, "reason": finding["reason"],
        "seen": {
            "position": make_attack(row)["position"] + ("+key-holder" if aggregate else ""),
            "events": [{"topic": "aggregate" if aggregate else topic, "count": 5 if aggregate else 50,
                        "rounds": [0, 1, 2, 3, 4], "bytes": 157080 if aggregate else 1570800}] if seen else [],
            "knowledge": make_attack(row)["knowledge"],
        },
    }  # fmt: skip


def hash_text(text: str) -> int:
    return random.Random(text).getrandbits(64)


def make_document(*, public: bool = True, rows: tuple[tuple[Any, ...], ...] = ATTACKS) -> dict[str, Any]:
    findings = [make_finding(row, stack, k, public) for row in rows for k, (stack, _) in enumerate(STACKS)]
    by_label = {row[0]: row for row in rows}
    count = {s: sum(f["status"] == s for f in findings) for s in
             ("measured", "blocked", "not applicable", "not run", "error")}  # fmt: skip
    gates = [
        {"gate": "attack inverting-gradients at most medium on clip+dp-client", "met": False,
         "found": "critical (86.0%, interval to 94.8%)"},
        {"gate": "accuracy drop at most 5% on multi-krum", "met": True, "found": "1.30%"},
    ]  # fmt: skip
    return {
        "schema": "fedsec/audit/1",
        "tool": {"name": "fedsec", "version": "0.1.0"},
        "created": "2026-03-14T15:09:26Z",
        "name": "mnist-ten-clients",
        "title": "Ten clients train a digit reader",
        "verdict": {"status": "gates violated", "complete": False, "worst": "critical",
                    "sentence": "One of two gates is violated: single updates can be turned back into training images "
                    "under clip+dp-client, because that noise is added by the server that reads them.",
                    "gates": gates},
        "complete": False,
        "config": {"version": 1, "data": {"name": "mnist", "examples": 600}, "model": {"name": "lenet"},
                   "seeds": [0, 1, 2], "attacks": [r[0] for r in rows], "defenses": [s for s, _ in STACKS]},
        "environment": {"python": "3.11.9", "torch": "2.13.0", "fedsec": "0.1.0", "platform": "Linux", "cpu": "x86_64",
                        "device": "cpu", "jobs": 2, "seconds": 412.7},
        "federation": {
            "dataset": {"name": "mnist", "summary": "Handwritten digits", "task": "classification", "modality": "image",
                        "input_shape": [1, SIDE, SIDE], "classes": [str(k) for k in range(10)], "bounds": [0.0, 1.0],
                        "public": public, "source": "LeCun, Cortes, Burges: the MNIST database",
                        "licence": "CC BY-SA 3.0"},
            "model": {"name": "lenet", "parameters": 7854},
            "clients": 10, "clients_per_round": 10, "rounds": 20, "algorithm": "fedavg", "local_epochs": 1,
            "batch_size": 8, "learning_rate": 0.1, "partition": {"name": "dirichlet", "alpha": 0.5}, "seeds": [0, 1, 2],
        },
        "attacks": [make_attack(row) for row in rows],
        "stacks": [make_stack(label, defenses) for label, defenses in STACKS],
        "cells": [make_cell(by_label[f["attack"]], f, s) for f in findings for s in range(3)],
        "findings": findings,
        "utilities": [utility_of(stack) for stack, _ in STACKS],
        "coverage": {"measured": 3 * count["measured"], "blocked": 3 * count["blocked"],
                     "not_applicable": 3 * count["not applicable"], "not_run": 3 * count["not run"],
                     "error": 3 * count["error"], "total": 3 * len(findings)},
        "opens": [
            {"secret": secret, "stack": stack, "coalitions": holders}
            for stack, _ in STACKS
            for secret, holders in (
                ("one client's update", [["server", "key-holder"]] if stack == "ckks" else [["server"]]),
                ("the sum of a round", [["key-holder"]] if stack == "ckks" else [["server"]]),
            )
        ],
    }  # fmt: skip


BASE = make_document()


@pytest.fixture
def document() -> dict[str, Any]:
    """A realistic document: 10 attacks, 10 stacks, 3 seeds, with every status."""
    return copy.deepcopy(BASE)


@pytest.fixture
def private_document() -> dict[str, Any]:
    """The same with the originals withheld."""
    return make_document(public=False)
