"""Charts: every method has a look of its own that the legend states, and what is not drawn is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from made_board import METRICS, in_bytes, made_result, put

from ddbench.leaderboard.pages.page import build
from ddbench.leaderboard.result import Run
from ddbench.leaderboard.schema import check_result, result_id, summary_of

from .reading import READY, Visit

pytestmark = pytest.mark.page
LOOKS = """nodes => nodes.map(node => [node.closest('[data-method], li').dataset.method || node.closest('li').innerText,
    getComputedStyle(node).fill, getComputedStyle(node).stroke, node.tagName,
    node.tagName === 'circle' ? '' : node.getAttribute('points').split(' ').map(point => point.split(',').map(Number))
        .map(([x, y], _, all) => [x - all[0][0], y - all[0][1]].map(Math.round)).join(' ')])"""


def looks(page: Any, selector: str) -> dict[str, tuple[Any, ...]]:
    """Method -> colours and shape of its marks."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, *look in page.locator(selector).evaluate_all(LOOKS):
        assert found.setdefault(name, tuple(look)) == tuple(look), "a method looks the same everywhere"
    return found


def test_every_method_has_its_own_look_and_is_in_the_legend(visit: Visit, tmp_path: Path) -> None:
    names = [f"method-{place:02}" for place in range(60)]
    for place, name in enumerate(names):
        put(tmp_path, made_result(name, accuracy=0.5 + place / 200, rich=False), picture=False)
    put(tmp_path, made_result("random", accuracy=0.4, rich=False))
    build(tmp_path)
    page = visit(tmp_path)
    points = looks(page, "svg[aria-label*='against stored bytes'] .point:not(.c-ref) .mark")
    legend = looks(page, ".legend button:not(:has(.c-ref)) .mark")
    assert set(points) == set(legend) == set(names)
    assert len(set(points.values())) == len(names), "no two look alike"
    assert points == legend
    assert "The best 40 of 60 rows." in page.locator("figure", has_text="Across architectures").inner_text()


def test_accuracy_against_bytes_and_time(visit: Visit, tmp_path: Path) -> None:
    """Points stand in the order of their cost; a row without a recorded time is named below the chart."""
    for place, name in enumerate(("dm", "mtt", "dc")):
        made = made_result(name, accuracy=0.8 - place / 50, rich=False).to_json()
        spent = made["cost"]["distill"] | {"cpu_seconds": 10.0 ** (3 - place)}
        made["cost"]["distill"] = None if name == "dc" else spent
        put(tmp_path, check_result(made, name))
    build(tmp_path)
    page = visit(tmp_path)
    chart = page.locator("figure", has_text="Accuracy against time to distil")
    at = chart.locator(".point").evaluate_all(
        "nodes => nodes.map(n => [n.dataset.method, n.querySelector('.mark').getBBox().x])"
    )
    places = dict(at)
    assert places["mtt"] < places["dm"]
    assert "dc" not in places
    assert "Not drawn, no time recorded or none spent: dc." in chart.inner_text()
    titles = chart.locator("title").all_text_contents()
    assert any(title.startswith("dm, IPC 1: ") and "16.7 min CPU" in title for title in titles)
    assert page.locator("figure", has_text="Accuracy against stored bytes").locator(".point").count() == 3


