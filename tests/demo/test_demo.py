"""The page in a real browser."""

import os
import re
import shutil

import pytest
from demo_world import WAIT, Visit, served
from playwright.sync_api import expect, sync_playwright
from tiny_world import LABELS, tiny_picture
from transformers import pipeline

from modeling_hmgrl.pipeline_hmgrl import TASK

OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with served(tmp_path_factory.mktemp("demo"), "typing", "relation") as servers:
        yield servers


@pytest.fixture(scope="module")
def server(servers):
    return servers["typing"]


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        reason = "no chromium on the PATH; Debian: apt-get install chromium"
        if os.environ.get("CI") or os.environ.get("HMGRL_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    visit = Visit(browser, server)
    yield visit
    visit.context.close()
    assert visit.faults == []
    assert visit.foreign == []


@pytest.fixture
def picture(tmp_path):
    tiny_picture("animal", size=(64, 48)).save(tmp_path / "fox.png")
    return tmp_path / "fox.png"


def test_from_a_mouse_to_bars_and_heat(visit, picture):
    page = visit.page
    visit.sentence.fill("anna sees the old fox today")
    expect(page.locator("#marked")).to_contain_text("Select the words of the mention")
    visit.mark_word("fox")
    visit.mark_words("old", "fox", "old fox")
    visit.no_labels()
    visit.add_labels("animal", "lute", "plant")
    page.set_input_files("#picture input[type=file]", picture)
    page.wait_for_selector("#picture img[src*='/gradio_api/file=']")
    visit.predict()
    told = pipeline(TASK, model=str(visit.server.model))(
        "anna sees the old fox today",
        spans=[[14, 21]],
        image=picture,
        labels=["animal", "lute", "plant"],
    )
    bars = visit.bars()
    assert [name for name, _, _ in bars] == told["labels"]
    assert [width for *_, width in bars] == pytest.approx(
        [100 * p for p in told["probabilities"]], abs=0.01
    )
    assert {name: kind for name, kind, _ in bars} == {
        "animal": "seen",
        "lute": "unseen",
        "plant": "unseen",
    }
    colours = {
        kind: page.locator(f".hm-bars .{kind} .hm-track span").first.evaluate(
            "bar => getComputedStyle(bar).backgroundColor"
        )
        for kind in ("seen", "unseen")
    }
    assert colours["seen"] != colours["unseen"]
    assert page.locator(".hm-label").inner_text() == told["label"]
    heat = page.get_by_alt_text(re.compile("Heatmap over the picture, strongest in the"))
    assert heat.evaluate("image => image.complete && image.naturalWidth") > 100
    assert page.locator(".hm-words").inner_text() == "anna sees the old fox today"
    assert page.locator(".hm-words .hm-word").count() == 6
    assert page.locator(".hm-words mark").inner_text() == "old fox"


def test_marks_follow_the_text_and_count_as_python_does(visit):
    page = visit.page
    visit.sentence.fill("\U0001f98a\U0001f98a anna sees the fox")
    visit.mark_word("fox")
    page.keyboard.press("Home")
    page.keyboard.type("\U0001f98a! ")
    expect(page.locator("#marked")).to_contain_text("\U0001f98a! \U0001f98a")
    expect(visit.marks).to_have_text("fox")
    visit.predict()
    assert page.locator(".hm-words mark").inner_text() == "fox"
    text = "\U0001f98a! \U0001f98a\U0001f98a anna sees the fox"
    assert page.locator(".hm-words").inner_text() == text
    visit.double_click("fox")
    page.keyboard.type("hen")
    expect(visit.marks).to_have_count(0)
    assert "none is marked" in visit.error()


def test_the_keyboard_alone_does(visit):
    page = visit.page
    visit.sentence.focus()
    page.keyboard.type("anna sees the fox")
    page.keyboard.press("Control+Shift+ArrowLeft")
    expect(visit.marks).to_have_text("fox")
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "predict":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".hm-result")).to_be_visible(timeout=WAIT * 1000)
    assert page.evaluate("document.activeElement.id") == "predict"


def test_what_is_missing_is_reported(visit, tmp_path):
    page = visit.page
    assert "Sentence: write one first" in visit.error()
    visit.sentence.fill("anna sees the fox")
    assert "Mention: none is marked" in visit.error()
    visit.mark_word("fox")
    visit.no_labels()
    assert "Labels: none are chosen" in visit.error()
    page.get_by_role("button", name="All known labels").click()
    expect(page.locator("#labels .token")).to_have_count(len(LABELS))
    (tmp_path / "a.png").write_bytes(b"no picture")
    page.set_input_files("#picture input[type=file]", tmp_path / "a.png")
    page.wait_for_selector("#picture img[src*='/gradio_api/file=']", state="attached")
    assert "Picture: not an image, expected JPEG" in visit.error()
    visit.sentence.fill("x" * 10_001)
    assert "10,001 characters, expected at most 10,000" in visit.error()
    assert "Traceback" not in page.content()


