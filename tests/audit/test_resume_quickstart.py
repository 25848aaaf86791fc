"""The audit of the README, killed five times: it ends as one that was left alone."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from audit_comparison import assert_same
from audit_running import audit, begun_again, children, document, finished, journal, kill, start, wait_for

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


@pytest.mark.slow
def test_killed_five_times_the_quickstart_says_the_same_and_repeats_nothing(tmp_path: Path) -> None:
    whole = audit(QUICKSTART, tmp_path / "whole", seconds=3600)
    assert whole.returncode == 0, whole.stderr
    expected = document(tmp_path / "whole")
    total = finished(tmp_path / "whole")

    output, draws = tmp_path / "out", random.Random(4)
    for count in sorted(draws.sample(range(1, total * 9 // 10), 5)):
        process = start(QUICKSTART, output)
        # At least one result more than the last time, or it would be killed before it does anything.
        wait_for(output, max(count, finished(output) + 1), process, seconds=3600)
        time.sleep(draws.uniform(0.0, 1.0))
        assert process.poll() is None, "it was over before it could be killed"
        assert children(process.pid), "it had no workers that could survive"
        assert kill(process) == []
        assert not (output / "audit.json").exists()
    done = audit(QUICKSTART, output, seconds=3600)
    assert done.returncode == 0, done.stderr
    assert_same(document(output), expected)
    assert begun_again(journal(output)) == []
    assert not list(output.rglob("*.tmp"))
