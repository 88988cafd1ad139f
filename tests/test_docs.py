"""The documentation builds without a warning, has every public name, and its links lead somewhere."""

import html
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from sphinx.util.inventory import InventoryFile

import iredinterp

ROOT = Path(__file__).parents[1]
GUIDES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "config/README.md"]
GUIDES += [ROOT / "docs/tutorial.ipynb", ROOT / "benchmarks/RESULTS.md", ROOT / "tests/data/README.md"]


class Page(HTMLParser):
    """The links and the anchors of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id"))
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-c", "docs", ".", folder / "html", "-d", folder / "doctrees"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_every_public_name_has_an_entry(site):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, target: target)
    entries = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert {f"iredinterp.{name}" for name in iredinterp.__all__} <= entries
    assert "iredinterp.errors.ConfigError" in entries


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_front_page_leads_to(guide, site):
    front = site / "docs/index.html"
    reached = {(front.parent / urlsplit(link).path).resolve() for link in Page(front).links} | {front}
    assert (site / guide.relative_to(ROOT).with_suffix(".html")).resolve() in reached


def test_docstrings_are_shown_as_written(site):
    shown = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", (site / "docs/api.html").read_text())))
    for name in iredinterp.__all__:
        said = inspect.getdoc(getattr(iredinterp, name))
        for heading in ("Returns:", "Source:"):
            if found := re.search(rf"^{heading}\n    (.*)", said, re.MULTILINE):
                assert found[1].removeprefix("* ").replace("`", "") in shown, name


def test_links_inside_the_site_resolve(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.name}: {link}")
    assert not broken


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_guides_resolve_in_the_repository_too(guide):
    text = re.sub(r"```.*?```", "", guide.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not urlsplit(link).scheme]
    missing = [link for link in links if not (guide.parent / urlsplit(link).path).exists()]
    assert not missing


def test_the_makefile_builds_what_is_tested():
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^docs: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "sphinx-build -W --keep-going" in recipe
    assert "-c docs ." in recipe
    assert re.search(r"^\.PHONY:.* docs ", makefile, re.MULTILINE)


def test_ci_and_hooks_run_the_projects_own_checks():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run"
    assert {"make test", "make lint"} <= set((ROOT / ".ci/run").read_text().splitlines())
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    tools = {"ruff check", "ruff format", "snakefmt"}
    assert all(tool in lint for tool in tools)
    assert all(any(tool in hook["entry"] for hook in hooks) for tool in tools)


def test_the_citation_has_what_its_schema_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    keys = {
        "cff-version",
        "message",
        "title",
        "type",
        "authors",
        "version",
        "license",
        "keywords",
        "references",
    }
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= keys
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in {"software", "dataset"}
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text()
    people = citation["authors"] + [author for work in citation["references"] for author in work["authors"]]
    assert all({"family-names", "given-names"} <= set(person) or "name" in person for person in people)
    # `collection-title` of a conference paper, and identifiers of the four kinds that the schema has.
    for work in citation["references"]:
        assert {"authors", "title", "type"} <= set(work)
        assert all(entry["type"] in {"doi", "url", "swh", "other"} for entry in work.get("identifiers", []))


def test_the_workflow_catalog_finds_what_it_asks_for():
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    usage = catalog["usage"]
    assert set(catalog) == {"usage"}
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda"}
    assert all(isinstance(value, bool) for value in usage["software-stack-deployment"].values())
    readme = (ROOT / "README.md").read_text()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert "https://img.shields.io/badge/snakemake-" in readme
    assert (ROOT / "config/README.md").is_file()
    assert (ROOT / "LICENSE").is_file()
    assert list((ROOT / "workflow/rules").glob("*.smk"))
    snakefile = (ROOT / "workflow/Snakefile").read_text()
    for text in ("min_version(", "configfile:", "report:"):
        assert text in snakefile
    # `conda: true` promises an environment for every rule that runs something; `report: true`, captions.
    assert usage["software-stack-deployment"]["conda"] == bool(list((ROOT / "workflow/envs").glob("*.y*ml")))
    assert usage["report"] == bool(list((ROOT / "workflow/report").glob("*.rst")))
