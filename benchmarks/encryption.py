"""What encryption of a million values costs, scheme by scheme: ``python -m benchmarks.encryption``.

Each scheme is measured in a fresh process of one thread: processor seconds of a client (encrypt, serialise), of the
server (parse and add one row) and of the key holder (decrypt), bytes on the wire, and growth of the resident set at its
highest. TenSEAL's usual defaults, which its tutorials use and others copy, are measured in the same run. Then wall
seconds with more processes, and rounds of a federation of the 1.66-million-parameter CNN in clear and encrypted.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT
from benchmarks.rounds import machine

RESULTS = ROOT / "docs" / "results"
SIZE = 1_000_000
FEWER = {"paillier-2048": 9_300, "paillier-3072": 9_300}
"""Values that Paillier is measured on; seconds are extrapolated in proportion to a million."""
SCHEMES = {
    "defaults": "TenSEAL's usual defaults: CKKS 8192, [60, 40, 40, 60], scale 2^40",
    "ckks": "`ckks`: one data prime, 8192",
    "ckks-4096": "`ckks`, `poly_modulus: 4096`",
    "bfv-14": "`bfv`: 14 bits, two to a slot, 64 clients",
    "bfv-8": "`bfv`, `bits: 8`: three to a slot, 32 clients",
    "paillier-2048": "`paillier`: 16 bits, 93 to a ciphertext, 64 clients",
    "paillier-3072": "`paillier`, `key_bits: 3072`",
}
PHASES = ("client", "encrypt", "serialise", "add", "decrypt")
CLIENTS, ROUNDS = 10, 2


def context(size, clients, cohort, vault):
    """A round of one stage alone."""
    from fedsec.models.flat import Layout, Slot
    from fedsec.protocol.stage import RoundContext

    return RoundContext(
        round=0,
        rounds=1,
        clients=tuple(range(clients)),
        layout=Layout((Slot("w", (size,), 0, size, True),)),
        population=cohort,
        cohort=cohort,
        sampling="all",
        seed=0,
        vault=vault,
    )


def defense(name):
    """The defense of a row of the table, and the cohort that its lanes are made for."""
    from fedsec.defenses.encryption.bfv import BFV
    from fedsec.defenses.encryption.ckks import CKKS
    from fedsec.defenses.encryption.paillier import Paillier

    return {
        "ckks": (CKKS(), 64),
        "ckks-4096": (CKKS(poly_modulus=4096), 64),
        "bfv-14": (BFV(), 64),
        "bfv-8": (BFV(bits=8), 32),
        "paillier-2048": (Paillier(bits=16), 64),
        "paillier-3072": (Paillier(bits=16, key_bits=3072), 64),
    }[name]


def clock(run):
    """Processor seconds and the result."""
    begin = time.process_time()
    result = run()
    return time.process_time() - begin, result


def ours(name, values):
    """Seconds by phase, bytes, and the largest error of the mean of two rows."""
    import tenseal as ts

    from fedsec.protocol.payload import Plain, Sealed

    stage, cohort = defense(name)
    size, vault = values.shape[1], {}
    told = context(size, 2, cohort, vault)
    update = Plain(values, torch.ones(2))
    sealed = stage.seal(update, told)
    scheme, first, second = sealed.scheme, *sealed.ciphertexts
    found = {"bytes": sealed.nbytes(0) / size}
    alone = context(size, 1, cohort, vault)
    found["client"] = min(clock(lambda: stage.seal(update.rows([0]), alone))[0] for _ in range(3))
    if not name.startswith("paillier"):
        # what takes how long of it: the same chunks, step by step
        row = values[0].double().numpy()
        if name.startswith("bfv"):
            codes = np.zeros(2 + size, dtype=np.int64) + stage.grid.levels
            codes[:2] = 1
            lists = [np.frombuffer(chunk, "<i8").tolist() for chunk in scheme.chunks(codes)]
            make = ts.bfv_vector
        else:
            slots = scheme.poly_modulus // 2
            lists = [row[at : at + slots].tolist() for at in range(0, size, slots)]
            make = ts.ckks_vector
        found["encrypt"], parts = clock(lambda: [make(scheme.context, part) for part in lists])
        found["serialise"] = clock(lambda: [part.serialize() for part in parts])[0]
    total = scheme.start(first)
    found["add"], total = clock(lambda: scheme.add(total, second))
    summed = Sealed((scheme.finish(total),), scheme, sealed.holders, 2)
    found["decrypt"], mean = clock(lambda: stage.open(summed, told))
    found["error"] = float((mean.values[0] - values.mean(0)).abs().max())
    return found


def defaults(values):
    """The same of TenSEAL's usual defaults, by its own interface."""
    import tenseal as ts

    made = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1)
    made.global_scale = 2**40
    rows = values.double().numpy()

    def encrypt(row):
        return [ts.ckks_vector(made, row[at : at + 4096].tolist()) for at in range(0, len(row), 4096)]

    found = {}
    found["encrypt"], parts = clock(lambda: encrypt(rows[0]))
    found["serialise"], wires = clock(lambda: [part.serialize() for part in parts])
    found["client"] = found["encrypt"] + found["serialise"]
    found["bytes"] = sum(map(len, wires)) / len(rows[0])
    other = [part.serialize() for part in encrypt(rows[1])]

    def add():
        for part, wire in zip(parts, other, strict=True):
            part.add_(ts.ckks_vector_from(made, wire))

    found["add"] = clock(add)[0]
    found["decrypt"], opened = clock(lambda: np.concatenate([part.decrypt() for part in parts]))
    found["error"] = float(np.abs(opened / 2 - rows.mean(0)).max())
    return found


