"""The page for everybody: axe-core finds nothing, and wide tables scroll in their own box with their keys in sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_board import made_result, put

from ddbench.leaderboard.pages.page import build

from .reading import READY, Visit, until

pytestmark = pytest.mark.page
COMMITTED = Path(__file__).resolve().parents[2] / "leaderboard"
SIZES = {"wide": (1400, 950), "phone": (390, 844)}


def violations(page: Any) -> list[str]:
    """What axe-core says against the page as it stands: rule, weight, first place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["committed", "made"])
def test_axe_finds_nothing(visit: Visit, board: Path, tmp_path: Path, which: str, size: str, scheme: str) -> None:
    if which == "committed":
        if not COMMITTED.is_dir():
            pytest.skip("the tests run without the checkout: no committed board")
        root, address = COMMITTED, "#dataset=digits&labels=hard&budget=IPC+1"  # all of it takes axe-core long
    else:
        put(tmp_path, made_result("mtt"), verify="below")
        put(tmp_path, made_result("dm", accuracy=0.75), verify="within")
        build(tmp_path)
        root, address = tmp_path, ""
    width, height = SIZES[size]
    view = {"width": width, "height": height}
    page = visit(root, address, viewport=view, color_scheme=scheme, reduced_motion="reduce")
    assert violations(page) == []
    page.locator("section.table:not([hidden]) .open").first.click()
    page.wait_for_selector(READY)
    page.evaluate("document.querySelectorAll('#panel details').forEach(fold => { fold.open = true; })")
    assert violations(page) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_wide_table_scrolls_in_its_box_with_its_keys_in_sight(visit: Visit, board: Path, size: str) -> None:
    """At both ends of the scroll rank and method are in the box; at the first end so is the accuracy that ranks."""
    width, height = SIZES[size]
    page = visit(board, viewport={"width": width, "height": height})
    box = page.locator("#t0 .scroll").bounding_box()
    assert 0 <= box["x"] < box["x"] + box["width"] <= width
    row = page.locator("#t0 tbody tr").first
    cells = [row.locator("> *").nth(i) for i in range(3)]

    def inside(cell: Any) -> bool:
        place = cell.bounding_box()
        return box["x"] - 1 <= place["x"] and place["x"] + place["width"] <= box["x"] + box["width"] + 1

    assert all(map(inside, cells)), "rank, method, accuracy of the student that ranks"
    hint = page.locator("#t0 .sideways")
    until(lambda: hint.is_visible())
    assert "more-right" in page.locator("#t0 .box").get_attribute("class")
    page.locator("#t0 .scroll").evaluate("node => { node.scrollLeft = node.scrollWidth; }")
    until(lambda: "more-right" not in page.locator("#t0 .box").get_attribute("class"))
    assert all(map(inside, cells[:2]))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_that_fits_has_no_hint(visit: Visit, tmp_path: Path) -> None:
    put(tmp_path, made_result("mtt", rich=False))
    build(tmp_path)
    page = visit(tmp_path)
    assert not page.locator("#t0 .sideways").is_visible()
    assert page.locator("#t0 .box.more-right").count() == 0


def test_the_skip_link_leaves_the_filters_and_their_address(visit: Visit, board: Path) -> None:
    """Its own address is a place on the page, not a state without filters."""
    page = visit(board, "#dataset=digits&budget=IPC+10&labels=hard")
    before = page.inner_text("#count"), page.evaluate("location.hash")
    page.locator("a.skip").focus()
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("document.activeElement.id") == "board" and "dataset" in page.evaluate("location.hash"))
    assert (page.inner_text("#count"), page.evaluate("location.hash")) == before
    page.evaluate("location.hash = '#dataset=cifar10'")
    until(lambda: page.evaluate("document.querySelector('#dataset').value") == "cifar10")
