"""What the README and the guides show as Python runs as it stands, and says what they say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


def run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    for block in blocks(path):
        exec(compile(block, path, "exec"), names)
    return names


def test_the_readme_shows_what_runs(monkeypatch):
    names = run("README.md", monkeypatch)
    assert names["eigenvalues"].shape == (100, 25)
    assert (names["eigenvalues"].diff(dim=1) >= 0).all()


def test_an_energy_that_is_not_ireds_goes_through_every_analysis_that_applies(monkeypatch):
    names = run("docs/your-own-energy.md", monkeypatch)
    tables = {name: names[name] for name in ("tangent", "score", "bias", "annealing", "best")}
    tables |= {f"landscape {name}": table for name, table in names["landscape"].items() if name == "metrics"}
    for name, table in tables.items():
        frame = table.to_pandas()
        assert frame["value"].notna().any(), name
        assert frame.loc[frame["value"].isna(), "reason"].notna().all(), name
    found = names["tangent"].to_pandas()
    ratio = found[(found["metric"] == "curvature_ratio") & (found["component"] == "")]["value"]
    assert ratio.notna().all()


def test_other_readers_see_what_was_written(monkeypatch):
    names = run("docs/interop.md", monkeypatch)
    kappa = names["kappa"]
    assert names["medians"] == [
        ("condition_number", pytest.approx(float(kappa[~kappa.isnan()].quantile(0.5))))
    ]
    assert names["undefined"] == [(5, "left out, as an example")]
    assert names["checkpoint"] == names["provenance"]["checkpoint"] == names["energy"].checkpoint.sha256
    assert names["defined"].height == len(names["frame"]) - 1 == 7
    y_star = names["problems"].y_star.unflatten(1, (5, 5)).numpy()
    assert (names["matrices"] == y_star).all()
    assert (names["answers"] == y_star).all()
    assert all(
        value.equal(names["autoencoder"].parameters[name])
        for name, value in names["read_back"].parameters.items()
    )
    assert names["graph"].number_of_nodes() == int(names["circuit"].sum()) + 3
    assert names["strongest"][2] > 0


@pytest.mark.parametrize("path", ["README.md", "docs/your-own-energy.md", "docs/interop.md"])
def test_guides_have_code(path):
    assert blocks(path)
