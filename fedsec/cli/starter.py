"""``fedsec init``: a commented configuration that runs as it is."""

from __future__ import annotations

from pathlib import Path

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


def write_starter(file: Path) -> str:
    """Write the configuration; says what to type next.

    Raises:
        ConfigurationError: the file exists already.
        FedsecError: it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(STARTER.replace("FILE", str(file)))
    except FileExistsError as error:
        hint = "Name another file, or delete this one"
        problem = Problem(
            path="", found="", expected="exists already and is not overwritten", hint=hint, file=str(file)
        )
        raise ConfigurationError([problem]) from error
    except OSError as error:
        raise FedsecError(f"{file} cannot be written: {error.strerror}") from error
    return f"wrote {file}; now: fedsec audit {file}\n"
