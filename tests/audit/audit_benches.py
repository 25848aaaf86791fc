"""What the workers of the pool's tests do."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


class Obedient:
    """Does what a task says; remembers how many it did."""

    def __init__(self, greeting: str) -> None:
        self.greeting, self.count = greeting, 0

    def run(self, task: Any, progress: Callable[[int, int], None]) -> Any:
        self.count += 1
        match task:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(5)
            case "raise":
                raise ValueError("no <such> thing")
            case "pid":
                return os.getpid()
            case "threads":
                import torch

                return torch.get_num_threads()
            case ("sleep", seconds):
                time.sleep(seconds)
            case "progress":
                progress(1, 2)
                progress(2, 2)
        return (self.greeting, self.count, task)


class Stillborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("nothing to work with")
