"""Waiting: the answer, the limit, and what is called meanwhile."""

import itertools

import pytest

from include.lake.errors import LakeError
from include.lake.local import wait


def test_the_first_true_answer_ends_the_wait() -> None:
    answers, lines = iter([None, "", "there"]), []
    assert wait.until(lambda: next(answers), 60, "it", pause=0, waiting=lines.append) == "there"
    assert lines == ["waiting for it"] * 2


def test_after_the_limit_one_line_has_the_cure() -> None:
    looks = itertools.count()
    with pytest.raises(LakeError, match=r"^waited 0 s for a door: 1 look; open it$"):
        wait.until(lambda: next(looks) < 0, 0, "a door", cure=lambda: f"{next(looks)} look; open it")


def test_who_waits_in_vain_is_told() -> None:
    def died(line: str) -> None:
        raise LakeError("the scheduler died")

    with pytest.raises(LakeError, match="the scheduler died"):
        wait.until(lambda: None, 60, "it", waiting=died)
