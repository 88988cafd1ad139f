# EXP-001: input-Hessian eigenspectra over the annealing levels.
rule hessian_block:
    input:
        checkpoint=lookup("models/{model}/checkpoint", within=config),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=lookup("models/{model}/problems", within=config),
        ),
        points=rules.points.output,
    output:
        spectra="<results>/hessian/{model}/blocks/{block}/spectra.parquet",
        metrics="<results>/hessian/{model}/blocks/{block}/metrics.parquet",
        tracking="<results>/hessian/{model}/blocks/{block}/tracking.parquet",
    log:
        "<logs>/hessian_block/{model}/{block}.log",
    benchmark:
        "<benchmarks>/hessian_block/{model}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        **code("hessian_block"),
        weights=lookup("models/{model}/weights", within=config),
        device=config["device"],
        hessian=config["hessian"],
    message:
        "Input-Hessian spectra of {wildcards.model}, block {wildcards.block}"
    script:
        "../../scripts/hessian_block.py"


rule hessian_gather:
    input:
        collect(
            "<results>/hessian/{model}/blocks/{block}/{table}.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
    output:
        "<results>/hessian/{model}/{table}.parquet",
    log:
        "<logs>/hessian_gather/{model}/{table}.log",
    wildcard_constraints:
        table="spectra|metrics|tracking",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        **code("gather"),
    message:
        "Gather the {wildcards.table} of {wildcards.model}"
    script:
        "../../scripts/gather.py"


rule hessian_figures:
    input:
        spectra="<results>/hessian/{model}/spectra.parquet",
        metrics="<results>/hessian/{model}/metrics.parquet",
        tracking="<results>/hessian/{model}/tracking.parquet",
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/hessian/{model}/figures/spectra.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_spectra.rst",
            labels={"figure": "1 spectra per level"},
        ),
        report(
            "<results>/hessian/{model}/figures/summary.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_summary.rst",
            labels={"figure": "2 condition and effective rank"},
        ),
        report(
            "<results>/hessian/{model}/figures/alignment.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_alignment.rst",
            labels={"figure": "3 alignment against chance"},
        ),
        report(
            "<results>/hessian/{model}/figures/tracking.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_tracking.rst",
            labels={"figure": "4 overlap between levels"},
        ),
        collect(
            "<results>/hessian/{model}/figures/{figure}.{format}",
            figure=["spectra", "summary", "alignment", "tracking"],
            format=["pdf", "png"],
            allow_missing=True,
        ),
    log:
        "<logs>/hessian_figures/{model}.log",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        **code("hessian_figures"),
    message:
        "EXP-001 figures of {wildcards.model}"
    script:
        "../../scripts/hessian_figures.py"


rule hessian:
    input:
        collect(rules.hessian_figures.output[0], model=MODELS),
        collect(
            rules.gradients.output,
            model=MODELS,
            block=BLOCKS,
        ),
    localrule: True
    message:
        "EXP-001 is in results/hessian"


rule exp001:
    input:
        rules.hessian.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-001 is in results/hessian"
