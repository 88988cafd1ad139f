"""Examples: each row shows the vector that its latent was planted on, and the problem that it names."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.sae.collection import NO_STEP, SOURCES, Vectors
from iredinterp.analyses.sae.examples import examples_table
from iredinterp.analyses.sae.features import FeatureAnalyzer
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.errors import ConfigError
from iredinterp.tables import read_table, tensor_array, tensor_column, write_table

SHAPE = (2, 3)
IDS = [40, 7, 12, 33]


def analysed(codes, generator):
    """Vectors that are their own codes, and an analyzer of them."""
    count = len(codes)
    source = torch.randint(len(SOURCES), (count,), generator=generator)
    vectors = Vectors(
        values=codes,
        t=torch.randint(10, (count,), generator=generator),
        problem=torch.tensor(IDS)[torch.randint(len(IDS), (count,), generator=generator)],
        source=source,
        step=torch.where(source == SOURCES.index("inner"), torch.arange(count) % 5, NO_STEP),
    )
    identity, nothing = torch.eye(6, dtype=codes.dtype), torch.zeros(6, dtype=codes.dtype)
    autoencoder = SparseAutoencoder("abstopk", identity, nothing, identity, nothing, 6)
    return FeatureAnalyzer(autoencoder, vectors.values, vectors.t, vectors.problem, SHAPE), vectors


@pytest.fixture
def problems(generator):
    """In no order of their ids, with x of another shape than y*, in two chunks."""
    x, y_star = (
        torch.randn(4, *shape, generator=generator, dtype=torch.float64) for shape in ((2, *SHAPE), SHAPE)
    )
    columns = {"problem_id": pa.array(IDS, pa.int32()), "x": tensor_array(x), "y_star": tensor_array(y_star)}
    table = pa.table(columns)
    return pa.concat_tables([table.slice(0, 1), table.slice(1)])


def sparse(count, generator, share=0.4):
    """Signed codes without ties, most of them zero."""
    sizes = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return sizes * (torch.rand(count, 6, generator=generator) < share)


def test_planted_codes_give_the_strongest_and_the_typical_vectors(problems, generator):
    codes = torch.zeros(9, 6, dtype=torch.float64)
    codes[1:6, 2] = torch.tensor([3.0, -5.0, 1.0, 2.0, -4.0])
    codes[7, 4] = 0.5
    table = examples_table(*analysed(codes, generator), problems, top=2, quantiles=(0.75, 0.0))
    found = table.select(["latent", "kind", "rank", "activation"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (2, "quantile", 0, 1),
        (2, "quantile", 0.75, -4),
        (2, "top", 1, -5),
        (2, "top", 2, -4),
        (4, "quantile", 0, 0.5),
        (4, "quantile", 0.75, 0.5),
        (4, "top", 1, 0.5),
    ]


def test_a_row_shows_the_vector_and_the_problem_that_it_names_after_a_round_trip(
    problems, generator, tmp_path
):
    codes = sparse(60, generator)
    analyzer, vectors = analysed(codes, generator)
    table = examples_table(analyzer, vectors, problems, top=70)
    # Everything that a latent is active on is among its top 70, and nothing else.
    top = table.filter(pc.equal(table["kind"], "top"))
    assert len(top) == int((codes != 0).sum())
    write_table(table, tmp_path / "examples.parquet", {})
    read = read_table(tmp_path / "examples.parquet")
    assert len(read) == len(table) == len(top) + 6 * 3
    shown = {name: tensor_column(read, name) for name in ("vector", "x", "y_star")}
    known = {name: tensor_column(problems, name) for name in ("x", "y_star")}
    for index, row in enumerate(read.select(list(read.column_names[:8])).to_pylist()):
        # No two codes are equal, so the activation tells the vector.
        (original,) = (codes[:, row["latent"]] == row["activation"]).nonzero().flatten().tolist()
        assert torch.equal(shown["vector"][index], codes[original].reshape(SHAPE))
        assert row["t"] == vectors.t[original]
        assert row["source"] == SOURCES[vectors.source[original]]
        assert row["inner_step"] == (original % 5 if row["source"] == "inner" else None)
        assert row["problem_id"] == vectors.problem[original]
        for name, values in known.items():
            assert torch.equal(shown[name][index], values[IDS.index(row["problem_id"])])
        larger = int((codes[:, row["latent"]].abs() > abs(row["activation"])).sum())
        active = int((codes[:, row["latent"]] != 0).sum())
        place = row["rank"] - 1 if row["kind"] == "top" else (1 - row["rank"]) * (active - 1)
        assert abs(larger - place) <= (0 if row["kind"] == "top" else 0.5)


def test_rows_are_sorted_and_the_most_used_latents_are_kept(problems, generator):
    codes = torch.ones(8, 6, dtype=torch.float64) + sparse(8, generator)
    for latent, uses in enumerate([3, 0, 8, 1, 5, 3]):
        codes[uses:, latent] = 0
    analyzer, vectors = analysed(codes, generator)
    for most, kept in {None: {0, 2, 3, 4, 5}, 9: {0, 2, 3, 4, 5}, 3: {0, 2, 4}, 1: {2}}.items():
        table = examples_table(analyzer, vectors, problems, most=most)
        assert set(table["latent"].to_pylist()) == kept
        order = list(zip(*(table[name].to_pylist() for name in ("latent", "kind", "rank")), strict=True))
        assert order == sorted(set(order))


def test_vectors_keep_their_precision_and_no_latent_in_use_gives_no_row(problems, generator):
    codes = sparse(20, generator).float()
    table = examples_table(*analysed(codes, generator), problems)
    assert tensor_column(table, "vector").dtype == torch.float32
    silent = examples_table(*analysed(torch.zeros_like(codes), generator), problems)
    assert len(silent) == 0
    assert silent.schema == table.schema


def test_examples_that_cannot_be_shown_are_named(problems, generator):
    codes = sparse(20, generator, share=1)
    analyzer, vectors = analysed(codes, generator)
    with pytest.raises(ConfigError, match="the analyzer looked at other vectors; give those"):
        examples_table(analyzer, analysed(codes[:-1], generator)[1], problems)
    with pytest.raises(ConfigError, match=r"top and most count from 1; found top = 0, most = None"):
        examples_table(analyzer, vectors, problems, top=0)
    with pytest.raises(ConfigError, match=r"found top = 4, most = -1"):
        examples_table(analyzer, vectors, problems, most=-1)
    with pytest.raises(ConfigError, match=r"quantiles lie in 0 … 1; found \[50\]"):
        examples_table(analyzer, vectors, problems, quantiles=[50])
    first = int(vectors.problem[0])
    others = problems.filter(pc.not_equal(problems["problem_id"], first))
    with pytest.raises(ConfigError, match=f"problem {first} is not among the problems; give those the"):
        examples_table(analyzer, vectors, others, top=20)
