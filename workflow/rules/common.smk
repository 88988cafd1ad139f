from math import ceil
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config, validate

from iredinterp.config import (
    CONDITIONS,
    check_config,
    expanded_models,
    selected_models,
    typed,
    undefined_condition,
)
from iredinterp.errors import IredInterpError
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.provenance import code_digests

update_config(config, typed(workflow.config_settings.config))
validate(config, schema="../schemas/config.schema.yaml")
try:
    check_config(config)
    HYPOTHESES = read_hypotheses(config["hypotheses"]).hypotheses
except IredInterpError as error:
    raise WorkflowError(f"configuration: {error}") from None

ROOT = Path(workflow.basedir).parent
CODE = code_digests(ROOT / "scripts", ROOT / "src", ".snakemake/code_digests.json")
CHECKPOINTS = expanded_models(config)
MODELS = selected_models(config)
OF_MODELS = {CHECKPOINTS[model]["replicate"]["family"] for model in MODELS}
FAMILIES = sorted(OF_MODELS & {*config["models"]})
FAMILY_PROBLEMS = [config["models"][family]["problems"] for family in FAMILIES]
PROBLEMS = sorted({CHECKPOINTS[model]["problems"] for model in MODELS})
STUDIES = [
    f"{model}/{condition}"
    for model, entry in sorted(CHECKPOINTS.items())
    if entry["replicate"]["family"] in FAMILIES
    for condition in entry["checkpoint"]
]
REPRESENTATIVE = {
    entry["replicate"]["family"]: entry["checkpoint"]["trained"]
    for entry in reversed(CHECKPOINTS.values())
}
UNDEFINED = [
    {"family": family, "condition": condition, "reason": reason}
    for family in FAMILIES
    for condition in CONDITIONS
    if (reason := undefined_condition(condition, family, config))
]
KINDS = {condition: config["points"]["null_kinds"] for condition in CONDITIONS} | {
    "trained": config["points"]["kinds"]
}
TRAINED_ON = {
    recipe: config["problems"][settings["problems"]]
    for recipe, settings in config["training"].items()
}
BLOCKS = range(ceil(config["sampling"]["count"] / config["sampling"]["block"]))
FORMATS = ["pdf", "png"] if config["figures"]["pdf"] else ["png"]
# Analyses that go block by block, each with the tables that its jobs write.
TABLES = {
    "hessian": ("spectra", "metrics", "tracking"),
    "landscape": ("metrics", "minima", "paths", "grid", "tracks"),
    "tangent": ("metrics",),
    "score": ("metrics",),
    "grassmann": ("metrics", "displacements", "paths"),
    "annealing": ("metrics",),
    "implicit_bias": ("metrics",),
    "ntk": ("metrics",),
}
# What is judged and tabulated of a study; of a sweep of autoencoders, the registered one is the first.
METRICS = {
    analysis: [
        f"<results>/{analysis}/{{study}}/blocks/{block}/metrics.parquet"
        for block in BLOCKS
    ]
    for analysis in TABLES
} | {
    "sae": [
        f"<results>/sae/{{study}}/gradient/width-{config['sae']['widths'][0]}/metrics.parquet"
    ],
    "circuits": ["<results>/circuits/{study}/metrics.parquet"],
}
JUDGED = sorted({*METRICS} & {hypothesis.analysis for hypothesis in HYPOTHESES})
STUDY_METRICS = {
    analysis: [
        path.format(study=study) for study in STUDIES for path in METRICS[analysis]
    ]
    for analysis in JUDGED
}
# The default target measures these two under few conditions only.
SHOWN = {"hessian": ("trained", "oracle"), "sae": ("trained",)}
SHOWN_METRICS = {
    analysis: [
        path.format(study=f"{model}/{condition}")
        for model in MODELS
        for condition in CHECKPOINTS[model]["conditions"]
        if condition in SHOWN.get(analysis, CONDITIONS)
        for path in paths
    ]
    for analysis, paths in METRICS.items()
}
PLANTED_METRICS = {
    analysis: f"<results>/{analysis}/planted-{{problems}}/trained/metrics.parquet"
    for analysis in JUDGED
} | {
    "sae": "<results>/planted/{problems}/dictionary.parquet",
    "circuits": "<results>/planted/{problems}/circuits.parquet",
}


wildcard_constraints:
    analysis="|".join(TABLES),
    table="|".join(sorted({table for tables in TABLES.values() for table in tables})),
    model="|".join(map(re.escape, sorted(CHECKPOINTS))),
    condition="|".join(CONDITIONS),
    problems="|".join(map(re.escape, sorted(config["problems"]))),
    recipe="|".join(map(re.escape, sorted(config["training"]))) or "none",
    block=r"\d+",
    seed=r"\d+",
    field="gradient|error|run",
    width=r"\d+",


def code(script):
    """Digest of the code a script depends on, as a parameter: an edit reruns what uses it, and only that."""
    return {"code": CODE[script]}


def entry(path, of):
    """What a nested mapping holds for a job's wildcards. `lookup` searches the whole mapping anew for each job."""

    def found(wildcards):
        value = of
        for key in path.split("/"):
            key = key.format(**wildcards)
            if key not in value:
                raise WorkflowError(
                    f"{path.format(**wildcards)}: {key!r} is not defined; defined are {', '.join(value)}"
                )
            value = value[key]
        return value

    return found


def growing(amount):
    """A resource that a job gets more of when it is tried again."""
    return lambda wildcards, attempt: amount * attempt
