from math import ceil
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from iredinterp.config import check_config
from iredinterp.errors import IredInterpError
from iredinterp.provenance import code_digest

validate(config, schema="../schemas/config.schema.yaml")
try:
    check_config(config)
except IredInterpError as error:
    raise WorkflowError(f"configuration: {error}") from None

ROOT = Path(workflow.basedir).parent
MODELS = config["select"] or sorted(config["models"])
BLOCKS = range(ceil(config["sampling"]["count"] / config["sampling"]["block"]))
FORMATS = ("pdf", "svg", "png")


wildcard_constraints:
    model="|".join(map(re.escape, sorted(config["models"]))),
    problems="|".join(map(re.escape, sorted(config["problems"]))),
    recipe="|".join(map(re.escape, sorted(config["training"]))) or "none",
    block=r"\d+",


def code(script):
    """Digest of the code a script depends on, as a parameter: an edit reruns what uses it, and only that."""
    return {"code": code_digest(ROOT / "scripts" / f"{script}.py", ROOT / "src")}
