"""The pages in a real browser: offline, whole, usable by keyboard, on a phone, in the dark and without scripts."""

import os
import shutil
from contextlib import contextmanager

import pytest
import report_sample
from axe_playwright_python.sync_playwright import Axe
from debian import lacking
from playwright.sync_api import sync_playwright
from report_sample import Study

from iredinterp.report import write_report

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 700}
UNFOLDED = "document.querySelectorAll('details').forEach(part => { part.open = true })"
SORTED = ["-7", "-1.5e-3", "2e-9", "0.4", "10", "9.1e2", "", ""]


def chromium():
    """Path of the system's Chromium; without one, the test is skipped."""
    if path := shutil.which("chromium-browser"):
        return path
    if reason := lacking({"chromium": "chromium"}):
        pytest.skip(f"NO Chromium, so no page is opened: {reason}")
    return shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("results"), seed=report_sample.fresh())
    write_report(study.folder / "report.html", **study.inputs())
    return study


@contextmanager
def opened(browser, path, **options):
    """A page of its own, which may ask for nothing but its file and has nothing to complain of."""
    context = browser.new_context(viewport=options.pop("viewport", DESK), **options)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {path.as_uri()}
    assert said == []


def addresses(page):
    return page.eval_on_selector_all("nav a", "links => links.map(link => link.hash)")


def visible(page):
    return page.eval_on_selector_all(
        ".page", "pages => pages.filter(page => !page.hidden).map(page => page.id)"
    )


def go(page, address):
    """Follow an address as a link would."""
    page.evaluate("hash => { location.hash = hash }", address)
    page.wait_for_function(
        "hash => document.querySelector(`nav a[href='${hash}']`).getAttribute('aria-current') === 'page'",
        arg=address,
    )


def test_every_image_loads_and_every_link_leads_somewhere(browser, study):
    with opened(browser, study.folder / "report.html") as page:
        go(page, "#all")
        assert page.locator("img").count() == 2 * len(study.models) + 1
        for image in page.locator("img").all():
            image.scroll_into_view_if_needed()
            image.evaluate("image => image.decode()")
            assert image.evaluate("image => image.naturalWidth") > 0
        for link in page.locator("a").all():
            href = link.get_attribute("href")
            if href.startswith("#"):
                assert page.evaluate("id => document.getElementById(id) !== null", href[1:]), href
            else:
                assert (study.folder / href).is_file(), href


def test_the_address_says_which_page_is_shown(browser, study):
    with opened(browser, study.folder / "report.html") as page:
        assert visible(page) == ["verdicts"]
        for address in addresses(page):
            go(page, address)
            shown = visible(page)
            assert len(shown) > 10 if address == "#all" else shown == [address[1:]]
            assert page.locator("nav a[aria-current=page]").count() == 1
        go(page, "#exp001")
        assert page.title() == "EXP-001 Input-Hessian spectra · iredinterp report"
        assert page.evaluate("document.activeElement.textContent") == "EXP-001 Input-Hessian spectra"
        page.go_back()
        page.wait_for_function("document.querySelectorAll('.page[hidden]').length === 0")
        page.evaluate("location.hash = '#exp001-numbers'")
        page.wait_for_function("!document.getElementById('exp001').hidden")
        assert visible(page) == ["exp001"]
        assert page.evaluate("document.activeElement.id") == "exp001-numbers"


def test_the_keyboard_reaches_content_pages_and_wide_tables(browser, study):
    with opened(browser, study.folder / "report.html") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        assert visible(page) == ["verdicts"]
        page.locator("nav a").nth(1).focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.wait_for_function("!document.getElementById('exp001').hidden")
        assert page.evaluate("[...document.querySelectorAll('.wide')].every(region => region.tabIndex === 0)")


@pytest.mark.parametrize("means", ["click", "Enter", "Space"])
def test_columns_sort_by_value_with_what_is_missing_last_either_way(browser, study, seed, means):
    mixed = report_sample.np.random.default_rng(seed).permutation(SORTED).tolist()
    with opened(browser, study.folder / "report.html") as page:
        go(page, "#exp001")
        table = page.locator("#exp001 table.sortable").first
        table.evaluate(
            """(table, values) => table.tBodies[0].replaceChildren(...values.map((value, i) => {
                const row = document.createElement("tr");
                row.innerHTML = `<th>${i}</th><td data-value="${value}">${value || "–"}</td>`;
                return row;
            }))""",
            mixed,
        )
        heading = table.locator("thead th").nth(1)
        for direction, expected in (("ascending", SORTED), ("descending", [*SORTED[5::-1], "", ""])):
            button = heading.get_by_role("button")
            if means == "click":
                button.click()
            else:
                button.press(means)
            assert heading.get_attribute("aria-sort") == direction
            assert table.locator("[aria-sort]").count() == 1
            found = table.locator("tbody td").evaluate_all("cells => cells.map(cell => cell.dataset.value)")
            assert found == expected


def test_texts_sort_by_name(browser, study):
    with opened(browser, study.folder / "leaderboard.html") as page:
        page.get_by_role("button", name="method").click()
        page.get_by_role("button", name="method").click()
        rows = page.locator("tbody th").all_text_contents()
        assert rows == sorted(rows, reverse=True)


def test_no_page_is_wider_than_a_phone(browser, study):
    with opened(browser, study.folder / "report.html", viewport=PHONE) as page:
        page.evaluate(UNFOLDED)
        for address in addresses(page):
            go(page, address)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], address
    for path in study.single_pages():
        with opened(browser, path, viewport=PHONE) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path.name


def test_the_dark_is_dark_and_figures_stay_on_white(browser, study):
    colours = []
    for scheme in ("light", "dark"):
        with opened(browser, study.folder / "report.html", color_scheme=scheme) as page:
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            sheet = page.locator(".sheet").first
            assert sheet.evaluate("sheet => getComputedStyle(sheet).backgroundColor") == "rgb(255, 255, 255)"
    light, dark = (sum(map(int, colour[4:-1].split(", "))) for colour in colours)
    assert light > 3 * 240
    assert dark < 3 * 40


def test_without_scripts_all_of_it_is_one_page_without_dead_buttons(browser, study):
    with opened(browser, study.folder / "report.html", java_script_enabled=False) as page:
        assert all(section.is_visible() for section in page.locator(".page").all())
        assert page.locator("button").count() == 0
        page.locator("nav a").nth(3).click()
        assert page.url.endswith("#exp003")


def test_printing_leaves_the_navigation_out_and_nothing_cut(browser, study):
    with opened(browser, study.folder / "report.html") as page:
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        overflow = page.locator(".wide").first.evaluate("region => getComputedStyle(region).overflowX")
        assert overflow == "visible"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_serious_barrier_on_any_page(browser, study, scheme, viewport):
    with opened(browser, study.folder / "report.html", viewport=viewport, color_scheme=scheme) as page:
        page.evaluate(UNFOLDED)
        for address in ("#all", "#verdicts"):
            go(page, address)
            assert barriers(page) == []
    for path in study.single_pages():
        with opened(browser, path, viewport=viewport, color_scheme=scheme) as page:
            assert barriers(page) == []


def barriers(page):
    found = Axe().run(page).response["violations"]
    return [
        (violation["id"], node["html"][:200], node.get("failureSummary"))
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
