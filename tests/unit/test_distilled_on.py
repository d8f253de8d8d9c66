"""Methods in which no student takes part: the header of some names one, the board does not."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from made_board import STUDENTS, made_result

from ddbench.leaderboard.columns import others
from ddbench.leaderboard.grouping import build_cells
from ddbench.leaderboard.pages.details import Pool, result_details
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import check_result, result_id
from ddbench.methods import METHODS, distilled_on, shipped

FIRST, SECOND, THIRD = STUDENTS
LOOKS = ("context.network(", "context.student", "needs.experts")
"""What the source of a method has whose images hang on the student of its run."""


def of(method: str, student: str, **changes: Any) -> Result:
    content = made_result(method, rich=False, labels="teacher", **changes).to_json()
    content["synset"]["student"] = student
    content["id"] = result_id(content)
    return check_result(content, method)


@pytest.mark.parametrize("name", shipped())
def test_facts_say_whether_the_student_takes_part(name: str) -> None:
    kinds = [METHODS.get(name)]
    for variant in kinds[0].variants.values():
        module, _, own = variant.partition(":")
        kinds.append(vars(__import__(module, fromlist=[own]))[own])
    modules = {inspect.getmodule(one) for kind in kinds for one in kind.__mro__}
    sources = [
        inspect.getsource(one)
        for one in modules
        if one is not None and one.__name__.startswith("ddbench.methods.") and not one.__name__.endswith("methods.base")
    ]
    takes = any(look in text for text in sources for look in LOOKS)
    assert shipped()[name][1].student is (takes or name == "untrained"), "the student itself, as it is built"


def test_only_methods_of_this_package_are_known_to_have_none() -> None:
    assert distilled_on("rded", FIRST) is None
    assert distilled_on("mtt", FIRST) == FIRST
    assert distilled_on("mine", FIRST) == FIRST


def test_the_mean_over_other_networks_leaves_out_the_one_that_ranks() -> None:
    """RDED ran with the second student and SRe2L with the first; no image hangs on either."""
    rows = [of("rded", SECOND), of("sre2l", FIRST), of("cudd", FIRST)]
    assert [others(row, FIRST) for row in rows] == [[THIRD, SECOND]] * 3
    (cell,) = build_cells(rows)
    (cross,) = [one for one in cell.measures if one.group == "cross"]
    assert [row.scores[cross].odd for row in cell.rows] == [False] * 3


def test_the_page_names_no_network_that_took_no_part() -> None:
    def said(row: Result) -> dict[str, str]:
        return dict(result_details(row, Path("nowhere"), None, Pool(), None)["facts"])

    assert "Distilled on" not in said(of("rded", SECOND))
    assert said(of("cudd", SECOND))["Distilled on"] == SECOND


def test_who_ranks_where_no_student_took_part() -> None:
    """The one that the runs named: one method with a student of its own does not decide alone."""
    rows = [of("rded", SECOND), of("sre2l", SECOND, accuracy=0.7)]
    assert build_cells(rows)[0].students[0] == SECOND
    assert build_cells([*rows, of("cudd", FIRST)])[0].students[0] == SECOND
