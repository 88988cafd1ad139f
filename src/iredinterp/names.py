"""Names that tables have in common, for those who fill them and, without torch, for those who draw them."""

import pyarrow as pa

# What every table says of the model a row belongs to; null where it does not apply.
MODEL_KEYS = {
    "model": pa.string(),
    "family": pa.string(),
    "condition": pa.string(),
    "task": pa.string(),
    "n": pa.int32(),
    "rank": pa.int32(),
    "kappa": pa.float64(),
    "seed": pa.int64(),
    "step": pa.int64(),
    "weights": pa.string(),
}
# Subspaces of matrices that an answer singles out.
BASES = ("column", "row", "core", "tangent", "outer", "symmetric")
