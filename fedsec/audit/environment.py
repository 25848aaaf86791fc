"""What the numbers were made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fedsec

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "tenseal", "opacus", "torchmetrics", "pydantic")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def describe(device: torch.device, *, jobs: int) -> dict[str, Any]:
    """Versions, processor and device."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "missing"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "fedsec": fedsec.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "device": f"{device} ({name})",
        "jobs": jobs,
        "libraries": libraries,
    }
