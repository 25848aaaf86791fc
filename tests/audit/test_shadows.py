"""Shadow federations: the public algorithm on other data, kept under a key that says what can change them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from fedsec.audit.bench import Workbench
from fedsec.audit.build import Builder
from fedsec.audit.challenge import client_challenge, membership_challenge, participants
from fedsec.audit.keys import digest
from fedsec.audit.plan import make_plan
from fedsec.audit.shadows import Shadows, in_clear, shadow_setup
from fedsec.audit.store import Artifacts
from fedsec.config import config_from
from fedsec.data.embedded import Digits
from fedsec.data.partitions import FeatureSkew, Shuffle
from fedsec.data.split import split
from fedsec.federation.evaluate import evaluate
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import Softmax
from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import numpy_generator
from fedsec.registry import get


def build(*, holdout: int = 100, clients: int = 5, seed: int = 0) -> FederationSetup:
    dataset = Digits().load(None)
    parts = split(
        dataset, train=150, holdout=holdout, auxiliary=200, test=300, generator=numpy_generator(seed, "split")
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = FlatModel.of(Softmax().build(dataset.info), task="classification", name="softmax")
    return FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=parts,
        index=Shuffle().assign(parts.clients, clients, generator=numpy_generator(seed, "partition")),
        partition=Shuffle(),
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=clients),
        local=LocalTraining(epochs=2, batch_size=10, learning_rate=0.3),
        weighting="examples",
        server=ServerStep(),
        rounds=3,
        evaluate_every=1,
        seed=seed,
    )


def sets(setup, *starts):
    return [setup.split.auxiliary.take(range(start, start + 120)) for start in starts]


def shadows(folder: Path, *, training: str = "t", stack=(), setup=None) -> Shadows:
    return Shadows(setup or build(), stack, training, Artifacts(folder))


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.safetensors")}


def test_a_shadow_is_a_federation_on_its_own_training_set(tmp_path):
    setup = build()
    models = shadows(tmp_path)(sets(setup, 0, 80), 7)
    assert models.shape == (2, setup.model.layout.size)
    for vector in models:
        assert (
            evaluate(setup.model, vector, setup.split.test).accuracy
            > evaluate(setup.model, setup.initial, setup.split.test).accuracy + 0.3
        )
    assert not torch.equal(models[0], models[1])


def test_full_batches_with_one_local_step_are_gradient_descent_on_the_whole_set(tmp_path):
    local = LocalTraining(epochs=1, batch_size=None, learning_rate=0.5)
    setup = dataclasses.replace(build(), local=local)
    (training_set,) = sets(setup, 0)
    found = shadows(tmp_path, setup=setup)([training_set], 0)[0]
    weights = setup.initial.clone().requires_grad_()
    for _ in range(setup.rounds):
        (w, b) = weights[:640].view(10, 64), weights[640:]
        loss = torch.nn.functional.cross_entropy(training_set.x.flatten(1) @ w.T + b, training_set.y)
        (gradient,) = torch.autograd.grad(loss, weights)
        weights = (weights - 0.5 * gradient).detach().requires_grad_()
    torch.testing.assert_close(found, weights.detach(), atol=1e-5, rtol=1e-5)


def test_asked_twice_it_trains_once(tmp_path, monkeypatch):
    setup = build()
    first = shadows(tmp_path)(sets(setup, 0, 80), 7)
    monkeypatch.setattr(Federation, "run", lambda *_: pytest.fail("trained again"))
    torch.testing.assert_close(shadows(tmp_path)(sets(setup, 0, 80), 7), first, atol=0, rtol=0)
    # A part of what is there is there too.
    torch.testing.assert_close(shadows(tmp_path)(sets(setup, 0), 7), first[:1], atol=0, rtol=0)


def test_whatever_changes_a_shadow_changes_its_key():
    one = shadows(Path("unused"))
    (base,) = sets(one.setup, 0)
    other_label = dataclasses.replace(base, y=base.y.roll(1))
    other_input = dataclasses.replace(base, x=base.x + 1e-7)
    reordered = base.take(torch.arange(len(base)).flip(0))
    keys = [one.key(training_set, 0, 0) for training_set in (base, other_label, other_input, reordered)]
    keys += [one.key(base, 1, 0), one.key(base, 0, 1), shadows(Path("unused"), training="u").key(base, 0, 0)]
    assert len(set(keys)) == len(keys)
    assert one.key(base.take(range(len(base))), 0, 0) == keys[0]


def test_its_noise_is_its_own(tmp_path):
    noisy = (get("defenses", "dp-client")(clip_norm=1.0, noise_multiplier=0.5),)
    setup = build()
    a = shadows(tmp_path, stack=noisy)(sets(setup, 0), 0)
    b = shadows(tmp_path / "b", stack=noisy)(sets(setup, 0), 1)
    clear = shadows(tmp_path / "c", training="clear")(sets(setup, 0), 0)
    assert (a - b).norm() > 0.1
    assert (a - clear).norm() > 0.1


def test_encryption_is_left_out_and_its_weights_stay():
    ckks = get("defenses", "ckks")()
    clip = get("defenses", "clip")(c=1.0)
    setup, stack = in_clear(build(), (clip, ckks))
    assert stack == (clip,)
    assert setup.weighting == "examples"


def test_environments_of_clients_cannot_be_copied():
    with pytest.raises(NotApplicable, match="environments"):
        shadow_setup(dataclasses.replace(build(), partition=FeatureSkew()), sets(build(), 0)[0], seed=0)


def test_more_clients_than_examples(tmp_path):
    setup = dataclasses.replace(build(), rounds=1)
    assert shadows(tmp_path, setup=setup)([setup.split.auxiliary.take(range(3))], 0).isfinite().all()


def _work(folder: Path, done) -> None:
    setup = build()
    run = Federation.run

    def counted(self, *args):
        done.put(os.getpid())
        time.sleep(0.1)
        return run(self, *args)

    Federation.run = counted
    shadows(folder)(sets(setup, 0, 20, 40, 60), 3)


def test_two_processes_share_the_work(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len([done.get(timeout=5) for _ in range(4)]) == 4
    assert done.empty()
    assert len(files(tmp_path)) == 4


def test_killed_at_any_time_it_leaves_whole_shadows_only(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    worker = context.Process(target=_work, args=(tmp_path, done))
    worker.start()
    done.get(timeout=30)
    done.get(timeout=30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    left = files(tmp_path)
    assert 1 <= len(left) < 4
    assert all(Artifacts(tmp_path).has(key) for key in left)
    whole = shadows(tmp_path / "whole")(sets(build(), 0, 20, 40, 60), 3)
    torch.testing.assert_close(shadows(tmp_path)(sets(build(), 0, 20, 40, 60), 3), whole, atol=0, rtol=0)


def test_a_damaged_shadow_is_trained_again(tmp_path):
    one = shadows(tmp_path)
    training_sets = sets(one.setup, 0)
    first = one(training_sets, 0)
    path = one.artifacts.path(one.key(training_sets[0], 0, 0))
    path.write_bytes(path.read_bytes()[:-100])
    torch.testing.assert_close(one(training_sets, 0), first, atol=0, rtol=0)


def test_owners_are_the_clients_that_hold_the_candidates():
    setup = build()
    challenge = membership_challenge(setup)
    assert torch.equal(challenge.owners >= 0, challenge.members)
    for row in range(len(challenge.candidates)):
        owner = int(challenge.owners[row])
        if owner >= 0:
            held = setup.shard(owner).examples()
            assert (held.x == challenge.candidates.x[row]).flatten(1).all(1).any()


def test_client_candidates_are_alike_but_for_the_training():
    setup = build()
    challenge = client_challenge(setup)
    assert int(challenge.participants.sum()) == 5 == int((~challenge.participants).sum())
    sizes = [len(candidate) for candidate in challenge.candidates]
    assert sorted(s for s, p in zip(sizes, challenge.participants, strict=True) if p) == sorted(
        s for s, p in zip(sizes, challenge.participants, strict=True) if not p
    )
    pool = {digest(row.flatten().tolist()) for row in setup.split.clients.x}
    made_up: list[str] = []
    for candidate, took_part in zip(challenge.candidates, challenge.participants, strict=True):
        held = [digest(row.flatten().tolist()) for row in candidate.x]
        assert (sum(one in pool for one in held) / len(held) > 0.9) == bool(took_part)
        made_up += [] if took_part else held
    assert len(made_up) == len(set(made_up))
    assert len(participants(setup)) == 5


def test_made_up_clients_have_the_labels_of_real_ones():
    index = get("partitions", "shards")(shards_per_client=2)
    setup = build(holdout=900)
    setup = dataclasses.replace(
        setup, index=index.assign(setup.split.clients, 5, generator=numpy_generator(0, "partition")), partition=index
    )
    challenge = client_challenge(setup)
    real = sorted(tuple(c.y.unique().tolist()) for c, p in zip(*_pair(challenge), strict=True) if p)
    cut = sorted(tuple(c.y.unique().tolist()) for c, p in zip(*_pair(challenge), strict=True) if not p)
    assert real == cut


def _pair(challenge):
    return challenge.candidates, challenge.participants.tolist()


def test_without_a_hold_out_there_is_no_question():
    assert client_challenge(build(holdout=0)) is None


def test_attacks_of_an_audit_share_shadows_and_other_stacks_have_their_own(tmp_path):
    entry = {"name": "lira", "shadows": 4}
    config = config_from(
        {
            "version": 1,
            "name": "shadows",
            "federation": {
                "dataset": {"name": "digits", "train": 60, "holdout": 60, "auxiliary": 60, "test": 50},
                "model": "softmax",
                "clients": 3,
                "rounds": 2,
            },
            "attacks": [entry, {**entry, "label": "own", "variance": "per-sample"}, {"name": "rmia", "mode": "online"}],
            "defenses": [{"label": "none", "stack": []}, {"label": "clip", "stack": [{"name": "clip", "c": 0.5}]}],
            "seeds": [0],
        }
    )
    plan = make_plan(config, Builder(config))
    bench = Workbench(config, tmp_path)
    for task in (*plan.trainings, *plan.cells):
        bench.run(task, lambda *_: None)
    kinds = [Artifacts(tmp_path).read(key).document["kind"] for key in files(tmp_path)]
    assert kinds.count("shadow") == 2 * 4
    assert kinds.count("cell") == 6
