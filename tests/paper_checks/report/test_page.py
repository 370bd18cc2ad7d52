"""The report in a browser: whole, offline, in light and dark, on a phone, on paper, by keyboard, without its script."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from paper_checks import CLAIMS, Setting
from paper_checks.report.page import Entry, command, page
from paper_checks.subject import OwnProblem
from tests.paper_checks.report import pages

VISIBLE = "elements => elements.filter(each => each.checkVisibility()).map(each => each.id)"
# Every text's colour on what is behind it, as WCAG 2 counts: pairs below 4.5 with the text
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const known = new Map();
  const rgba = colour => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const luminance = colour => {
    const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = each => {
    for (; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const each of document.querySelectorAll('body *')) {
    if (![...each.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !each.checkVisibility()) continue;
    const pair = [rgba(getComputedStyle(each).color), behind(each)].map(luminance).sort((x, y) => y - x);
    if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) poor.push(each.outerHTML.slice(0, 120));
  }
  return poor;
}"""


def shown(tab):
    return tab.locator("section[data-claim]").evaluate_all(VISIBLE)


def test_the_page_is_one_file_below_5_mb_with_every_figure_at_the_limit(report):
    text = report.read_text()
    assert len(text.encode()) < 5_000_000
    assert all(f'id="{name}"' in text for name in CLAIMS)
    assert "data:image/webp" in text
    assert "data:image/svg+xml" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"@import|url\((?!data:)", style)