def test_an_image_file_that_is_too_large_is_refused(visit, tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(21_000_000))
    visit.page.set_input_files("#picture input[type=file]", tmp_path / "a.png")
    expect(visit.page.get_by_text(re.compile("maximum|too large"))).to_be_visible()
    visit.faults.clear()  # the browser notes the refusal


def test_examples_answer_at_a_click(visit):
    page = visit.page
    cards = page.locator("#examples button")
    assert cards.count() == 6
    cards.nth(0).click()
    expect(page.locator(".hm-result")).to_be_visible(timeout=WAIT * 1000)
    assert "fireflies" in visit.sentence.input_value()
    expect(visit.marks).to_have_text("fireflies")
    assert len(visit.bars()) == len(LABELS)
    expect(page.locator(".hm-heat img")).to_be_visible()
    assert page.locator("#picture img").evaluate("image => image.naturalWidth") == 128
    cards.nth(5).click()
    expect(page.locator(".hm-name").filter(has_text="baked goods")).to_be_visible()
    expect(visit.marks).to_have_text("croissant")
    expect(page.locator("#labels .token")).to_have_count(4)
    expect(page.locator(".hm-heat")).to_have_count(0)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Calibrated").uncheck()
    page.get_by_label("Occlusion").check()
    visit.predict()
    assert "uncalibrated" in page.locator(".hm-legend").inner_text()
    assert "Without the words it" in page.locator(".hm-shares").inner_text()


def test_text_of_users_is_no_html(visit):
    page = visit.page
    hostile = '<img src="x" onerror="window.hit = 1">'
    script = "<script>window.hit = 2</script>"
    visit.sentence.fill(f"anna {hostile} fox")
    visit.mark_words("anna", "fox", f"anna {hostile} fox")
    visit.no_labels()
    visit.add_labels(f"{hostile} a", script)
    visit.predict()
    assert page.locator(".hm-words").inner_text() == f"anna {hostile} fox"
    assert {name for name, *_ in visit.bars()} == {
        f"{hostile} a",
        "<script>window.hit = 2</script>",
    }
    page.get_by_role("button", name="As JSON").click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit === undefined")


def test_relations_take_head_and_tail(browser, servers):
    visit = Visit(browser, servers["relation"])
    visit.sentence.fill("anna feeds the old fox")
    visit.mark_word("anna", ["annahead"])
    visit.mark_words("old", "fox", ["annahead", "old foxtail"])
    visit.predict()
    assert visit.page.locator(".hm-words mark.head").inner_text() == "anna"
    assert visit.page.locator(".hm-words mark.tail").inner_text() == "old fox"
    visit.mark_word("old", ["annahead", "oldtail"])
    visit.page.get_by_role("button", name="Mark selection as head").click()
    expect(visit.marks.first).to_contain_text("old")
    visit.page.get_by_role("button", name="Unmark").click()
    expect(visit.marks).to_have_count(0)
    assert "two, a head and a tail" in visit.error()
    visit.page.locator("#examples button").first.click()
    expect(visit.marks).to_have_text(["Marie Curiehead", "Warsawtail"])
    visit.page.wait_for_selector(".hm-result")
    visit.context.close()
    assert visit.faults == visit.foreign == []


def test_a_phone_in_the_dark(browser, server):
    visit = Visit(
        browser,
        server,
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
    )
    page = visit.page
    page.locator("#examples button").first.click()
    page.wait_for_selector(".hm-result")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.evaluate(
        """[...document.querySelectorAll("#columns *")].filter(
             part => part.getBoundingClientRect().right > 391).map(part => part.outerHTML)"""
    )
    assert wide == []
    light = page.evaluate(
        """["#answer .hm-result", "body"].map((name) => {
             const colour = getComputedStyle(document.querySelector(name)).backgroundColor;
             return colour.match(/\\d+/g).slice(0, 3).map(Number);
           })"""
    )
    assert max(max(colour) for colour in light) < 80
    page.wait_for_function("document.querySelector('#answer').getBoundingClientRect().top < 500")
    visit.context.close()
    assert visit.faults == visit.foreign == []
