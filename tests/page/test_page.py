"""The leaderboard page in a real browser, opened from file://: what a visitor does, and what an attacker would like."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from made_board import STUDENTS, made_result, many_results, put

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.pages import embed
from ddbench.leaderboard.pages.page import build
from ddbench.leaderboard.result import Run
from ddbench.leaderboard.schema import check_result, result_id, summary_of
from ddbench.methods import shipped
from ddbench.methods.facts import CARDS
from ddbench.statistics import gap_words, paired_difference

from .reading import READY, Visit, shown, until

pytestmark = pytest.mark.page

MTT = shipped()["mtt"][1]

COMMITTED = Path(__file__).resolve().parents[2] / "leaderboard"


def methods(page: Any, table: str = "#t0") -> list[str]:
    """Names of a table's rows from above, without the references."""
    return page.locator(f"{table} tbody tr:not(.ref) .open").all_text_contents()


def numbers(page: Any, title: str, table: str = "#t0") -> list[str]:
    """A column of a table, by the title of its head, without the references."""
    heads = [text.replace("\n", "") for text in page.locator(f"{table} thead tr:last-child th").all_inner_texts()]
    place = heads.index(title)
    return page.locator(f"{table} tbody tr:not(.ref) > :nth-child({place + 1})").all_inner_texts()


def head(page: Any, title: str, table: str = "#t0") -> Any:
    return page.locator(f"{table} thead").get_by_role("button", name=title, exact=True)


@pytest.mark.parametrize("which", ["committed", "made"])
def test_page_draws_its_tables_and_plots(visit: Visit, board: Path, which: str) -> None:
    if which == "committed" and not COMMITTED.is_dir():
        pytest.skip("the tests run without the checkout: no committed board")
    page = visit(COMMITTED if which == "committed" else board)
    count = page.evaluate("JSON.parse(document.getElementById('data').textContent).tables.length")
    assert count == page.locator("section.table").count() > 0
    for section in page.locator("section.table").all():
        assert section.locator("tbody tr.ref.random, tbody tr.ref.full").count() == 2
    groups = page.locator("section.group").count()
    heats = page.locator(".charts svg.heat").count()  # a group of one student has nothing to compare
    assert heats == groups if which == "made" else 0 < heats <= groups
    assert page.locator("svg[aria-label*='against stored bytes'] .point").count() > 0
    assert page.locator("svg[aria-label*='against images per class'] path.line").count() > 0


