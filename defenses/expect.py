"""The one check that every stage on plain updates starts with."""

from __future__ import annotations

from fedsec.protocol.payload import Payload, Plain


def plain(payload: Payload, name: str) -> Plain:
    """The payload, if it can be read.

    Args:
        payload: what reached the stage.
        name: of the defense, for the message.

    Raises:
        TypeError: it is sealed or masked; the planner refuses such stacks before anything trains.
    """
    if not isinstance(payload, Plain):
        raise TypeError(
            f"{name} reads updates in clear and was given a {payload.kind} payload; put {name} before sealing"
        )
    return payload
