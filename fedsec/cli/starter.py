"""``fedsec init``: commented configurations that run as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedsec.errors import ConfigurationError, FedsecError, Problem

STARTER = """\
# fedsec audit FILE       `fedsec plan FILE` shows what it would do, `fedsec list` what else may stand here.
version: 1
name: my first audit

federation:
  # 500 examples train; 500 that no client holds test membership inference; 290 are the attacker's public data.
  dataset: {name: digits, train: 500, holdout: 500, auxiliary: 290}   # your own: {load: "my_data:load"}
  partition: {name: dirichlet, alpha: 0.5}      # how unequal the clients are; `shuffle` makes them alike
  model: {name: mlp, hidden: [64]}              # your own: {build: "my_model:build"}
  clients: 20
  clients_per_round: 10
  rounds: 20
  evaluate_every: 5
  local: {epochs: 1, batch_size: 32, learning_rate: 0.3}

# Each attack is measured against each stack of defenses.
attacks:
  - dlg                                         # what can the server see of the data?
  - loss-threshold                              # who was in the training data?
  - {name: label-flip, fraction: 0.3}           # what can 30 % malicious clients break?
  - {name: fgsm, eps: 0.1}                      # can inputs fool the model that is released?

# `none` is the control: an attack that fails there says nothing about a defense.
defenses:
  - none
  - {name: clip, c: 1.0}
  - {name: dp-client, noise_multiplier: 1.0}
  - coordinate-median
  - [{name: dp-client, noise_multiplier: 1.0}, ckks]   # a stack: both at once

seeds: [0, 1, 2]                                # intervals come from these
device: auto

# `fedsec audit` exits with 1 if a gate is not met.
gates:
  - {stack: coordinate-median, attack: label-flip, metric: severity, below: critical}
"""


POISONING = """\
# fedsec audit FILE       What controlled clients can do to the model, and which rule stands it.
version: 1
name: who can break it

federation:
  dataset: {name: digits, train: 900, holdout: 0, auxiliary: 300}
  partition: {name: dirichlet, alpha: 1.0}      # unequal clients: robust rules drop honest ones too
  model: {name: mlp, hidden: [32]}
  algorithm: {name: fedavg, weighting: uniform} # else an attacker claims many examples
  clients: 20
  rounds: 20
  evaluate_every: 2
  local: {epochs: 1, batch_size: 20, learning_rate: 0.2}

# Three shares of one attack make a breakdown curve. 10 to 40 % is far more than a production federation has:
# `fedsec init --preset production` asks about 0.1 %.
attacks:
  - {name: label-flip, label: label-flip at 10 %, fraction: 0.1}
  - {name: label-flip, label: label-flip at 20 %, fraction: 0.2}
  - {name: label-flip, label: label-flip at 40 %, fraction: 0.4}
  - {name: alie, fraction: 0.2}                 # hides inside the spread of honest updates
  - {name: tailored, fraction: 0.2}             # knows the rule: what a rule is worth shows here
  - {name: badnets, fraction: 0.2, target: 2}   # one class for every image with a small mark
  - {name: sybil, identities: 4, fraction: 0.05, carries: {name: targeted-label-flip, source: 1, target: 7}}

defenses:
  - none
  - {label: norm bound, stack: [{name: clip, c: 1.0, enforced_by: server}]}
  - {name: multi-krum, fraction: 0.2}           # the share that it is set up for
  - {name: trimmed-mean, fraction: 0.2}
  - foolsgold                                   # against Sybils
  - update-statistics                           # a detector: the report shows whom it drops

seeds: [0, 1, 2]
device: auto
"""

PRODUCTION = """\
# fedsec audit FILE       What one compromised client in a thousand can do.
#
# Most papers give the adversary 10 to 50 % of the clients. A service with a million users loses so many to nobody: that
# takes as many machines or accounts, and the share to expect is 0.1 % or less. There the plain mean with a bound on the
# norm already withstands what was tried, and a robust rule costs accuracy for little ("Back to the Drawing Board",
# Shejwalkar, Houmansadr, Kairouz, Ramage, IEEE S&P 2022). Ask about larger shares where identities are cheap, as one
# person can then be many clients: `fedsec init --preset poisoning`.
version: 1
name: one in a thousand

federation:
  # Needs MNIST: `fedsec data fetch mnist`.
  dataset: {name: mnist, train: 20000, holdout: 0, test: 2000}
  partition: {name: dirichlet, alpha: 1.0}
  model: {name: mlp, hidden: [32]}
  algorithm: {name: fedavg, weighting: uniform}
  clients: 1000
  clients_per_round: 50                         # the attacker is in one of 20 rounds
  rounds: 60
  local: {epochs: 2, batch_size: 10, learning_rate: 0.1}

attacks:
  - {name: label-flip, fraction: 0.001}
  - {name: sign-flip, fraction: 0.001, scale: 50.0}   # as loud as all others together
  - {name: badnets, fraction: 0.001, target: 2}
  # The worst case: one update that replaces the model, in the last round, for which the attacker is sure to be drawn.
  - name: model-replacement
    fraction: 0.001
    first_round: 59
    sure: 1
    epochs: 20
    plants: {name: badnets, target: 2}

defenses:
  - none
  - {label: norm bound, stack: [{name: clip, c: 1.0, enforced_by: server}]}
  - {name: trimmed-mean, f: 1}

seeds: [0, 1, 2]
device: auto
"""

Preset = Literal["quick", "poisoning", "production"]
PRESETS: dict[Preset, str] = {"quick": STARTER, "poisoning": POISONING, "production": PRODUCTION}


def write_starter(file: Path, preset: Preset = "quick") -> str:
    """Write the configuration of a preset; says what to type next.

    Raises:
        ConfigurationError: the file exists already.
        FedsecError: it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(PRESETS[preset].replace("FILE", str(file)))
    except FileExistsError as error:
        hint = "Name another file, or delete this one"
        problem = Problem(
            path="", found="", expected="exists already and is not overwritten", hint=hint, file=str(file)
        )
        raise ConfigurationError([problem]) from error
    except OSError as error:
        raise FedsecError(f"{file} cannot be written: {error.strerror}") from error
    return f"wrote {file}; now: fedsec audit {file}\n"
