"""Examples of what each latent is active on: the vectors, with the problems that they come from."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.sae.collection import NO_STEP, SOURCES, Vectors
from iredinterp.analyses.sae.concepts import COLUMNS
from iredinterp.analyses.sae.features import FeatureAnalyzer, quantile_examples, top_examples
from iredinterp.errors import ConfigError
from iredinterp.tables import tensor_array


def examples_table(
    analyzer: FeatureAnalyzer,
    vectors: Vectors,
    problems: pa.Table,
    top: int = 4,
    quantiles: Sequence[float] = (0.25, 0.5, 0.75),
    most: int | None = None,
) -> pa.Table:
    """The strongest and the typical vectors of each latent in use, beside x and y* of their problems.

    The strongest alone mislead: what a latent is active on most of the time may look different.

    Args:
        analyzer: of the latents, on `vectors`.
        vectors: with the labels of each.
        problems: those the vectors come from.
        top: strongest vectors per latent; fewer where it is active on fewer.
        quantiles: of |activation| where it is not zero; those of a latent with few vectors may coincide.
        most: only so many latents, those active on most vectors; all in use if not given.

    Returns:
        One row per latent and example, sorted by the first three columns: `latent`, `kind` (top, quantile),
        `rank` (1 for the strongest, …; the quantile otherwise), `problem_id`, `t`, `source`, `inner_step`
        (null where the source has none), `activation` (signed), and the tensors `vector` (n, p), `x` and
        `y_star` as in `problems`.

    Raises:
        ConfigError: an analyzer of other vectors, a problem that is not in the table, a quantile outside
            0 … 1, or top or most below 1.
    """
    if min(top, top if most is None else most) < 1:
        raise ConfigError(f"top and most count from 1; found top = {top}, most = {most}")
    if not torch.equal(analyzer.problem, vectors.problem) or not torch.equal(analyzer.t, vectors.t):
        raise ConfigError("the analyzer looked at other vectors; give those that it was made with")
    # Rows come out sorted: latents ascend, quantiles stand before the top, as in the alphabet.
    latents = _most_used(analyzer, most)
    quantiles = sorted(quantiles)
    found = torch.cat(
        [
            torch.cat([quantile_examples(codes, quantiles), top_examples(codes, top)], 1)
            for codes in (analyzer.codes[:, part] for part in latents.split(COLUMNS))
        ]
    )
    which, place = (found >= 0).nonzero(as_tuple=True)
    row, latent = found[which, place], latents[which]
    rank = torch.tensor([*quantiles, *range(1, top + 1)], dtype=torch.float64)[place]
    step = vectors.step[row].numpy()
    columns = {
        "latent": pa.array(latent.numpy()).cast(pa.int32()),
        "kind": pc.if_else(pa.array((place < len(quantiles)).numpy()), "quantile", "top"),
        "rank": pa.array(rank.numpy()),
        "problem_id": pa.array(vectors.problem[row].numpy()).cast(pa.int32()),
        "t": pa.array(vectors.t[row].numpy()).cast(pa.int32()),
        "source": pa.array(SOURCES).take(pa.array(vectors.source[row].numpy())),
        "inner_step": pa.array(step, mask=step == NO_STEP).cast(pa.int32()),
        "activation": pa.array(analyzer.codes[row, latent].double().numpy()),
        "vector": tensor_array(vectors.values[row].unflatten(1, analyzer.shape)),
    }
    return _with_problems(pa.table(columns), problems)


def _most_used(analyzer: FeatureAnalyzer, most: int | None) -> Tensor:
    """Latents in use, ascending; of equally used ones the lower come first."""
    uses = (analyzer.codes != 0).sum(0)
    order = uses.argsort(descending=True, stable=True)[: int(analyzer.alive.sum())]
    return order[:most].sort().values


def _with_problems(table: pa.Table, problems: pa.Table) -> pa.Table:
    """Tensors x and y* beside each row."""
    position = pc.index_in(table["problem_id"], problems["problem_id"].combine_chunks())
    if position.null_count:
        lacking = table["problem_id"].filter(pc.is_null(position))[0]
        raise ConfigError(f"problem {lacking} is not among the problems; give those the vectors come from")
    taken = problems.select(["x", "y_star"]).take(position)
    return table.append_column("x", taken["x"]).append_column("y_star", taken["y_star"])
