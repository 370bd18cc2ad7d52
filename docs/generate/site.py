"""The HTML site: every Markdown page by markdown-it, the API by pdoc, and no link that leads nowhere."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pdoc
import pygments
from latex2mathml.converter import convert
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, find_lexer_class_for_filename

from docs.generate import DOCS, ROOT
from docs.generate.docstrings import docstring
from docs.generate.markdown import links, parser, slugify
from docs.generate.templates import ENVIRONMENT
from paper_checks import report

FONT = Path(report.__file__).with_name("mathematics.woff2")
PACKAGES = ("problems", "convergence", "paper_checks", "figures")
# Beside the packages that list their public names: what claims, methods and figures are written with
MODULES = ("convergence.method", "convergence.needs", "convergence.rates", "paper_checks.claim", "figures.style")
_PARSER = parser().use(anchors_plugin, max_level=4, slug_func=slugify)
_PARSER.use(dollarmath_plugin, allow_space=False, allow_digits=False, renderer=lambda formula, _: convert(formula))
_PICTURES = {".png", ".svg", ".jpg", ".gif"}


def build(out: Path) -> str:
    """Write the site to `out`, index.html first; return what it holds.

    Raises ValueError where a link leads nowhere, and whatever pdoc warns of.
    """
    shutil.rmtree(out, ignore_errors=True)
    pages = {path: path.read_text(encoding="utf-8") for path in markdown_pages()}
    linked: set[Path] = set()
    for path, text in pages.items():
        _write(out / address(path), _page(path, text, linked))
    shutil.copyfile(FONT, out / FONT.name)
    for path in sorted(linked):
        if path.suffix in _PICTURES:
            (out / address(path)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / address(path))
        elif path.suffix != ".md":
            _write(out / address(path), _source(path))
    return f"{len(pages)} pages, {api(out / 'api')} of the API: {out / 'index.html'}"


def markdown_pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def address(path: Path) -> Path:
    """Where a file of the repository is within the site."""
    if path == DOCS / "README.md":
        return Path("index.html")
    within = path.relative_to(ROOT)
    if path.suffix in _PICTURES:
        return within
    return within.with_suffix(".html") if path.suffix == ".md" else Path("source") / f"{within}.html"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# ---- pages


def _page(path: Path, text: str, linked: set[Path]) -> str:
    tokens = _PARSER.parse(text)
    for token, attribute, target in links(tokens):
        token.attrs[attribute] = _relative(path, target, linked)
    title = next(inline.content for token, inline in pairwise(tokens) if token.tag == "h1")
    body = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return _framed(re.sub(r"<[^>]*>|[\\$`{}]", "", title), body, address(path).parent)


def _framed(title: str, body: str, folder: Path) -> str:
    """A whole page; `folder` is where it will be."""
    return ENVIRONMENT.get_template("page.html.j2").render(title=title, body=body, root=os.path.relpath(".", folder))


def _relative(page: Path, target: str, linked: set[Path]) -> str:
    """The address of a linked file, seen from the page; a folder leads to its README."""
    name, hash_, anchor = target.partition("#")
    file = Path(os.path.normpath(page.parent / name)) if name else page
    if file.is_dir():
        file /= "README.md" if (file / "README.md").exists() else "__init__.py"
    if not file.is_file():
        raise ValueError(f"expected links to files of the repository in {page.relative_to(ROOT)}, got {target}")
    linked.add(file)
    return os.path.relpath(address(file), address(page).parent) + hash_ + anchor


def _source(path: Path) -> str:
    title = str(path.relative_to(ROOT))
    lexer = find_lexer_class_for_filename(path.name) or TextLexer
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", noclasses=True, nobackground=True)
    body = pygments.highlight(path.read_text(encoding="utf-8"), lexer(), formatter)
    return _framed(title, f"<h1>{title}</h1>{body}", address(path).parent)


# ---- the API


def api(out: Path) -> int:
    """A page for each of `public_modules`, by pdoc; a warning of pdoc is an error. Returns how many there are."""
    modules = list(public_modules())
    for module in modules:
        _as_written(module)
    pdoc.render.env.filters |= {"to_markdown": str, "to_html": docstring}
    pdoc.render.configure(
        show_source=False, include_undocumented=False, template_directory=Path(__file__).parent / "pdoc"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = {module.__name__: pdoc.doc.Module(module) for module in modules}
        for name, page in pages.items():
            _write(out / f"{name.replace('.', '/')}.html", pdoc.render.html_module(page, pages))
        _write(out / "search.js", pdoc.render.search_index(pages))
    table = ENVIRONMENT.get_template("api.html.j2").render(modules=modules)
    _write(out / "index.html", _framed("API", table, Path("api")))
    return len(pages)


def public_modules() -> Iterator[ModuleType]:
    """The packages and modules that list their public names in `__all__`, and MODULES."""
    for package in PACKAGES:
        top = importlib.import_module(package)
        yield top
        for info in pkgutil.walk_packages(top.__path__, f"{package}."):
            if info.ispkg or info.name in MODULES:
                module = importlib.import_module(info.name)
                if info.name in MODULES or hasattr(module, "__all__"):
                    yield module


class _AsWritten:
    """An annotation that pdoc shows as it is in the source."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _as_written(module: ModuleType) -> None:
    """Annotations of generated constructors as they are written: they name what only modules of bases import."""
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
            annotations = (kind.__init__ if dataclasses.is_dataclass(kind) else kind.__new__).__annotations__
            for name, annotation in annotations.items():
                if text := getattr(annotation, "__forward_arg__", annotation if isinstance(annotation, str) else ""):
                    annotations[name] = _AsWritten(text)