def resident(field):
    """A field of this process' status in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def one(name):
    """One scheme, in this process."""
    torch.set_num_threads(1)
    size = FEWER.get(name, SIZE)
    values = 0.05 * torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    if name == "defaults":
        import tenseal  # noqa: F401 - so that its own size is not counted
    else:
        defense(name)
    before = resident("VmRSS")
    found = defaults(values) if name == "defaults" else ours(name, values)
    found["memory"] = resident("VmHWM") - before
    found["measured"] = size
    for phase in PHASES:
        if phase in found:
            found[phase] *= SIZE / size
    return found


def scaling():
    """Wall seconds per client of eight rows of a million values, and processor seconds of the busiest process."""
    from fedsec.defenses.encryption.bfv import BFV
    from fedsec.protocol.payload import Plain

    torch.set_num_threads(1)
    values = 0.05 * torch.randn(8, SIZE, generator=torch.Generator().manual_seed(0))
    update, wall, busiest = Plain(values, torch.ones(8)), {}, {}
    stages = {count: (BFV(processes=count), {}) for count in (0, 1, 2)}
    for stage, vault in stages.values():  # processes start, keys are made
        stage.seal(update.rows([0]), context(SIZE, 1, 64, vault))
    for _ in range(5):
        for count, (stage, vault) in stages.items():
            begin, used = time.perf_counter(), processor_seconds()
            stage.seal(update, context(SIZE, 8, 64, vault))
            wall.setdefault(count, []).append((time.perf_counter() - begin) / 8)
            most = max(after - used[process] for process, after in processor_seconds().items())
            busiest.setdefault(count, []).append(most / 8)
    return {str(count): {"wall": min(wall[count]), "busiest": min(busiest[count])} for count in stages}


def processor_seconds():
    """Processor seconds so far of this process and each of those that it started."""
    found = {os.getpid(): time.process_time()}
    for process in multiprocessing.active_children():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        found[process.pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def federation(stack, workers):
    """Seconds of each round but the first, which starts the processes, and the ledger's bytes per upload.

    Processor seconds of this process where it does everything itself, else wall seconds.
    """
    from benchmarks.fedsec_rounds import INFO, SOURCES, w
    from fedsec.data.examples import Examples
    from fedsec.data.partitions import Shuffle
    from fedsec.data.split import Split
    from fedsec.federation.population import Participation
    from fedsec.federation.rounds import Federation
    from fedsec.federation.setup import FederationSetup, ServerStep
    from fedsec.federation.training import LocalTraining
    from fedsec.models.flat import FlatModel
    from fedsec.randomness import numpy_generator

    torch.set_num_threads(1)
    x, y, _ = w.data()
    pool = Examples(x, y).take(range(CLIENTS * w.SHARD))
    few = pool.take(range(100))
    partition = Shuffle()
    torch.manual_seed(0)
    model = FlatModel.of(SOURCES["cnn"].build(INFO), task=INFO.task, name="cnn")
    setup = FederationSetup(
        info=INFO,
        fingerprint="",
        split=Split(pool, few, few, few),
        index=partition.assign(pool, CLIENTS, generator=numpy_generator("encryption benchmark")),
        partition=partition,
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=CLIENTS),
        local=LocalTraining(batch_size=w.BATCH, learning_rate=w.RATE),
        weighting="examples",
        server=ServerStep(),
        rounds=1 + ROUNDS,
        evaluate_every=1 + ROUNDS,
        seed=0,
    )
    now, times = (time.process_time if workers == 1 else time.perf_counter), []
    result = Federation(setup, stack, workers=workers).run(lambda done, total: times.append(now()))
    seconds = [after - before for before, after in pairwise(times)]
    return {
        "seconds": seconds,
        "upload": result.ledger.upload_bytes / result.ledger.uploads,
        "accuracy": result.accuracy[-1],
        "parameters": model.layout.size,
        "saturated": result.diagnostics.get("bfv.saturated_share", 0.0),
    }


def rounds(kind):
    """One federation of the comparison, in this process."""
    from fedsec.defenses.encryption.bfv import BFV

    workers = 2 if kind.endswith("2") else 1
    stack = () if kind.startswith("plain") else (BFV(largest_weight=600, processes=workers if workers > 1 else 0),)
    return federation(stack, workers)


def fresh(*arguments):
    """What a fresh process of this module measures."""
    command = [sys.executable, "-m", "benchmarks.encryption", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    print(" ".join(arguments), done.stdout.strip().splitlines()[-1][:160], file=sys.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def whole_rounds():
    """Rounds in clear and encrypted, in turns, on one core and on two."""
    found = {}
    for _ in range(2):
        for kind in ("plain1", "bfv1", "plain2", "bfv2"):
            told = fresh("--rounds", kind)
            kept = found.setdefault(kind, told | {"seconds": []})
            kept["seconds"] += told["seconds"]
    for told in found.values():
        told["median"] = statistics.median(told["seconds"])
    return found


PARTS = {
    "schemes": lambda: {name: fresh("--one", name) for name in SCHEMES},
    "scaling": lambda: fresh("--scaling"),
    "rounds": whole_rounds,
}


def table(report):
    """The report as Markdown."""
    schemes, scaled, whole = report["schemes"], report["scaling"], report["rounds"]
    lines = [
        "# What encryption costs",
        "",
        "Written by `python -m benchmarks.encryption`. One update of 1,000,000 float32 values (4 MB in clear).",
        "Processor seconds of one core; each scheme in a fresh process. *Client* is everything from the update to",
        "the bytes that are sent (the best of three; of the defaults one run), for `bfv` and `paillier` with",
        "quantisation; *encrypt* and *serialise* are the library's calls in it, run once. *Add*: the server parses",
        "one more row and adds it. *Decrypt*: the key holder opens the sum, with unpacking. *Error*: largest",
        "difference of the opened mean of two rows from the mean in clear; for quantised rows the step of rounding",
        "bounds it. *Memory*: growth of the process at its highest, with two rows, their ciphertexts, and the",
        "library's copies.",
        "",
        f"Machine: {report['machine']}.",
        "",
        "| scheme | client, s | encrypt, s | serialise, s | add, s | decrypt, s | bytes per value | x fp32 "
        "| memory, MB | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in schemes.items():
        cells = [f"{row[phase]:.3f}" if phase in row else "" for phase in PHASES]
        star = "*" if row["measured"] < SIZE else ""
        lines.append(
            f"| {SCHEMES[name]}{star} | " + " | ".join(cells) + f" | {row['bytes']:.2f} | {row['bytes'] / 4:.2f} | "
            f"{row['memory'] / 1e6:.0f} | {row['error']:.1e} |"
        )
    fewer = next(iter(FEWER.values()))
    lines += [
        "",
        f"\\* Seconds measured on {fewer:,} values and extrapolated in proportion; memory is that of the smaller run.",
        "",
        "## Processes",
        "",
        "Seconds per client of sealing eight updates of 1,000,000 values with `bfv`, the best of five in turns. Wall",
        "seconds hang on what else the machine does; no run ends before its busiest process, and its processor seconds",
        "hardly do. One process quantises in any case, so with `processes: 2` three share the work.",
        "",
        "| `processes` | wall, s | busiest process, processor s | speed-up by it |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {count} | {row['wall']:.3f} | {row['busiest']:.3f} | {scaled['0']['busiest'] / row['busiest']:.2f} |"
            for count, row in scaled.items()
        ),
        "",
        "## A whole round",
        "",
        f"{CLIENTS} clients, the CNN of McMahan et al. with {whole['plain1']['parameters']:,} parameters, 600 images",
        "and one local epoch each: training, sealing, wire, sum, opening. Median over the rounds of two runs each, in",
        "turns, without the first round, which starts the processes: processor seconds of one process, wall seconds",
        "of several.",
        "",
        "| | in clear, s | `bfv`, s | ratio | bytes per upload in clear | with `bfv` |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cores in "12":
        plain, sealed = whole[f"plain{cores}"], whole[f"bfv{cores}"]
        title = "one process" if cores == "1" else "two workers that train, `processes: 2`"
        lines.append(
            f"| {title} | {plain['median']:.2f} | "
            f"{sealed['median']:.2f} | {sealed['median'] / plain['median']:.2f} | {plain['upload'] / 1e6:.2f} MB | "
            f"{sealed['upload'] / 1e6:.2f} MB |"
        )
    lines.append("")
    return "\n".join(lines)


def main():
    """Measure, and write ``docs/results/encryption.{json,md}``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=SCHEMES, help="measure one scheme in this process and print JSON")
    parser.add_argument("--scaling", action="store_true", help="measure processes only and print JSON")
    parser.add_argument("--rounds", choices=("plain1", "bfv1", "plain2", "bfv2"), help="one federation, as JSON")
    parser.add_argument("--only", choices=PARTS, help="measure one part anew, and keep the others as they are stored")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
    elif given.scaling:
        print(json.dumps(scaling()))
    elif given.rounds:
        print(json.dumps(rounds(given.rounds)))
    else:
        RESULTS.mkdir(parents=True, exist_ok=True)
        stored = RESULTS / "encryption.json"
        report = json.loads(stored.read_text()) if given.only and stored.exists() else {}
        report["machine"] = machine()
        for part, measure in PARTS.items():
            if given.only in (None, part):
                report[part] = measure()
                stored.write_text(json.dumps(report, indent=1) + "\n")
        if report.keys() >= PARTS.keys():
            (RESULTS / "encryption.md").write_text(table(report))
            print(table(report))


if __name__ == "__main__":
    main()
