"""The report: its numbers are those of the tables, its text is text, and what is missing is said."""

import re
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow.compute as pc
import pytest
import report_sample
import yaml
from report_sample import CONDITIONS, MODELS, PAGES, PANEL, Document, Study

from iredinterp.errors import ConfigError, TableError
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.pages import number, prose
from iredinterp.report import read_pages, write_report
from iredinterp.report.captions import read_caption
from iredinterp.report.claims import read_claims
from iredinterp.report.figures import subjects
from iredinterp.report.methods import read_calibrations
from iredinterp.report.numbers import numbers
from iredinterp.tables import read_table, write_table

PAGE = read_pages(PAGES)[0]
CAPTIONS = PAGES.parent


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("results"), seed=report_sample.fresh())


@pytest.fixture(scope="module")
def page(study):
    write_report(study.folder / "report.html", **study.inputs())
    return (study.folder / "report.html").read_text()


def shown(page, label):
    """By quantity and level, the row of one model's numbers as {heading: (text, value)}."""
    head, *rows = Document(page).tables[label]
    headings = [text for text, _ in head]
    return {(row[0][0], row[1][0]): dict(zip(headings, row, strict=True)) for row in rows}


def median(study, model, condition, metric, t):
    path = study.folder / f"hessian/{model}/{condition}/blocks/0/metrics.parquet"
    query = f"SELECT median(value) FROM '{path}' WHERE metric = ? AND t = ?"
    return duckdb.execute(query, [metric, t]).fetchall()[0][0]


@pytest.mark.parametrize("metric", ["condition_number", "alignment_excess"])
def test_every_number_is_the_median_over_problems_of_the_table_it_comes_from(study, page, metric):
    for model in MODELS:
        rows = shown(page, f"exp001 numbers of {model}")
        mine = {level: row for (quantity, level), row in rows.items() if metric in quantity}
        assert list(mine) == ["9", "4", "0"]
        for level, row in mine.items():
            for condition in CONDITIONS:
                expected = median(study, model, condition, metric, int(level))
                text, value = row[condition.replace("_", " ")]
                assert (text, float(value)) == (f"{expected:.3g}", pytest.approx(expected, rel=1e-14))
            assert row["problems"][0] == {"condition_number": "5", "alignment_excess": "4"}[metric]


def test_an_undefined_number_is_a_dash_with_its_reason_and_sorts_as_missing(page):
    rows = shown(page, f"exp001 numbers of {MODELS[0]}")
    (row,) = (row for (name, level), row in rows.items() if "oracle_distance" in name and level == "9")
    assert row["trained"] == ("–1", "")
    assert "<sup>1</sup> nobody knows &lt;the&gt; optimum" in page


def test_a_quantity_that_no_table_holds_has_no_row(page):
    assert not [name for name, _ in shown(page, f"exp001 numbers of {MODELS[0]}") if "scaled_median" in name]


def test_a_search_that_did_not_converge_counts_for_nothing(study, tmp_path):
    path = study.results["exp001"][-3 * len(MODELS)]
    copy = tmp_path / "metrics.parquet"
    table = read_table(path)
    reached = pc.greater(table["t"], 0)
    write_table(table.set_column(5, "converged", reached), copy, study.origin)
    (table,) = numbers([copy], PAGE.numbers)
    assert {row.place for row in table.rows} == {9, 5, 1}


def test_the_front_page_says_every_verdict_effect_and_interval(study, page):
    rows = Document(page).tables["Verdicts"][1:]
    found = [verdict for verdict in study.found if verdict.family]
    assert len(rows) == len(found)
    for verdict in found:
        (row,) = (row for row in rows if row[0][1].endswith(f" {verdict.hypothesis.id}"))
        text = [cell[0] for cell in row]
        assert text[1:3] == [verdict.family, verdict.verdict]
        ends = (number(end) for end in verdict.hardest.ci95)
        assert text[3].startswith(f"{verdict.hardest.effect:.3g} {' … '.join(ends)}")
        assert float(row[3][1]) == verdict.hardest.effect
        assert text[5] == re.sub(r"</?sub>", "", str(prose(verdict.reason))).replace("&gt;", ">")


def test_a_dot_lies_as_many_s_from_zero_as_its_effect_is(study):
    for claim in read_claims(study.verdicts, study.contrasts).measured:
        zero, s = claim.axis.at(0), claim.axis.at(claim.row["sesoi"]) - claim.axis.at(0)
        assert claim.axis.at(-claim.row["sesoi"]) == pytest.approx(zero - s)
        for contrast in claim.contrasts:
            for name in ("effect", "ci_lo", "ci_hi"):
                expected = zero + s * contrast[name] / claim.row["sesoi"]
                assert claim.axis.at(contrast[name]) == pytest.approx(expected)
                assert 0 < expected < 100


