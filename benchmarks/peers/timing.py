"""Seconds of processor time and extra memory of one call; the same code measures every side of a comparison."""

import ctypes
import time
from pathlib import Path

LIBC = ctypes.CDLL(None)


def _status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure(call, *, fresh=True):
    """Call; processor seconds, and by how many bytes the resident set grew at its highest.

    ``fresh`` first gives back what earlier calls left, so that the call's own memory shows; it then also pays for
    getting it anew.
    """
    if fresh:
        LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before = _status("VmRSS:")
    begin = time.process_time()
    result = call()
    seconds = time.process_time() - begin
    extra = _status("VmHWM:") - before
    del result
    return {"seconds": seconds, "extra": max(0, extra)}
