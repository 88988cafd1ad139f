"""The report, from the paths of its parts to one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from iredinterp.cards import card
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.page import RULE
from iredinterp.leaderboard import boards
from iredinterp.pages import render_page
from iredinterp.report.claims import Claim, Claims, read_claims
from iredinterp.report.figures import FORMATS, Subject, subjects
from iredinterp.report.methods import read_calibrations
from iredinterp.report.numbers import Numbers, numbers
from iredinterp.report.origins import Origin, as_yaml, origins, versions
from iredinterp.report.pages import Page, read_pages
from iredinterp.tables import gather, read_provenance, read_table

Paths = Sequence[str | Path]


@dataclass(frozen=True)
class Experiment:
    """All that the report shows of one experiment.

    Attributes:
        page: what is asked.
        claims: judged by it.
        subjects: models and recipes with their figures.
        numbers: tables, one per model.
        origins: of the tables.
        files: relative links to what is neither figure nor table.
    """

    page: Page
    claims: Sequence[Claim]
    subjects: Sequence[Subject]
    numbers: Sequence[Numbers]
    origins: Sequence[Origin]
    files: Sequence[str]


def write_report(
    path: str | Path,
    *,
    pages: str | Path,
    results: Mapping[str, Paths],
    verdicts: str | Path,
    contrasts: str | Path,
    hypotheses: str | Path,
    cards: Paths,
    config: Mapping,
    calibrations: Paths = (),
    recovered: Paths = (),
    costs: Paths = (),
    scorecard: Paths = (),
) -> None:
    """Write the report as one self-contained HTML file, atomically.

    Links to figures and tables are relative to it, so that it can be moved together with the results. Equal
    inputs and versions give equal bytes.

    Args:
        path: file to write.
        pages: what is said of each experiment, see `iredinterp.report.read_pages`; captions lie beside it.
        results: by id of a page, its figures in any format, its metric tables and further files. A page
            without any says so; a figure without an SVG is linked but not shown.
        verdicts: table of `iredinterp.evidence.verdicts.verdict_table`.
        contrasts: table of `iredinterp.evidence.verdicts.contrast_table`.
        hypotheses: the registration they were judged by.
        cards: competence tables.
        config: the configuration.
        calibrations: `…/PROBLEMS/calibration.parquet` of planted networks.
        recovered: tables of circuit methods on planted circuits.
        costs: what these took; as many.
        scorecard: table of the methods' error rates, at most one.

    Raises:
        ConfigError: a page, a caption, the registration or an image is faulty.
        TableError: a table is missing or damaged.
    """
    root, captions = Path(path).parent, Path(pages).parent
    registration = read_hypotheses(hypotheses)
    claims = read_claims(verdicts, contrasts)
    judged = [verdicts, contrasts, *scorecard]
    render_page(
        "report.html",
        path,
        claims=claims,
        rule=RULE,
        registration=registration,
        experiments=[
            _experiment(page, results.get(page.id, ()), claims, captions, root) for page in read_pages(pages)
        ],
        cards=[card(read_table(file)) for file in cards],
        calibrations=read_calibrations(calibrations, registration),
        boards=boards(gather(recovered), gather(costs)) if recovered else [],
        scorecards=[(read_table(file).to_pylist(), read_provenance(file)["seed"]) for file in scorecard],
        judged=[relpath(file, root) for file in judged],
        origins=origins([*judged, *cards, *calibrations, *recovered], root),
        versions=versions(),
        config=as_yaml(config),
    )


def _experiment(page: Page, paths: Paths, claims: Claims, captions: Path, root: Path) -> Experiment:
    tables = [path for path in paths if Path(path).suffix == ".parquet"]
    others = [path for path in paths if Path(path).suffix not in (".parquet", *FORMATS)]
    return Experiment(
        page,
        claims.of(page.experiment),
        subjects(paths, page, captions, root),
        numbers(tables, page.numbers),
        origins(tables, root),
        [relpath(path, root) for path in others],
    )
