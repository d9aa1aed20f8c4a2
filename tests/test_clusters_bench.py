"""The benches of many clusters compute what they say."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "bench"))

from tokens import P_DIFFERENT, TOKEN, WRONG, report, sign_test

from function.clusters.tokens import TOKEN as TOKEN_FORM


def test_sign_test_of_known_numbers():
    """60 of 100 pairs: z is 2, p 0.0455; ties count for neither."""
    one = [1] * 60 + [0] * 40 + [5] * 10
    other = [0] * 60 + [1] * 40 + [5] * 10
    z, p = sign_test(one, other)
    assert (z, round(p, 4)) == (pytest.approx(2.0), 0.0455)
    assert sign_test(other, one)[0] == pytest.approx(-2.0)
    assert sign_test([1], [1]) == (0.0, 1.0)


def test_a_difference_is_reported_and_none_is_not(capsys):
    same = [100 + i % 7 for i in range(1000)]
    shuffled = [value + (1 if i % 2 else -1) for i, value in enumerate(same)]
    later = [value + 5 for value in same]
    different = report("known", {"first": same, "last": shuffled, "all": later})
    assert different == {("first", "all"), ("last", "all")}
    assert capsys.readouterr().out.count("DIFFERENT") == 2
    assert P_DIFFERENT < 0.01


def test_the_wrong_tokens_are_wrong_where_they_say():
    assert TOKEN_FORM.fullmatch(TOKEN)
    assert [WRONG["first"].endswith(TOKEN[1:]), WRONG["last"].split("/")[3][:-1] == TOKEN[:-1]] == [True, True]
    assert all(not path.endswith(f"prod/{TOKEN}") for path in WRONG.values())
    assert {len(path) for kind, path in WRONG.items() if kind != "cluster"} == {len(WRONG["first"])}