def test_the_tally_counts_every_measured_verdict_once(study):
    claims = read_claims(study.verdicts, study.contrasts)
    assert sum(claims.tally.values()) == len(claims.measured) == sum(1 for v in study.found if v.family)
    assert (claims.seeds, claims.problems) == ((8, 8), report_sample.PROBLEMS)
    assert claims.commands == ["snakemake verdicts"]


def test_images_are_the_files_at_their_size_on_paper_and_links_lead_to_them(study, page):
    document = Document(page)
    drawn = [path for path in study.results["exp001"] + study.results["exp007"] if path.suffix == ".svg"]
    embedded = [unquote(image["src"].removeprefix("data:image/svg+xml,")) for image in document.images]
    assert sorted(embedded) == sorted(path.read_text() for path in drawn)
    for image in document.images:
        assert (int(image["width"]), int(image["height"])) == tuple(round(96 * inches) for inches in PANEL)
        assert image["loading"] == "lazy"
    assert document.images[0]["alt"].startswith("Spectra per level. Normalised eigenvalues")
    for link in document.links:
        assert link[1:] in document.ids if link[0] == "#" else (study.folder / link).is_file(), link


def test_figures_keep_the_order_of_the_page_and_recipes_follow_models(study):
    paths = study.results["exp001"][::-1]
    found = subjects(paths, PAGE, CAPTIONS, study.folder)
    assert [subject.name for subject in found] == list(MODELS)
    assert [figure.name for figure in found[0].figures] == ["spectra", "summary"]
    (course,) = subjects(study.results["exp007"], read_pages(PAGES)[6], CAPTIONS, study.folder)
    assert (course.name, course.is_recipe) == (report_sample.FAMILY, True)


def test_a_figure_without_an_svg_is_linked_and_not_shown(study, tmp_path):
    png = tmp_path / "hessian/m/trained/figures/spectra.png"
    report_sample.draw([png], study.rng.standard_normal(3))
    inputs = study.inputs() | {"results": {"exp001": [png]}}
    write_report(tmp_path / "report.html", **inputs)
    document = Document((tmp_path / "report.html").read_text())
    assert document.images == []
    assert "hessian/m/trained/figures/spectra.png" in document.links


def test_an_experiment_without_results_says_so_and_nothing_else_fails(study, tmp_path):
    bare = ("calibrations", "recovered", "costs", "scorecard", "cards")
    inputs = study.inputs() | {"results": {}} | dict.fromkeys(bare, ())
    write_report(tmp_path / "report.html", **inputs)
    page = (tmp_path / "report.html").read_text()
    assert page.count("Nothing of this experiment is among the results.") > 3
    assert "No scorecard is among the results" in page


def test_a_name_cannot_become_markup_anywhere(tmp_path, seed):
    name = "<script>*x*_ `y`_"
    study = Study(tmp_path, seed, models=[name])
    write_report(tmp_path / "report.html", **study.inputs())
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script>") == 1
    assert f"for {name}, sorted".replace("<", "&lt;").replace(">", "&gt;") in page


def test_equal_inputs_give_equal_bytes_wherever_the_folder_is(tmp_path, seed):
    for folder in ("first", "second/deeper"):
        study = Study(tmp_path / folder, seed)
        write_report(tmp_path / folder / "report.html", **study.inputs())
    first, second = (tmp_path / folder / "report.html" for folder in ("first", "second/deeper"))
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path) not in first.read_text()