def test_budgets_are_named_as_they_are_counted(visit: Visit, tmp_path: Path) -> None:
    """In images per class, or in bytes: axis, title and description."""
    for size in (500, 20_000):
        put(tmp_path, in_bytes(made_result("mirage", accuracy=0.6, ipc=size // 500, rich=False), size))
    for ipc in (1, 10):
        put(tmp_path, made_result("mtt", dataset="cifar10", accuracy=0.7, ipc=ipc, rich=False))
    build(tmp_path)
    for place, what, ticks in (("digits", "bytes", ["500 B", "20.0 kB"]), ("cifar10", "images per class", ["1", "10"])):
        page = visit(tmp_path, f"#dataset={place}")
        chart = page.locator(f".charts:visible figure:has(svg[aria-label$='against {what}, by method'])")
        assert chart.locator("figcaption").inner_text() == f"Accuracy against {what}"
        said = chart.locator("text").all_text_contents()
        assert f"{what} (log)" in said
        assert set(ticks) <= set(said)


def test_every_row_is_drawn_against_the_budget(visit: Visit, tmp_path: Path) -> None:
    """Of two rows of a method only the better one was, and nothing said so."""
    for ipc in (1, 10):
        put(tmp_path, made_result("mtt", accuracy=0.7, ipc=ipc, rich=False))
    put(tmp_path, made_result("mtt", accuracy=0.5, ipc=10, seed=1, rich=False))
    build(tmp_path)
    chart = visit(tmp_path).locator("figure:has(svg[aria-label$='by method'])")
    assert chart.locator(".point").count() == 3
    assert "Of several rows of a method the line joins the best: mtt." in chart.inner_text()


def test_a_press_on_the_legend_shows_one_method(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=hard")
    charts = page.locator(".charts:visible")
    button = charts.locator(".legend button", has_text="mtt")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert set(charts.locator("[data-method].on").evaluate_all("nodes => nodes.map(node => node.dataset.method)")) == {
        "mtt"
    }
    assert charts.locator(".point:not(.on)").first.evaluate("node => Number(getComputedStyle(node).opacity)") < 0.5
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert charts.locator("[data-method].on").count() == 0


def test_a_row_can_be_taken_along_and_shared(visit: Visit, board: Path) -> None:
    """Its JSON, its synset where the board has it, its preview, and an address that opens it."""
    page = visit(board)
    row = page.locator("#t0 tr.row").first
    name = row.get_attribute("data-id")
    row.locator(".open").click()
    page.wait_for_selector(READY)
    files = page.locator("#panel .take a").evaluate_all(
        "links => links.map(a => [a.innerText, a.getAttribute('href')])"
    )
    assert [text for text, _ in files] == ["row (JSON)", "preview (PNG)"]
    for _, address in files:
        assert (board / address).is_file()
        assert name in address
    assert page.locator("#panel .take a[download]").count() == 2
    assert "no synset on the board" in page.inner_text("#panel .rest .take")
    from playwright.sync_api import expect

    share = page.locator("#panel .share")
    share.click()
    expect(share).to_have_text(re.compile("^(Copied|It is in the address bar)$"))  # once the clipboard has answered
    assert f"row={name}" in page.url


def test_the_synset_beside_a_row_can_be_downloaded(visit: Visit, tmp_path: Path) -> None:
    path = put(tmp_path, made_result("mtt"))
    beside = path.with_suffix(".synset.safetensors")
    beside.write_bytes(b"synset")  # what is in it is seen to by `leaderboard check`
    build(tmp_path)
    page = visit(tmp_path)
    page.locator(".open").first.click()
    page.wait_for_selector(READY)
    link = page.locator("#panel .take a", has_text="synset (safetensors)")
    assert link.get_attribute("href") == beside.relative_to(tmp_path).as_posix()
    assert link.get_attribute("download") is not None


def test_rate_against_accuracy_over_all_tables_of_a_dataset(visit: Visit, tmp_path: Path) -> None:
    """One chart a dataset: every budget and kind of labels, after zstd or as stored; filters narrow it."""
    for place, name in enumerate(("dm", "mtt")):
        for ipc in (1, 10):
            put(tmp_path, made_result(name, ipc=ipc, accuracy=0.7 + place / 50, rich=False))
    put(tmp_path, made_result("datm", labels="soft", accuracy=0.8, rich=False))
    put(tmp_path, made_result("dm", dataset="cifar10", accuracy=0.3, rich=False))
    build(tmp_path)
    page = visit(tmp_path)
    assert page.locator("section.rate").count() == 2
    rate = page.locator("section.rate", has_text="digits: rate")
    points = rate.locator(".point").evaluate_all(
        "nodes => nodes.map(n => [n.querySelector('title').textContent, n.querySelector('.mark').getBBox().x])"
    )
    assert len(points) == 5
    places = {(title.split(":")[0], title.split("; ")[1]): x for title, x in points}
    hard, soft = "hard labels, hard-v1", "soft labels, soft-v1"
    assert places["dm, IPC 1", hard] == pytest.approx(places["mtt, IPC 1", hard], abs=3), "marks are of several widths"
    assert places["dm, IPC 1", hard] < places["datm, IPC 1", soft]
    assert places["datm, IPC 1", soft] < places["dm, IPC 10", hard]
    assert "bits per class, as stored (log)" in rate.locator("svg.plot").inner_html()
    assert set(looks(page, "section.rate .legend button:not(:has(.c-ref)) .mark")) == {"dm", "mtt", "datm"}
    page.select_option("#labels", "soft")
    assert rate.locator(".point").count() == 1
    assert page.locator("section.rate").first.is_hidden()


def test_the_line_of_all_real_data_says_its_number_in_the_unit_of_the_metric(visit: Visit, tmp_path: Path) -> None:
    """Only a fraction is told in per cent."""
    for name, budget, value in (("dm", "ipc", 1.5), ("mtt", "ipc", 1.25), ("full", "all", 0.125)):
        made = made_result(name, budget=budget, rich=False).to_json()
        made["runs"] = [{**run, "metrics": {"nll": value + run["seed"] / 1000}} for run in made["runs"]]
        made |= {"metrics": {"nll": METRICS["nll"]}, "summary": summary_of([Run(**run) for run in made["runs"]])}
        made["id"] = result_id(made)
        put(tmp_path, check_result(made, name))
    build(tmp_path)
    page = visit(tmp_path)
    assert page.locator("figure", has_text="Accuracy").count() == 0, "nothing here is one"
    assert page.locator("svg[aria-label^='Negative log-likelihood of every student']").count() == 1
    chart = page.locator("figure", has_text="Negative log-likelihood against stored bytes")
    assert chart.locator("text", has_text="all real data").text_content() == "all real data 0.127"