def test_random_and_full_are_always_there(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=soft&budget=IPC+1")
    (section,) = (one for one in page.locator("section.table").all() if one.is_visible())
    texts = section.locator("tr.ref").all_inner_texts()
    assert all("not measured" in text for text in texts)
    assert [text.split()[1] for text in texts] == ["random", "full"]


def test_sorting_by_a_head_and_back_keeps_the_references_below(visit: Visit, board: Path) -> None:
    page = visit(board)
    ranked = methods(page)
    head(page, "method").click()
    assert methods(page) == sorted(ranked)
    head(page, "method").click()
    assert methods(page) == sorted(ranked, reverse=True)
    assert page.locator("#t0 th[aria-sort='descending']").inner_text().startswith("method")
    head(page, "ECE").click()
    values = [float(text.split()[0]) for text in numbers(page, "ECE")]
    assert values == sorted(values), "lower is better comes from below first"
    head(page, "rank").click()
    assert [int(text) for text in numbers(page, "rank")] == sorted(int(text) for text in numbers(page, "rank"))
    names = page.locator("#t0 tbody th.name").all_inner_texts()
    assert [name.split()[0] for name in names[-2:]] == ["random", "full"]


def test_filters(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.select_option("#dataset", "digits")
    titles = [one.get_attribute("aria-label") for one in shown(page, "section.table")]
    assert titles == ["digits, IPC 1", "digits, IPC 10", "digits, IPC 50"] * 2
    page.select_option("#budget", "IPC 10")
    page.select_option("#labels", "hard")
    assert len(shown(page, "section.table")) == 1
    assert page.inner_text("#count") == "8 of 68 rows"
    page.check("#verified")
    assert page.inner_text("#count") == "4 of 68 rows"
    table = f"#{shown(page, 'section.table')[0].get_attribute('id')}"
    assert set(numbers(page, "verified", table)) == {"identical", "within"}
    assert "dataset=digits" in page.url
    assert "verified=1" in page.url
    page.click("#reset")
    assert page.inner_text("#count") == "68 of 68 rows"


def test_a_student_shows_its_column_and_its_ranks(visit: Visit, board: Path) -> None:
    page = visit(board)
    heads = [text.replace("\n", "") for text in page.locator("#t0 thead th").all_inner_texts()]
    assert [name for name in heads if name in STUDENTS] == ["convnet-d3-w128-in", "mlp-d3-w128", "resnet18-bn"]
    page.select_option("#student", "mlp-d3-w128")
    heads = [text.replace("\n", "") for text in page.locator("#t0 thead th").all_inner_texts()]
    assert [name for name in heads if name in STUDENTS] == ["mlp-d3-w128"]
    assert "mtt" not in methods(page), "it was not evaluated on this student"
    values = [float(text.split()[0]) for text in numbers(page, "mlp-d3-w128")]
    assert values == sorted(values, reverse=True)
    ranks = [int(text) for text in numbers(page, "rank")]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1


def test_search_finds_by_method_and_author(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.fill("#search", "TESLA recipe")
    until(lambda: page.inner_text("#count").startswith("6 "))
    assert {tuple(methods(page, f"#{one.get_attribute('id')}")) for one in shown(page, "section.table")} == {("tesla",)}
    page.fill("#search", "no such thing")
    page.wait_for_selector("#nothing")
    assert page.inner_text("#count") == "0 of 68 rows"
    page.click("#clear")
    assert page.inner_text("#count") == "68 of 68 rows"


def test_columns_can_be_left_out(visit: Visit, board: Path) -> None:
    page = visit(board)
    assert "HLR" in page.locator("#t0 thead").inner_text()
    page.locator("#columns label", has_text="DD-Ranking").locator("input").uncheck()
    assert "HLR" not in page.locator("#t0 thead").inner_text()
    assert "columns=" in page.url
    again = visit(board, f"#{page.url.partition('#')[2]}")
    assert "HLR" not in again.locator("#t0 thead").inner_text()
    assert "ECE" in again.locator("#t0 thead").inner_text()


def test_a_row_opens_by_click_with_everything_in_it(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=hard&budget=IPC+10")
    page.locator("tr.row", has_text="MTT, our recipe").first.locator("td").nth(4).click()
    panel = page.locator("#panel")
    page.wait_for_selector(READY)
    assert panel.get_attribute("open") is not None
    assert page.inner_text("#panel-title").startswith("mtt")
    titles = panel.locator("h3").all_inner_texts()
    assert titles == [
        "Every seed",
        "Verification",
        "Published beside ours",
        "Reliability",
        "Robustness",
        "Corruptions",
        "DD-Ranking scores",
        "All metrics",
        "Again",
        "Recipe and protocol",
        "About",
    ]
    assert panel.locator("svg[aria-label^='Accuracy of every seed'] circle.dot").count() == 10
    assert panel.locator("svg[aria-label^='Reliability'] rect.bin").count() == 2 * 12
    assert panel.locator("svg[aria-label^='Accuracy under attack'] path.line").count() == 2 * 3
    assert panel.locator("table.heat tbody tr").count() == 2 * 5
    assert panel.locator("table.heat thead").first.inner_text().split("\t")[-1].strip() == "error / full"
    relative = [float(text) for text in panel.locator("table.heat").first.locator("td:last-child").all_inner_texts()]
    mce = float(panel.inner_text().split("(mCE) ")[1].split(":")[0])
    assert mce == pytest.approx(sum(relative) / 5, abs=0.011)
    assert mce > 1, "all real images are less disturbed"
    assert panel.locator(".preview img").evaluate("image => image.naturalWidth") == 80
    addresses = panel.locator("dd a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert addresses[:2] == [MTT.address, MTT.code]
    assert addresses[2].endswith("/methods/mtt/README.md")
    text = panel.inner_text()
    assert f"{MTT.paper} ({MTT.citation})" in text
    assert "ddbench distill --method mtt --dataset digits --ipc 10" in text
    verified = panel.locator("section", has_text="Verification").locator("tbody tr").all_inner_texts()
    assert [line.split("\t")[0] for line in verified][:2] == list(STUDENTS[:2])
    assert f"{STUDENTS[0]}, robust" in [line.split("\t")[0] for line in verified]
    assert {line.split("\t")[-1].strip() for line in verified} == {"identical"}
    claim = panel.locator("section", has_text="Published beside ours").locator("tbody tr").inner_text().split("\t")
    assert claim[2] == "78.0"
    assert "±" in claim[3]
    panel.locator("summary", has_text="Recipe: the resolved config").click()
    assert '"iterations": 1000' in panel.inner_text()
    assert "row=" in page.url
    page.locator("#panel .close").click()
    assert panel.get_attribute("open") is None
    until(lambda: "row=" not in page.evaluate("location.hash"))


def test_another_address_in_the_same_page_opens_and_closes_rows(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=hard&budget=IPC+10")
    page.locator("tr.row", has_text="MTT, our recipe").first.locator(".open").click()
    page.wait_for_selector("#panel[open]")
    first = page.inner_text("#panel-title")
    address = page.evaluate("location.hash")
    page.evaluate("location.hash = '#dataset=cifar10'")
    until(lambda: page.locator("#panel").get_attribute("open") is None)
    assert "row=" not in page.evaluate("location.hash")
    assert page.evaluate("document.querySelector('#dataset').value") == "cifar10"
    page.evaluate(f"location.hash = {address!r}")
    page.wait_for_selector("#panel[open]")
    assert page.inner_text("#panel-title") == first


def test_superseded_results_are_folded_into_the_row(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=hard&budget=IPC+1")
    page.locator("tr.row", has_text="MTT, our recipe").first.locator(".open").click()
    fold = page.locator("#panel details", has_text="1 earlier result")
    page.wait_for_selector(READY)
    assert fold.get_attribute("open") is None
    fold.locator("summary").click()
    assert fold.locator("tbody tr").count() == 1


def test_keyboard_alone(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("ArrowDown")
    first = page.evaluate("document.activeElement.textContent")
    assert first == methods(page)[0]
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.textContent")
    assert second == methods(page)[1]
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel[open]")
    assert page.inner_text("#panel-title").startswith(second)
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#panel-title").startswith(first)
    page.keyboard.press("Escape")
    until(lambda: page.evaluate("document.activeElement.textContent") == first)
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement === [...document.querySelectorAll('.open')].pop()")
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.textContent") == first


def test_focus_is_visible_and_stays_in_the_opened_row(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel[open]")
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || Boolean(document.activeElement.closest('#panel'))"
        assert page.evaluate(inside)


def test_a_point_of_a_plot_opens_its_row(visit: Visit, board: Path) -> None:
    page = visit(board)
    point = page.locator("svg[aria-label*='against stored bytes'] .point:not(.c-ref)").last
    title = point.locator("title").text_content()
    point.dispatch_event("click")  # points may lie on top of each other
    page.wait_for_selector("#panel[open]")
    assert title.split(",")[0] == page.locator("#panel-title").evaluate("node => node.firstChild.textContent")


def test_points_carry_intervals_and_bytes(visit: Visit, board: Path) -> None:
    page = visit(board, "#dataset=digits&labels=hard")
    plot = page.locator("svg[aria-label*='against stored bytes']:visible").first
    rows = 3 * (8 + 1)
    assert plot.locator(".point").count() == rows
    assert plot.locator(".point path.bar").count() == rows
    titles = plot.locator(".point title").all_text_contents()
    assert any(title.startswith("mtt, IPC 1: ") and ", 654 B; hard labels" in title for title in titles)
    places = plot.locator(".point").evaluate_all(
        "nodes => nodes.map(n => [n.querySelector('title').textContent, n.querySelector('.mark').getBBox().y])"
    )
    heights = [y for _, y in sorted((float(title.split(": ")[1].split()[0]), y) for title, y in places)]
    assert all(a >= b - 2 for a, b in itertools.pairwise(heights)), "the higher the accuracy, the higher the point"


def test_dark_mode_follows_the_system_and_the_button(visit: Visit, board: Path) -> None:
    light = visit(board, color_scheme="light")
    dark = visit(board, color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    ours = light.evaluate(colour), dark.evaluate(colour)
    assert ours[0] == "rgb(255, 255, 255)"
    assert max(map(int, ours[1].removeprefix("rgb(").rstrip(")").split(", "))) < 40
    dark.click("#theme")
    assert dark.evaluate(colour) == ours[0]
    dark.reload()
    assert dark.evaluate(colour) == ours[0], "the choice is kept"


def test_a_phone_needs_no_sideways_scroll(visit: Visit, board: Path) -> None:
    page = visit(board, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#t0 .scroll').clientWidth") <= 360
    page.locator("#t0 .open").first.click()
    page.wait_for_selector(READY)
    assert page.evaluate("document.querySelector('#panel .body').scrollWidth") <= 360
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    size = page.locator("#panel .close").bounding_box()
    assert size["x"] + size["width"] <= 360


def test_a_laptop_needs_no_sideways_scroll_for_the_first_table(visit: Visit) -> None:
    """On the committed board; what is left out at first is a tick away, and the address then says so."""
    if not COMMITTED.is_dir():
        pytest.skip("the tests run without the checkout: no committed board")
    page = visit(COMMITTED, viewport={"width": 1280, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.evaluate(
        "document.querySelector('#t0 .scroll').scrollWidth <= document.querySelector('#t0 .scroll').clientWidth"
    )
    heads = page.locator("#t0 thead").inner_text()
    assert "verified" in heads
    assert "ECE" not in heads
    page.locator("#columns label", has_text="calibration").locator("input").check()
    assert "ECE" in page.locator("#t0 thead").inner_text()
    assert "calibration" in page.url


ATTACK = "<img src=x onerror=pwned=1>'\"</script><script>pwned=1</script>{{7*7}}${7*7}"


def test_a_dataset_is_chosen_by_its_whole_name(visit: Visit, tmp_path: Path) -> None:
    """Without its second space no table was of it."""
    for name in ("mtt", "dm"):
        put(tmp_path, made_result(name, dataset="folder:My  birds", rich=False))
    build(tmp_path)
    page = visit(tmp_path)
    page.select_option("#dataset", index=1)
    assert page.inner_text("#count") == "2 of 2 rows"


def test_a_warning_says_of_which_student_it_is(visit: Visit, tmp_path: Path) -> None:
    """The same words of two students were one line."""
    made = made_result().to_json()
    for own in made["details"].values():
        own["masking_warnings"] = ["odd (1 of 5 seeds)"]
    made["id"] = result_id(made)
    result = check_result(made, "mtt")
    put(tmp_path, result)
    build(tmp_path)
    page = visit(tmp_path, f"#row={result.id}")
    page.wait_for_selector(READY)
    told = page.locator("#panel .warning").all_inner_texts()
    assert told == [f"{student}: odd (1 of 5 seeds)" for student in sorted(made["details"])]
    assert len(told) > 1


def test_hostile_texts_are_inert(visit: Visit, tmp_path: Path) -> None:
    said = {
        "method_title": ATTACK[:120],
        "authors": [ATTACK],
        "licence": ATTACK[:80],
        "note": f"{ATTACK}\n<svg onload=pwned=1><a href=javascript:pwned=1>x</a>",
        "links": ["https://example.org/a'b(c)?x=%3Cscript%3E&y=</".replace("<", "%3C")],
        "claims": [
            {"student": STUDENTS[0], "metric": "accuracy", "value": 0.5, "source": f"javascript:pwned=1//{ATTACK}"}
        ],
    }
    put(tmp_path, made_result("mtt", dataset=f"folder:{ATTACK}", submission=said, accuracy=0.8))
    put(tmp_path, made_result("dm", dataset=f"folder:{ATTACK}", submission=said, accuracy=0.79))
    build(tmp_path)
    page = visit(tmp_path)
    page.locator(".open").first.click()
    page.wait_for_selector(READY)
    for summary in page.locator("#panel summary").all():
        summary.click()
    assert ATTACK[:60] in page.inner_text("#panel")
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("img").count() == 1, "the preview, and nothing of a submitter"
    assert page.locator("script").count() == 2
    assert page.locator("[onerror], [onload], [onclick], iframe, object, embed").count() == 0
    ours = {MTT.address, MTT.code, f"{CARDS}/mtt/README.md", *(address for _, address in embed.LINKS)}
    for address in set(page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))")) - ours:
        assert address.startswith(("https://example.org/", "results/", "#", "LEADERBOARD.md")), address
    page.keyboard.press("Escape")
    page.fill("#search", ATTACK[:20])
    page.wait_for_timeout(200)
    assert page.evaluate("typeof pwned") == "undefined"


def test_policy_refuses_evaluation_and_handlers(visit: Visit, said: list[str], board: Path) -> None:
    page = visit(board)
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.evaluate("setTimeout('pwned = 1')")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img id=bad src=\"data:,\" onerror=\"pwned = 1\">')")
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), { text: 'pwned = 1' }))")
    page.wait_for_timeout(300)
    assert page.evaluate("typeof pwned") == "undefined"
    assert len(said) == 3
    assert all("Content Security Policy" in text for text in said)
    said.clear()


def test_an_address_names_filters_and_row(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.locator("#t1 .open").nth(1).click()
    page.wait_for_selector("#panel[open]")
    address = page.url.partition("#")[2]
    title = page.inner_text("#panel-title")
    again = visit(board, f"#{address}&dataset=cifar10")
    again.wait_for_selector("#panel[open]")
    assert again.inner_text("#panel-title") == title
    assert again.input_value("#dataset") == "cifar10"
    broken = visit(board, "#dataset=%3Cnothing%3E&row=%22%5D&student=x")
    assert broken.inner_text("#count") == "68 of 68 rows"


@pytest.mark.parametrize("width", [1400, 390])
def test_the_first_table_is_in_the_first_screen(visit: Visit, board: Path, width: int) -> None:
    page = visit(board, viewport={"width": width, "height": 1000})
    assert page.locator("#t0 tbody tr").first.bounding_box()["y"] < (620 if width > 1000 else 1000)
    for group in page.locator("section.group").all():
        below = group.locator(".charts").bounding_box()["y"]
        assert all(table.bounding_box()["y"] < below for table in group.locator("section.table").all())


def test_the_head_links_and_counts(visit: Visit, board: Path) -> None:
    page = visit(board)
    found = page.locator("nav.links a").evaluate_all("links => links.map(a => [a.innerText, a.getAttribute('href')])")
    assert [tuple(one) for one in found] == list(embed.LINKS)
    rows = {row.first.id: row for cell in read_board(board).cells for row in cell.rows}
    results = {result.id for row in rows.values() for result in row.results}
    known = {name: one for row in rows.values() for name, one in row.verdicts.items() if name in results}
    verified = [one for one in known.values() if one.verdict != "below"]
    partial = sum(one.partial for one in verified)
    words = f"{len(verified)} of them verified" + (f", {partial} by some of their networks" if partial else "")
    assert 0 < len(verified) < len(results)
    counts = page.locator(".counts li").all_inner_texts()
    assert counts[0] == f"{len(results)} results"
    assert words in counts[-2:]


def test_cards_share_a_scale_and_follow_the_filters(visit: Visit, board: Path) -> None:
    page = visit(board)
    assert shown(page, ".card") == []
    page.click(".overview summary")
    cards = shown(page, ".card")
    assert len(cards) == page.locator("section.table").count()
    for card in cards:
        mean = float(card.query_selector(".score").inner_text().split()[0])
        dot = card.query_selector(".top")
        assert float(dot.get_attribute("cx")) == pytest.approx(8 + 1.84 * mean, abs=0.2)
        alone = "no references" in card.inner_text()
        assert ("alone" in dot.get_attribute("class")) == alone
    assert any("no references" in card.inner_text() for card in cards)
    page.select_option("#dataset", "digits")
    assert all("digits" in card.inner_text() for card in shown(page, ".card"))
    assert len(shown(page, ".card")) == 6


def test_verified_only_means_cards_and_charts_too(visit: Visit, tmp_path: Path) -> None:
    """The card told the best of all rows, and charts had every point."""
    put(tmp_path, made_result("mtt", accuracy=0.9, rich=False))
    put(tmp_path, made_result("dm", accuracy=0.8, ipc=10, rich=False), verify="identical")
    for name, accuracy in (("dm", 0.8), ("dc", 0.6)):
        put(tmp_path, made_result(name, accuracy=accuracy, rich=False), verify="identical")
    put(tmp_path, made_result("random", accuracy=0.4, rich=False))
    build(tmp_path)
    page = visit(tmp_path)
    page.click(".overview summary")
    for there in (["mtt", "dm"], ["dm", "dm"]):
        assert [card.query_selector(".who").inner_text() for card in shown(page, ".card")] == there
        drawn = page.locator("svg[aria-label*='against stored bytes'] .point").evaluate_all(
            "nodes => nodes.map(node => node.dataset.method)"
        )
        assert ("mtt" in drawn) is ("mtt" in there)
        assert {"dm", "dc", "random"} <= set(drawn)
        assert ("mtt" in page.locator("svg.heat").first.text_content()) is ("mtt" in there)
        page.check("#verified")


def test_verified_rows_are_ranked_among_themselves(visit: Visit, tmp_path: Path) -> None:
    """Their places and the best of a column, by every student, as ``leaderboard show --verified`` has them."""
    put(tmp_path, made_result("mtt", accuracy=0.9, rich=False))
    for name, accuracy in (("dm", 0.8), ("dc", 0.6)):
        put(tmp_path, made_result(name, accuracy=accuracy, rich=False), verify="identical")
    put(tmp_path, made_result("random", accuracy=0.4, rich=False))
    build(tmp_path)
    page = visit(tmp_path)

    def told() -> list[Any]:
        names = [text.split()[0] for text in numbers(page, "method")]
        best = page.locator("#t0 tbody td.best").evaluate_all(
            "nodes => nodes.map(node => node.closest('tr').dataset.id)"
        )
        first = page.locator("#t0 tbody tr").first.get_attribute("data-id")
        return [names, numbers(page, "rank"), bool(best) and set(best) == {first}]

    for student in ("", STUDENTS[1]):
        page.select_option("#student", student)
        assert told() == [["mtt", "dm", "dc"], ["1", "2", "3"], True]
        page.check("#verified")
        assert told() == [["dm", "dc"], ["1", "2"], True]
        page.click("#t0 tbody .open >> nth=0")
        assert "rank 1" in page.inner_text("#panel h2")
        page.keyboard.press("Escape")
        page.uncheck("#verified")


def test_cards_are_of_the_student_that_is_chosen(visit: Visit, tmp_path: Path) -> None:
    """They kept the figures of the one that ranks."""
    for name, accuracy in (("mtt", 0.9), ("random", 0.5)):
        for ipc in (1, 10):
            put(tmp_path, made_result(name, accuracy=accuracy, ipc=ipc, rich=False))
    build(tmp_path)
    page = visit(tmp_path, f"#student={STUDENTS[2]}")
    page.click(".overview summary")
    for place, card in enumerate(shown(page, ".card")):
        assert card.query_selector(".score").inner_text() == numbers(page, STUDENTS[2], f"#t{place}")[0]
        reference = page.inner_text(f"#t{place} tr.random td:nth-child(3)").split()[0]
        assert card.query_selector(".ends").inner_text().startswith(f"random {reference}")


def test_an_address_opens_a_reference_in_its_table(visit: Visit, tmp_path: Path) -> None:
    """All real data stand in every table; the row beside was in none but the second, and the first was opened."""
    full = made_result("full", budget="all", accuracy=0.95, rich=False)
    rows = {ipc: made_result("mtt", ipc=ipc, rich=False) for ipc in (1, 10)}
    for row in (full, *rows.values()):
        put(tmp_path, row)
    build(tmp_path)
    page = visit(tmp_path, f"#row={full.id}&with={rows[10].id}")
    page.wait_for_selector(".compare tbody")
    assert page.inner_text("#panel .bar p").startswith("digits, IPC 10 ·")
    page = visit(tmp_path, f"#budget=IPC+10&row={full.id}")
    page.wait_for_selector(READY)
    assert page.inner_text("#panel .bar p").startswith("digits, IPC 10 ·")


def test_the_next_row_is_the_next_of_all(visit: Visit, tmp_path: Path) -> None:
    """From one that a chart opened beyond the rows that are shown it was the first."""
    rows = [made_result(f"method-{place:02}", accuracy=0.9 - place / 100, rich=False) for place in range(30)]
    for row in rows:
        put(tmp_path, row)
    build(tmp_path)
    page = visit(tmp_path, f"#row={rows[27].id}")
    assert len(methods(page)) == 25
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#panel-title").startswith("method-28")


def test_every_subset_of_a_row_is_found_by_its_id(visit: Visit, tmp_path: Path) -> None:
    subsets = [made_result("random", seed=seed, rich=False) for seed in range(3)]
    for row in (*subsets, made_result("mtt", rich=False)):
        put(tmp_path, row)
    build(tmp_path)
    page = visit(tmp_path, f"#q={subsets[2].id}")
    assert len(shown(page, "tr.random")) == 1


def test_two_rows_are_compared_by_their_paired_difference(visit: Visit, board: Path) -> None:
    page = visit(board)
    page.locator("#t0 .open").first.click()
    page.wait_for_selector(READY)
    page.select_option("#compare", index=2)
    page.wait_for_selector(".compare tbody")
    (one, other) = (page.url.partition(name)[2].partition("&")[0] for name in ("row=", "with="))
    results = {row.first.id: row.first for cell in read_board(board).cells for row in cell.rows}
    lines = page.locator(".compare tbody tr").all_inner_texts()
    table = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    common = [name for name in results[one].students if name in results[other].students]
    assert common
    for student in common:
        ours, theirs = (results[name].values(student, "accuracy") for name in (one, other))
        wanted = paired_difference(ours, [theirs])
        difference, seeds, verdict = table[student][2:5]
        numbers = [float(part.strip("()")) for part in difference.replace("−", "-").replace(" to ", " ").split()]
        assert numbers == pytest.approx([100 * wanted[name] for name in ("mean", "low", "high")], abs=0.06)
        assert int(seeds) == wanted["n"]
        assert verdict == ("tie" if wanted["tie"] else "better" if wanted["mean"] > 0 else "worse")
    assert {"stored", "distillation"} < set(table)
    assert page.locator(".compare .pair img").count() == 2
    again = visit(board, f"#{page.url.partition('#')[2]}")
    again.wait_for_selector(".compare tbody")
    assert again.locator(".compare tbody tr").all_inner_texts() == lines
    page.keyboard.press("Escape")
    until(lambda: "row=" not in page.evaluate("location.hash"))
    assert "with=" not in page.evaluate("location.hash")
    broken = visit(board, f"#row={one}&with=%22%5D")
    broken.wait_for_selector(READY)
    assert broken.locator(".compare tbody tr").count() == 0


def test_a_fixed_network_is_compared_by_its_mean_and_stands_behind_those_with_a_rank(
    visit: Visit, tmp_path: Path
) -> None:
    """Its five equal runs are one: the difference had an interval of five pairs, and a chosen student put it first."""
    made = made_result("dd", rich=False, names=STUDENTS[:1]).to_json()
    made["synset"]["fixed_network"] = True
    for run in made["runs"]:
        run["metrics"]["accuracy"] = 0.9
    made["summary"] = summary_of([Run(**run) for run in made["runs"]])
    made["id"] = result_id(made)
    fixed, other = check_result(made, "dd"), made_result("dm", rich=False, names=STUDENTS[:1])
    for result in (fixed, other):
        put(tmp_path, result)
    build(tmp_path)
    page = visit(tmp_path, f"#row={fixed.id}&with={other.id}")
    page.wait_for_selector(".compare tbody")
    words = page.locator(".compare tbody tr").first.inner_text().split("\t")
    mean = fixed.statistics[STUDENTS[0]]["accuracy"]["mean"] - other.statistics[STUDENTS[0]]["accuracy"]["mean"]
    assert words[-3:] == [f"+{100 * mean:.1f}", "–", "one network"]
    page.keyboard.press("Escape")
    assert methods(page) == ["dm", "dd"]
    page.select_option("#student", STUDENTS[0])
    assert methods(page) == ["dm", "dd"]


def test_an_interval_of_a_difference_ends_where_the_possible_does(visit: Visit, tmp_path: Path) -> None:
    """Two seeds made differences of 200 points and more; Python says the same words."""
    rows = []
    for method, accuracies in (("mtt", (0.9, 0.9)), ("dm", (0.8, 0.4))):
        made = made_result(method, rich=False, names=STUDENTS[:1], seeds=2).to_json()
        for run, accuracy in zip(made["runs"], accuracies, strict=True):
            run["metrics"]["accuracy"] = accuracy
        made["summary"] = summary_of([Run(**run) for run in made["runs"]])
        made["id"] = result_id(made)
        rows.append(check_result(made, method))
        put(tmp_path, rows[-1])
    build(tmp_path)
    page = visit(tmp_path, f"#row={rows[0].id}&with={rows[1].id}")
    page.wait_for_selector(".compare tbody")
    words = page.locator(".compare tbody tr").first.inner_text().split("\t")
    assert words[3] == "+30.0 (too few seeds for an interval)"
    for values in ([0.1, 0.12, 0.11], [0.9, 0.7, 0.8, 0.2], [-0.1, -0.5, -0.9]):
        gap = paired_difference(dict(enumerate(values)), [dict.fromkeys(range(len(values)), 0.0)])
        mean, half = gap["mean"], gap["high"] - gap["mean"]
        told = gap_words(mean, gap["low"], gap["high"]).partition("(")[2].removesuffix(")")
        assert page.evaluate(f"ends({{mean: {mean}, half: {half}}}, 'fraction')").replace("−", "-") == told
    assert page.evaluate("ends({mean: 30, half: 80}, 'points')") == "−50.0 to +100.0, clipped"
    assert page.evaluate("ends({mean: 3, half: 8}, 'nats')") == "−5 to +11"


def test_the_quantile_of_the_page_is_students(visit: Visit, board: Path) -> None:
    from scipy.stats import t

    page = visit(board)
    for degrees in (1, 2, 4, 9, 15, 16, 20, 30, 31, 40, 200):
        assert page.evaluate(f"quantile({degrees})") == pytest.approx(t.ppf(0.975, degrees), rel=2e-8)


def test_an_axis_says_where_its_lines_are(visit: Visit, board: Path) -> None:
    """A line at 62.5 % said 63."""
    axis = "valueAxis([{mean: 0.6, half: 0}, {mean: 0.71, half: 0}], 'fraction', '')"
    told = visit(board).evaluate(f"(axis => axis.ticks.map(axis.text))({axis})")
    assert told == ["60", "62.5", "65", "67.5", "70"]


def test_large_board_shows_the_best_and_says_so(visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for result in many_results(400):
        put(tmp_path, result, picture=False)
    monkeypatch.setattr(embed, "MAX_PAGE_BYTES", 200_000)
    build(tmp_path)
    page = visit(tmp_path)
    note = page.locator("#board > p.plain").inner_text()
    assert "larger than a page" in note
    assert page.locator("section.table").count() == 24
    last = page.locator("section.table").last.locator("tr.row:not(.ref)").last
    last.locator(".open").click()
    page.wait_for_selector(READY)
    assert page.locator("#panel circle.dot").count() > 0, "every row that is shown has its file"


def test_a_page_without_its_files_says_where_a_row_is(visit: Visit, said: list[str], tmp_path: Path) -> None:
    """As when somebody passed on index.html alone; its tables and charts are there all the same."""
    put(tmp_path, made_result("mtt"))
    build(tmp_path)
    shutil.rmtree(tmp_path / "rows")
    page = visit(tmp_path)
    page.locator(".open").first.click()
    page.wait_for_selector(READY)
    assert "is not beside this page" in page.inner_text("#panel .body")
    assert page.locator("#panel .body a[href^='results/digits/ipc1/mtt/']").count() == 1
    assert len(said) == 1
    assert "ERR_FILE_NOT_FOUND" in said.pop()


def test_a_row_that_was_left_meanwhile_does_not_come_back(visit: Visit, board: Path) -> None:
    """Its file arrives after another row was opened: the other one stays, with its own runs."""
    page = visit(board)
    held = page.locator("#t0 tr.row").nth(1).get_attribute("data-id")
    page.route(f"**/rows/{held}.js", lambda route: (time.sleep(0.3), route.continue_()))
    page.locator("#t0 .open").nth(1).click()
    page.keyboard.press("ArrowLeft")
    first = page.locator("#t0 tr.row").first.get_attribute("data-id")
    page.wait_for_selector(READY)
    page.wait_for_timeout(500)
    assert page.locator("#panel .rest").count() == 1
    assert first in page.inner_text("#panel")
    assert held not in page.inner_text("#panel .rest section:last-of-type")


def test_empty_board_says_how_to_begin(visit: Visit, tmp_path: Path) -> None:
    build(tmp_path)
    assert "ddbench submit" in visit(tmp_path).inner_text("main")
