# Registered hypotheses against their nulls.
rule verdicts:
    input:
        **STUDY_METRICS,
        hypotheses=config["hypotheses"],
        calibrations=collect(rules.calibration.output, problems=FAMILY_PROBLEMS),
    output:
        verdicts="<results>/verdicts.parquet",
        contrasts="<results>/contrasts.parquet",
        samples="<results>/samples.parquet",
        page=report(
            "<results>/verdicts.html",
            category="Verdicts",
            caption="../report/verdicts.rst",
        ),
    log:
        "<logs>/verdicts.log",
    benchmark:
        "<benchmarks>/verdicts.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(30),
    params:
        **code("verdicts"),
        analyses=list(STUDY_METRICS),
        families=FAMILIES,
        undefined=UNDEFINED,
        reproduce=f"snakemake verdicts --config 'select=[{','.join(FAMILIES)}]'",
    message:
        "Judge the registered hypotheses"
    script:
        "../../scripts/verdicts.py"


# The same of what the default target measures anyway: the selected seeds, without autoencoders of nulls.
use rule verdicts as preview with:
    input:
        **{analysis: SHOWN_METRICS[analysis] for analysis in JUDGED},
        hypotheses=config["hypotheses"],
        calibrations=collect(rules.calibration.output, problems=FAMILY_PROBLEMS),
    output:
        verdicts="<results>/preview/verdicts.parquet",
        contrasts="<results>/preview/contrasts.parquet",
        samples="<results>/preview/samples.parquet",
        page="<results>/preview/verdicts.html",
    log:
        "<logs>/preview.log",
    benchmark:
        "<benchmarks>/preview.jsonl"
    params:
        undefined=[
            {
                "family": family,
                "condition": condition,
                "reason": "left to `snakemake verdicts`",
            }
            for family in FAMILIES
            for condition in CONDITIONS
        ]
        + UNDEFINED,
        reproduce=f"snakemake preview --config 'select=[{','.join(MODELS)}]'",
    message:
        "Judge the registered hypotheses on the selected seeds"


# How far the methods can be trusted; newly drawn whenever it is made.
rule scorecard:
    input:
        hypotheses=config["hypotheses"],
        samples=rules.verdicts.output.samples,
        checkpoints=[REPRESENTATIVE[family] for family in FAMILIES],
    output:
        table="<results>/scorecard.parquet",
        page=report(
            "<results>/scorecard.html",
            category="Verdicts",
            caption="../report/scorecard.rst",
        ),
    log:
        "<logs>/scorecard.log",
    benchmark:
        "<benchmarks>/scorecard.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **code("scorecard"),
        families=FAMILIES,
        specs=[config["problems"][problems] for problems in FAMILY_PROBLEMS],
        engine=config["hessian"]["engine"],
        replicates=config["scorecard"]["replicates"],
        seed=config["scorecard"]["seed"],
    message:
        "Score the methods on planted truths and null replicates"
    script:
        "../../scripts/scorecard.py"
