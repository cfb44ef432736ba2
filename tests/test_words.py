"""Numbers in sentences."""

from __future__ import annotations

import pytest

from taskfarmer.core.words import plural


@pytest.mark.parametrize(("count", "said"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (21, "21 tasks")])
def test_one_is_said_without_an_s(count: int, said: str) -> None:
    assert plural(count, "task") == said
