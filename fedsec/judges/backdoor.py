"""Judge of backdoors: whether the model obeys the trigger, for how long, and what that cost elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import DataError
from fedsec.judges.base import Judge, Judgement, Measurement, Outcome
from fedsec.judges.detection import detection
from fedsec.judges.detection import exhibits as detected
from fedsec.judges.integrity import LAST, accuracy_drop, curves, over_rounds

HALF = 0.5
"""A backdoor has gone when fewer than this share of the probe are read as wanted."""


def last_attack(attacked: Outcome) -> int | None:
    """The last round in which a controlled identity that attacked was heard; ``None`` if nobody knows of one."""
    if "acting" not in attacked.watch:
        return None
    acting = attacked.watch["round"][attacked.watch["acting"].bool()]
    return int(acting.max()) if len(acting) else None


def rounds_until_gone(rounds: tuple[int, ...], success: tuple[float, ...], stop: int) -> tuple[int, bool]:
    """How many rounds a backdoor outlives the attack.

    Args:
        rounds: evaluated rounds, ascending.
        success: share of the probe that is read as wanted after each of them.
        stop: the last attacked round.

    Returns:
        Rounds from the stop to the first evaluated one, the stop included, with a success below `HALF`; and whether
        there was one: if not, they are the rounds up to the last evaluated one, which is a lower bound.
    """
    later = [(number, share) for number, share in zip(rounds, success, strict=True) if number >= stop]
    for number, share in later:
        if share < HALF:
            return number - stop, True
    return (later[-1][0] - stop if later else 0), False


class BackdoorJudge(Judge):
    """Whether inputs with the trigger are read as the adversary wants."""

    name: ClassVar[str] = "backdoor"
    summary: ClassVar[str] = (
        "Share of inputs with the trigger that are read as the adversary wants; the floor is that of the honest model"
    )

    def compare(
        self, honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo, goal: Mapping[str, int]
    ) -> Judgement:
        """Attack success on the probe, its durability, and the accuracy on clean examples.

        Args:
            honest: the federation without the adversary, same seed and defenses, asked the same probe.
            attacked: the one with it.
            test: the clean examples behind the predictions.
            info: of the dataset.
            goal: ``target``, the class that the adversary wants.

        Raises:
            ValueError: the adversary has no probe.
            DataError: the probe is empty.
        """
        if attacked.probe is None or honest.probe is None:
            raise ValueError("the judge backdoor measures the adversary's probe, and this adversary has none")
        if not len(attacked.probe):
            raise DataError(f"no test example of {info.name} can carry the trigger, so nothing can be measured")
        target = goal.get("target")
        wanted = "as wanted" if target is None else f"as {dict(enumerate(info.classes)).get(target, target)}"
        headline = Measurement(
            name="attack_success",
            statistic="mean",
            units=attacked.probe.double(),
            floor_units=honest.probe.double(),
            ceiling=1.0,
            headline=True,
            description=f"Share of inputs with the trigger that are read {wanted}; none of them is of that class",
        )
        lasting, notes = self._durability(honest, attacked)
        return Judgement(
            measurements=(
                headline,
                *lasting,
                accuracy_drop(honest, attacked, test, info),
                *over_rounds(honest, attacked, info),
                *detection(attacked, honest),
            ),
            exhibits={**curves(honest, attacked), **_success_curve(attacked), **detected(attacked)},
            notes=notes,
        )

    @staticmethod
    def _durability(honest: Outcome, attacked: Outcome) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
        """Success over rounds; durability only where rounds follow the last attack."""
        rounds, success = attacked.rounds, attacked.probes
        if not success or len(success) != len(rounds) or honest.probe is None:
            return (), ()
        floor = honest.probe.double()
        late = _tensor(success[-LAST:])
        found = [
            Measurement(
                name="success_last",
                statistic="mean",
                units=late,
                floor_units=floor,
                ceiling=1.0,
                description=f"Mean attack success of the last {len(late)} evaluated rounds",
            )
        ]
        stop = last_attack(attacked)
        if stop is None or stop >= rounds[-1]:
            return tuple(found), ()
        at_stop = next(share for number, share in zip(rounds, success, strict=True) if number >= stop)
        lasted, gone = rounds_until_gone(rounds, success, stop)
        found += [
            Measurement(
                name="success_at_stop",
                statistic="mean",
                units=_tensor((at_stop,)),
                floor_units=floor,
                ceiling=1.0,
                description="Attack success in the first round that was evaluated after the last attack",
            ),
            Measurement(
                name="durability",
                statistic="mean",
                units=_tensor((float(lasted),)),
                floor=0.0,
                ceiling=float(rounds[-1] - stop),
                unit="rounds",
                description="Rounds after the last attack until the success falls below one half",
            ),
        ]
        if gone:
            return tuple(found), ()
        text = f"The backdoor outlived the {rounds[-1] - stop} rounds after the last attack, so it may last longer."
        return tuple(found), (text,)


def _success_curve(attacked: Outcome) -> dict[str, Tensor]:
    """Success after each evaluated round."""
    if len(attacked.probes) != len(attacked.rounds):
        return {}
    return {"curve/success/x": _tensor(attacked.rounds), "curve/success/y": _tensor(attacked.probes)}


def _tensor(values: tuple[float, ...] | tuple[int, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