def test_a_failed_report_leaves_the_former_one_as_it_was(study, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("former")
    broken = tmp_path / "hessian/m/trained/figures/spectra.svg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"spectra\.svg: not an SVG with its size in points; draw"):
        write_report(target, **study.inputs() | {"results": {"exp001": [broken]}})
    assert target.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_a_table_that_is_missing_is_named(study, tmp_path):
    with pytest.raises(TableError, match=r"absent\.parquet"):
        write_report(tmp_path / "report.html", **study.inputs() | {"cards": [tmp_path / "absent.parquet"]})


def test_calibration_shows_the_worst_level_and_whether_it_is_allowed(study):
    found = read_calibrations([study.calibration], read_hypotheses(report_sample.HYPOTHESES))
    by_metric = {row.metric: row for row in found}
    assert (by_metric["spectrum_error"].error, by_metric["spectrum_error"].passed) == (2e-15, None)
    slope = by_metric["log_slope_error"]
    assert (slope.problems, slope.planted, slope.allowed, slope.passed) == ("inverse-n2", 1.07, 0.05, False)
    ratio = by_metric["log_ratio_error"]
    assert (ratio.error, ratio.reason, ratio.passed) == (None, "nothing planted", False)


def test_provenance_names_versions_settings_seeds_and_the_whole_configuration(study, page):
    for text in ("count: 5", "seed 0", "ab" * 32, *(f"- {model}" for model in MODELS)):
        assert text in page
    for package in ("torch", "numpy", "iredinterp"):
        assert f"<dt>{package}</dt>" in page


def test_every_figure_of_a_page_has_a_caption_and_every_caption_a_title():
    pages = read_pages(PAGES)
    for page in pages:
        for name in page.figures:
            wildcards = dict.fromkeys(("model", "other", "recipe"), "name-0")
            caption = read_caption(CAPTIONS / f"{page.analysis}_{name}.rst", wildcards)
            assert caption.first[-1] in ".:"
            assert caption.html.startswith("<p>")
    titled = {f"{page.analysis}_{name}" for page in pages for name in page.figures}
    analyses = tuple(f"{page.analysis}_" for page in pages)
    assert {path.stem for path in CAPTIONS.glob("*.rst") if path.stem.startswith(analyses)} == titled


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{{ snakemake.wildcards.seed }}", "seed"),
        ("a `broken link`_", "Unknown target name"),
        (".. raw:: html\n\n   <b>x</b>", "raw"),
        ("{{ open", "unexpected end"),
    ],
)
def test_a_caption_that_cannot_be_set_is_refused_by_name(tmp_path, text, complaint):
    path = tmp_path / "hessian_spectra.rst"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"hessian_spectra\.rst: not a caption.*{complaint}"):
        read_caption(path, {"model": "m"})


def test_a_figure_without_a_caption_is_refused_with_the_file_to_write(study, tmp_path):
    png = tmp_path / "hessian/m/figures/novel.png"
    report_sample.draw([png], study.rng.standard_normal(3))
    with pytest.raises(ConfigError, match=r"hessian_novel\.rst: a figure needs a caption"):
        subjects([png], PAGE, CAPTIONS, tmp_path)
    with pytest.raises(ConfigError, match=r"not a result of hessian"):
        subjects([Path("score/m/figures/spectra.png")], PAGE, CAPTIONS, tmp_path)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({}, "found dict; give a list of pages"),
        ([{"id": "a"}], "page 1: .*missing.*the keys are id, title"),
        ([{"no": 1}], "page 1: .*unexpected.*no"),
        (["text"], "page 1"),
        ("twice", "several pages have the id 'exp001'"),
        ("bad id", r"id: found 'EXP 1'; use small letters"),
        ("bad quantity", r"\(exp001\): numbers: .*meaning"),
    ],
)
def test_a_faulty_list_of_pages_is_refused(tmp_path, entries, complaint):
    good = yaml.safe_load(PAGES.read_text())[0]
    made = {
        "twice": [good, good],
        "bad id": [good | {"id": "EXP 1"}],
        "bad quantity": [good | {"numbers": [{"metric": "m", "at": "q_sample"}]}],
    }
    path = tmp_path / "pages.yaml"
    path.write_text(yaml.safe_dump(made.get(entries, entries) if isinstance(entries, str) else entries))
    with pytest.raises(ConfigError, match=rf"pages\.yaml: .*{complaint}"):
        read_pages(path)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("σ_tλ", "σ<sub>t</sub>λ"),
        ("∇²_yE", "∇²<sub>y</sub>E"),
        ("(tr P_N H)", "(tr P<sub>N</sub> H)"),
        ("‖Y‖_* < 1", "‖Y‖<sub>*</sub> &lt; 1"),
        ("q_sample of random_init", "q_sample of random_init"),
        (
            "a < b: `snakemake x_y <z>`, `σ_t`",
            "a &lt; b: <code>snakemake x_y &lt;z&gt;</code>, <code>σ_t</code>",
        ),
        ("a lone ` is a `", "a lone <code> is a </code>"),
        ("one ` only", "one ` only"),
    ],
)
def test_single_letters_behind_an_underscore_are_set_as_indices_and_backticks_as_code(text, html):
    assert str(prose(text)) == html


def test_numbers_have_three_digits_and_what_is_none_is_a_dash():
    assert [number(value) for value in (1234.5, -1.5e-7, 0.0)] == ["1.23e+03", "-1.5e-07", "0"]
    assert [number(value) for value in (None, float("nan"), float("-inf"))] == ["–", "–", "-∞"]
