from __future__ import annotations

import copy

import pytest

from fedsec import registry
from fedsec.errors import DataError

several = registry.get("reports", "overview")


def test_shows_every_audit_and_escapes(document) -> None:
    other = copy.deepcopy(document)
    other["title"] = "<script>alert(1)</script>"
    page = several(
        {
            "schema": "fedsec/audits/1",
            "audits": [{"folder": "one", "document": document}, {"folder": "the other", "document": other}],
        }
    )
    assert "<script>alert(1)" not in page
    assert "one/report.html" in page
    assert "the%20other/report.html" in page
    assert page.count('class="verdict') == 2


def test_refuses_one_audit(document) -> None:
    with pytest.raises(DataError, match="fedsec/audit/1"):
        several(document)
