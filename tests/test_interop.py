"""What the one writer writes opens in DuckDB, Polars and pandas: types, values, nulls, matrices, provenance."""

import json

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from iredinterp import planted_energy, read_provenance, read_table, spectra, write_table
from iredinterp.tables import Metric, tensor_array, tidy

B, N = 6, 3
PROVENANCE = {"seed": 7, "inputs": {"checkpoint": "abc"}, "parameters": {"levels": [9, 0]}}


@pytest.fixture
def values(generator):
    """A metric with an undefined entry, and one with two entries per item."""
    single = torch.randn(B, generator=generator, dtype=torch.float64)
    single[2] = torch.nan
    return {"kappa": single, "pair": torch.randn(B, 2, generator=generator, dtype=torch.float64)}


@pytest.fixture
def metrics(values, tmp_path):
    keys = {
        "condition": pa.array(["trained", "oracle"] * (B // 2)).dictionary_encode(),
        "problem_id": pa.array(range(B), pa.int32()),
    }
    table = tidy(
        pa.table(keys),
        [Metric("kappa", values["kappa"], reason="no curvature"), Metric("pair", values["pair"])],
    )
    write_table(table, tmp_path / "metrics.parquet", PROVENANCE)
    return tmp_path / "metrics.parquet"


@pytest.fixture
def matrices(generator):
    return torch.randn(B, N, N, generator=generator, dtype=torch.float64)


@pytest.fixture
def tensors(matrices, tmp_path):
    # Written in falling order: the writer sorts.
    table = {"problem_id": pa.array(range(B)[::-1], pa.int32()), "y": tensor_array(matrices.flip(0))}
    write_table(pa.table(table), tmp_path / "tensors.parquet", PROVENANCE)
    return tmp_path / "tensors.parquet"


@pytest.fixture
def eigenvalues(seed, generator):
    energy = planted_energy(dim_x=N, dim_y=N, seed=seed)
    x, y = torch.randn(2, B, N, generator=generator, dtype=torch.float64)
    return spectra(energy, x, y, 3).eigenvalues


@pytest.fixture
def lists(eigenvalues, tmp_path):
    """A spectrum per row as a list, of another length in each, as for eigenvalues above a threshold."""
    kept = [row[: 1 + i % N].tolist() for i, row in enumerate(eigenvalues)]
    table = {
        "problem_id": pa.array(range(B), pa.int32()),
        "eigenvalues": pa.array(kept, pa.list_(pa.float64())),
    }
    write_table(pa.table(table), tmp_path / "spectra.parquet", PROVENANCE)
    return tmp_path / "spectra.parquet"


class TestDuckDB:
    def test_columns_have_types(self, metrics, tensors, lists):
        def types(path):
            return dict(row[:2] for row in duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall())

        assert types(metrics) == {
            "condition": "VARCHAR",
            "problem_id": "INTEGER",
            "metric": "VARCHAR",
            "component": "VARCHAR",
            "index": "INTEGER",
            "value": "DOUBLE",
            "stderr": "DOUBLE",
            "reason": "VARCHAR",
        }
        assert types(tensors) == {"problem_id": "INTEGER", "y": "DOUBLE[]"}
        assert types(lists) == {"problem_id": "INTEGER", "eigenvalues": "DOUBLE[]"}

    def test_filters_and_sorts(self, metrics, values):
        query = f"SELECT value FROM '{metrics}' WHERE metric = 'kappa' AND condition = 'oracle' ORDER BY problem_id"
        found = [value for (value,) in duckdb.sql(query).fetchall()]
        assert found == values["kappa"][1::2].tolist()

    def test_undefined_is_null_and_has_its_reason(self, metrics):
        query = f"SELECT problem_id, metric, reason FROM '{metrics}' WHERE value IS NULL"
        assert duckdb.sql(query).fetchall() == [(2, "kappa", "no curvature")]
        ((nans,),) = duckdb.sql(f"SELECT count(*) FROM '{metrics}' WHERE isnan(value)").fetchall()
        assert nans == 0

    def test_matrices_reshape(self, tensors, matrices):
        rows = duckdb.sql(f"SELECT y FROM '{tensors}' ORDER BY problem_id").fetchall()
        assert (np.array(rows).reshape(B, N, N) == matrices.numpy()).all()
        ((corner,),) = duckdb.sql(f"SELECT y[{N}] FROM '{tensors}' WHERE problem_id = 1").fetchall()
        assert corner == matrices[1, 0, N - 1]

    def test_lists_unnest(self, lists, eigenvalues):
        query = f"SELECT max(value) FROM (SELECT unnest(eigenvalues) AS value FROM '{lists}' WHERE problem_id = 2)"
        assert duckdb.sql(query).fetchall() == [(eigenvalues[2].max(),)]

    def test_provenance_is_in_the_footer(self, metrics):
        query = f"SELECT decode(value) FROM parquet_kv_metadata('{metrics}') WHERE decode(key) = 'iredinterp'"
        ((footer,),) = duckdb.sql(query).fetchall()
        assert PROVENANCE.items() <= json.loads(footer).items()
        assert json.loads(footer) == read_provenance(metrics)


class TestPolars:
    def test_columns_have_types(self, metrics, lists):
        schema = pl.read_parquet_schema(metrics)
        assert schema["value"] == schema["stderr"] == pl.Float64
        assert schema["problem_id"] == schema["index"] == pl.Int32
        assert schema["condition"] == schema["metric"] == schema["reason"] == pl.String
        assert pl.read_parquet_schema(lists)["eigenvalues"] == pl.List(pl.Float64)

    def test_filters_lazily(self, metrics, values):
        asked = (pl.col("metric") == "pair") & (pl.col("index") == 1)
        found = pl.scan_parquet(metrics).filter(asked).sort("problem_id").collect()
        assert found["value"].to_list() == values["pair"][:, 1].tolist()

    def test_undefined_is_null_and_has_its_reason(self, metrics):
        frame = pl.read_parquet(metrics)
        assert frame.filter(pl.col("value").is_null())["reason"].to_list() == ["no curvature"]
        assert frame["value"].is_nan().sum() == 0
        assert frame.filter(pl.col("value").is_not_null())["reason"].null_count() == len(frame) - 1

    def test_matrices_reshape(self, tensors, matrices):
        frame = pl.read_parquet(tensors)
        assert frame["problem_id"].is_sorted()
        assert (frame["y"].to_numpy().reshape(B, N, N) == matrices.numpy()).all()

    def test_lists_aggregate(self, lists, eigenvalues):
        found = pl.read_parquet(lists).select(pl.col("eigenvalues").list.min())
        assert found.to_series().to_list() == eigenvalues[:, 0].tolist()

    def test_provenance_is_in_the_footer(self, tensors):
        footer = json.loads(pl.read_parquet_metadata(tensors)["iredinterp"])
        assert PROVENANCE.items() <= footer.items()


class TestPandas:
    def test_columns_have_types(self, metrics):
        types = pd.read_parquet(metrics).dtypes
        assert types["value"] == types["stderr"] == np.float64
        assert types["problem_id"] == types["index"] == np.int32
        assert pd.api.types.is_string_dtype(types["metric"])

    def test_filters_and_keeps_reasons(self, metrics, values):
        found = (
            pd.read_parquet(metrics, filters=[("metric", "=", "kappa")]).set_index("problem_id").sort_index()
        )
        np.testing.assert_array_equal(found["value"], values["kappa"])
        assert found.index[found["reason"].notna()].tolist() == [2]

    def test_matrices_reshape(self, tensors, matrices):
        frame = pd.read_parquet(tensors)
        assert frame["problem_id"].is_monotonic_increasing
        assert (np.stack(frame["y"]).reshape(B, N, N) == matrices.numpy()).all()

    def test_lists_explode(self, lists, eigenvalues):
        found = pd.read_parquet(lists).explode("eigenvalues").groupby("problem_id")["eigenvalues"].min()
        assert found.tolist() == eigenvalues[:, 0].tolist()


def test_our_own_reader_keeps_the_shape(tensors):
    assert read_table(tensors)["y"].type.shape == [N, N]


def test_rows_lie_sorted_by_their_keys(metrics):
    frame = pl.read_parquet(metrics)
    keys = ["condition", "problem_id", "metric", "component", "index"]
    assert frame.equals(frame.sort(keys))