def test_everything_is_there_and_decoded(visit, report):
    with visit(report) as tab:
        images = tab.locator("img").evaluate_all(
            "all => Promise.all(all.map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert len(images) == len(CLAIMS)
        assert min(images) > 300
        sizes = tab.locator("math").evaluate_all(
            "all => all.filter(m => m.checkVisibility()).map(m => [m.namespaceURI, m.getBoundingClientRect().width])"
        )
        assert len(sizes) > 1000
        assert all(namespace.endswith("MathML") and width > 2 for namespace, width in sizes)
        assert tab.evaluate("document.fonts.check('16px Formulas')")
        assert shown(tab) == list(CLAIMS)


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_every_anchor_leads_somewhere_and_everything_has_a_name(visit, request, which):
    with visit(request.getfixturevalue(which)) as tab:
        lost = "all => all.map(a => a.hash.slice(1)).filter(id => !document.getElementById(id))"
        assert tab.locator("a[href]").evaluate_all(lost) == []
        assert tab.locator("a[href]:not([href^='#'])").count() == 0
        ids = tab.locator("[id]").evaluate_all("all => all.map(each => each.id)")
        assert len(set(ids)) == len(ids)
        unnamed = "all => all.filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim())).length"
        assert tab.locator("button, a[href], img, svg[role=img], input, nav").evaluate_all(unnamed) == 0
        assert tab.locator("h1").count() == 1
        assert tab.locator("main").count() == 1


def test_the_outcome_and_the_words_searched_choose_the_claims(visit, small_report):
    with visit(small_report) as tab:
        tab.get_by_role("button", name="Violated").click()
        assert shown(tab) == ["memory"]
        assert tab.locator("#count").inner_text() == f"1 of {len(pages.FEW)}"
        assert tab.locator("#verdicts tbody tr:visible").count() == tab.locator("nav li:visible").count() == 1
        tab.get_by_role("button", name=f"All {len(pages.FEW)}").click()
        tab.keyboard.press("/")
        tab.keyboard.type("chebyshev spectrum")
        found = shown(tab)
        assert "cg_rate" in found
        assert len(found) < len(pages.FEW)
        said = tab.evaluate("location.hash")
        tab.keyboard.press("Escape")
        assert shown(tab) == list(pages.FEW)
    with visit(small_report, said) as tab:
        assert shown(tab) == found
        assert tab.locator("#search").input_value() == "chebyshev spectrum"
        tab.evaluate("location.hash = '#memory'")  # not among those found: all are shown again
        tab.wait_for_function("document.querySelector('#search').value === ''")
        assert shown(tab) == list(pages.FEW)


def test_a_link_to_a_claim_unfolds_it(visit, small_report):
    with visit(small_report) as tab:
        tab.get_by_role("button", name="Fold all").click()
        assert tab.locator("#memory .statement").is_hidden()
        tab.locator("nav a[href='#memory']").click()
        assert tab.locator("#memory .statement").is_visible()
        assert tab.locator("#cg_rate .statement").is_hidden()
        tab.get_by_role("button", name="Unfold all").click()
        assert tab.locator("#cg_rate .statement").is_visible()


def test_the_table_is_sorted_by_its_heads(visit, small_report):
    with visit(small_report) as tab:
        seconds = tab.locator("#verdicts tbody td:last-child")
        tab.locator("#verdicts").get_by_role("button", name="Seconds").click()
        values = list(map(float, seconds.all_inner_texts()))
        assert values == sorted(values)
        tab.locator("#verdicts").get_by_role("button", name="Seconds").press("Enter")
        assert list(map(float, seconds.all_inner_texts())) == sorted(values, reverse=True)
        assert tab.locator("th[aria-sort]").count() == 1


def test_dark_and_light_follow_the_system_until_one_is_chosen_and_that_is_remembered(visit, small_report):
    colour = "getComputedStyle(document.body).backgroundColor"
    with visit(small_report, color_scheme="dark") as tab:
        dark = tab.evaluate(colour)
        assert "invert" in tab.evaluate("getComputedStyle(document.querySelector('figure img')).filter")
        tab.locator("#theme").click()
        light = tab.evaluate(colour)
        assert light == "rgb(255, 255, 255)" != dark
        assert tab.evaluate("getComputedStyle(document.querySelector('figure img')).filter") == "none"
        tab.reload()
        assert tab.evaluate(colour) == light
    with visit(small_report, color_scheme="light") as tab:
        assert tab.evaluate(colour) == light


@pytest.mark.parametrize("which", ["small_report", "comparison"])
def test_every_text_stands_out_from_what_is_behind_it(visit, request, which):
    with visit(request.getfixturevalue(which)) as tab:
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert tab.evaluate(CONTRAST) == []


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_a_phone_scrolls_down_only(visit, request, which):
    with visit(request.getfixturevalue(which), viewport={"width": 390, "height": 844}) as tab:
        tab.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        cut = """all => all.map(each => [each.getBoundingClientRect(), each.outerHTML.slice(0, 200)])
                        .filter(([box]) => box.right > 390 || box.left < 0).map(([, html]) => html)"""
        assert tab.locator("main math, main figure, main .gauge, main .outcome, .bar button").evaluate_all(cut) == []


def test_paper_shows_everything_and_no_controls(visit, small_report):
    with visit(small_report, "#show=VIOLATED") as tab:
        tab.get_by_role("button", name="Fold all").click()
        assert shown(tab) == ["memory"]
        tab.emulate_media(media="print")
        assert shown(tab) == list(pages.FEW)
        heights = "all => all.map(each => each.getBoundingClientRect().height)"
        assert (
            min(tab.locator(".statement, details.more table, .theory section > details > div").evaluate_all(heights))
            > 10
        )
        assert tab.locator(".bar").is_hidden()
        assert tab.locator("figure img").first.evaluate("each => getComputedStyle(each).filter") == "none"


def test_without_its_script_the_page_says_the_same(visit, small_report):
    with visit(small_report, java_script_enabled=False) as tab:
        assert tab.locator(".statement:visible").count() == len(pages.FEW)
        assert tab.locator("#verdicts tbody tr:visible").count() == len(pages.FEW)
        assert tab.locator(".bar").is_hidden()
        assert tab.locator("[data-copy]:visible").count() == 0


def test_a_comparison_shows_what_is_beyond_noise(visit, comparison):
    with visit(comparison) as tab:
        tab.get_by_role("button", name="Beyond noise").click()
        assert shown(tab) == ["batch_size_decay"]
        assert tab.locator("#batch_size_decay .gauge").count() == 1


# ---- what the page says


@pytest.fixture(scope="module")
def entry(entries):
    return next(each for each in entries if each.claim.name == "certificate")._replace(figure=None)


def test_a_method_of_ones_own_is_named_in_the_head_and_in_the_commands(entry):
    text = page([entry], Setting(method=Own), skipped={"memory": "memory needs K, which <Own> lacks"})
    assert "Under judgement is the method <code>tests.paper_checks.report.test_page:Own</code>" in text
    assert "--device cpu --method tests.paper_checks.report.test_page:Own" in text
    assert "Claims that do not apply" in text
    assert "<Own>" not in text
    assert "Under judgement" not in page([entry], Setting())
    assert "falsify" not in text  # what was searched was the paper's algorithm


def test_a_run_that_failed_says_why_and_has_no_empty_table(entry):
    verdict = replace(entry.verdict, comparisons=(), failure="the run ended with NON_FINITE")
    text = page([entry._replace(verdict=verdict)], Setting())
    assert "the run ended with <code>NON_FINITE</code>" in text
    assert "<tbody>\n</tbody>" not in text


class Own:
    """A method of one's own."""


def test_the_command_has_every_option_that_decides_about_the_numbers():
    setting = Setting("paper", 3, "cuda:1", memory="2GiB", problem=OwnProblem("mine:Problem", 3))
    assert command("cg_rate", setting) == (
        "python -m paper_checks cg_rate --scale paper --seed 3 --device cuda:1 --memory 2GiB --problem mine:Problem"
    )


def test_a_claim_says_what_was_planted_searched_and_where_the_theory_is(entry):
    text = page([entry], Setting())
    assert "a rule that asks for" in text
    assert f"All {len(entry.verdict.control)} comparisons of the control" in text
    assert "python -m paper_checks falsify certificate --budget" in text
    assert '<a href="#theory-S1">S1</a>' in text
    assert 'id="theory-S1"' in text


def test_what_a_claim_says_cannot_break_the_page(entry):
    claim = entry.claim.__class__(
        **vars(entry.claim) | {"title": "<script>x</script> & |phi|", "planted": '"><img src=x>'}
    )
    text = page([Entry(claim, entry.verdict, None)], Setting())
    assert "<script>x" not in text
    assert "<img src=x>" not in text
    assert "&lt;script&gt;x" in text


def test_names_and_messages_of_somebody_else_cannot_break_the_page(entry):
    name = '"><script>x</script>'
    first, *others = entry.verdict.comparisons
    strange = replace(first, quantity=name, relation=f"<= {name}", reason=name, cell=name)
    odd = type(name, (), {"__module__": name})
    for failure in ("", name):
        verdict = replace(entry.verdict, comparisons=(strange, *others), control=(strange,), failure=failure)
        text = page([entry._replace(verdict=verdict)], Setting(method=odd, memory=name), skipped={name: name})
        assert "<script>x" not in text
        assert "&lt;script&gt;x" in text
