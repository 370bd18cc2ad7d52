"""One browser for all tests of pages, without a network; skipped aloud where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from paper_checks.compare import compare
from paper_checks.compare import page as compare_page
from paper_checks.evidence import Run, load_run
from tests.paper_checks.report import pages

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is on this machine")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS, "--disable-sync"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def entries(tmp_path_factory):
    return pages.entries(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="session")
def report(tmp_path_factory, entries):
    """The page with all claims."""
    return pages.write(tmp_path_factory.mktemp("report"), entries)


@pytest.fixture(scope="session")
def small_report(tmp_path_factory, entries):
    """A page with four claims, the last VIOLATED and the second INCONCLUSIVE."""
    few = [entry for entry in entries if entry.claim.name in pages.FEW]
    return pages.write(
        tmp_path_factory.mktemp("small_report"), sorted(few, key=lambda e: pages.FEW.index(e.claim.name))
    )


@pytest.fixture(scope="session")
def comparison(tmp_path_factory):
    """Two runs that differ in a few numbers."""
    before = load_run(pages.GALLERY)
    entries = dict(before.entries)
    stored = entries["batch_size_decay"]
    first, *others = stored.verdict.comparisons
    moved = replace(first, measured=first.measured * 1.5, interval=tuple(1.5 * end for end in first.interval))
    entries["batch_size_decay"] = replace(stored, verdict=replace(stored.verdict, comparisons=(moved, *others)))
    path = tmp_path_factory.mktemp("compare") / "compare.html"
    path.write_text(compare_page(compare(before, Run(before.folder, entries, before.header))))
    return path


@pytest.fixture
def visit(browser):
    """`with visit(file, hash, ...) as page`: nothing of it may fail, and nothing may leave the machine."""

    @contextmanager
    def opened(path, hash="", **options) -> Iterator[Page]:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        context.set_default_timeout(15_000)
        wrong: list[str] = []
        context.route("http*://**", lambda route: (wrong.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url[:80]))
        page.goto(f"{path.as_uri()}{hash}")
        yield page
        context.close()
        assert wrong == []

    return opened
