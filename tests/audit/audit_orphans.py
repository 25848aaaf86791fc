"""A parent that is killed while one worker works and another one has only been started.

It has no ``if __name__ == "__main__"``, as many a script of users: its workers must not run it again.
"""

import os
import signal
import sys
from pathlib import Path

from audit_benches import Obedient

from fedsec.audit.pool import Pool

with Pool(2, Obedient, "hello") as pool:
    pool.submit(1, "pid")
    (first,) = list(pool.messages(60))
    pool.submit(2, ("sleep", 600))
    pool.submit(3, ("sleep", 600))
    workers = [worker.process.pid for worker in pool._workers]
    assert first.value in workers
    Path(sys.argv[1], "pids").write_text(" ".join(map(str, workers)))
    os.kill(os.getpid(), signal.SIGKILL)
