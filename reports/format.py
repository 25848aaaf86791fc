"""Numbers as a reader wants them: three significant digits, percent for shares, KiB, seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MISSING = "—"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def significant(value: float | None) -> str:
    """Three significant digits; integers in full with groups of thousands; powers of ten where zeros would pile up.

    Example:
        >>> significant(0.5), significant(1234), significant(-1.2345), significant(3.2e-7)
        ('0.500', '1,234', '−1.23', '3.20 × 10⁻⁷')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    exponent = math.floor(math.log10(abs(rounded)))
    if exponent < -4 or exponent > 6:
        return f"{rounded / 10.0**exponent:.2f} × 10{str(exponent).translate(_SUPERSCRIPTS)}".replace("-", "−")
    return f"{rounded:,.{max(0, 2 - exponent)}f}".replace("-", "−")


def quantity(value: float | None, unit: str = "") -> str:
    """A value with its unit; shares become percent.

    Example:
        >>> quantity(0.4321, "share"), quantity(11.2, "dB"), quantity(None, "share")
        ('43.2%', '11.2 dB', '—')
    """
    text = plain(value, unit)
    if text == MISSING or not unit:
        return text
    return f"{text}%" if unit == "share" else f"{text} {unit}"


def plain(value: float | None, unit: str = "") -> str:
    """A value in its unit, with the unit left unsaid (for the second line of a cell)."""
    if value is None or not math.isfinite(value):
        return MISSING
    return significant(float(value) * 100 if unit == "share" else float(value))


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """Both ends of an interval, empty if there is none.

    Example:
        >>> interval(0.38, 0.489, "share"), interval(-0.1, 0.2)
        ('38.0–48.9%', '−0.100 to 0.200')
    """
    if low is None or high is None:
        return ""
    sign = "%" if unit == "share" else (f" {unit}" if unit else "")
    joint = "–" if low >= 0 else " to "
    return f"{plain(low, unit)}{joint}{plain(high, unit)}{sign}"


def size(count: float | None) -> str:
    """Bytes in KiB, MiB or GiB.

    Example:
        >>> size(31416), size(512), size(5 * 2**20)
        ('30.7 KiB', '0.500 KiB', '5.00 MiB')
    """
    if count is None:
        return MISSING
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{significant(float(amount))} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds; from two minutes on in minutes, from two hours on in hours.

    Example:
        >>> duration(0.042), duration(412.7), duration(9000)
        ('0.0420 s', '6 min 53 s', '2 h 30 min')
    """
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{significant(float(seconds))} s"
    if seconds < 7200:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def ratio(value: float | None) -> str:
    """A factor, as in ``1.04×``."""
    return MISSING if value is None else f"{significant(float(value))}×"


def points(drop: float | None, unit: str = "share") -> str:
    """A loss of accuracy as a signed change, in percentage points for shares.

    Example:
        >>> points(0.0131), points(-0.002), points(0.0)
        ('−1.31 points', '+0.200 points', '±0 points')
    """
    if drop is None:
        return MISSING
    sign = "±" if drop == 0 else ("−" if drop > 0 else "+")
    return f"{sign}{plain(abs(drop), unit)} {'points' if unit == 'share' else unit}".rstrip()


def value_text(value: Any) -> str:
    """Any JSON value on one line, as it would be typed in a configuration."""
    if isinstance(value, str):
        return value
    exact = json.dumps(value, ensure_ascii=False)
    return f"{value:.5g}" if isinstance(value, float) and len(exact) > 8 else exact


def pairs(mapping: Mapping[str, Any]) -> str:
    """``name: value`` pairs on one line."""
    return ", ".join(f"{name}: {value_text(value)}" for name, value in mapping.items())


def flow(mapping: Mapping[str, Any]) -> str:
    """One line of YAML that a configuration accepts, exact and quoted where needed.

    Example:
        >>> flow({"name": "dlg", "restarts": 2})
        '{name: "dlg", restarts: 2}'
    """
    inside = ", ".join(f"{_key(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in mapping.items())
    return f"{{{inside}}}"


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name[0].isalpha() else json.dumps(name, ensure_ascii=False)


def counted(count: Any, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sentence(text: Any) -> str:
    """A text with a capital and a full stop.

    Example:
        >>> sentence("area under the ROC curve")
        'Area under the ROC curve.'
    """
    bare = str(text).strip().rstrip(".")
    return f"{bare[:1].upper()}{bare[1:]}."


def among(chosen: Sequence[str], everything: Collection[str]) -> str:
    """A list of stacks, named by what is missing where that is shorter.

    Example:
        >>> among(["a", "b", "c"], ["a", "b", "c", "d"])
        'every stack but d'
    """
    missing = [label for label in everything if label not in chosen]
    if len(chosen) > 1 and not missing:
        return "every stack"
    if len(chosen) > 2 and len(missing) < len(chosen):
        return f"every stack but {', '.join(missing)}"
    return ", ".join(chosen)


def brief(reason: str) -> tuple[str, bool]:
    """The line of a reason that says most (the last of a traceback), and whether there is more."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return (lines[-1][:400], len(lines) > 1) if lines else ("", False)


def rounds(numbers: list[int]) -> str:
    """Round numbers with runs drawn together.

    Example:
        >>> rounds([0, 1, 2, 5])
        '0–2, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
