# EXP-001: input-Hessian eigenspectra over the annealing levels.
rule hessian_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        spectra="<results>/hessian/{model}/{condition}/blocks/{block}/spectra.parquet",
        metrics="<results>/hessian/{model}/{condition}/blocks/{block}/metrics.parquet",
        tracking="<results>/hessian/{model}/{condition}/blocks/{block}/tracking.parquet",
    log:
        "<logs>/hessian_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/hessian_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("hessian_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        hessian=config["hessian"],
    message:
        "Input-Hessian spectra of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/hessian_block.py"


rule hessian_figures:
    input:
        spectra="<results>/hessian/{model}/{condition}/spectra.parquet",
        metrics="<results>/hessian/{model}/{condition}/metrics.parquet",
        tracking="<results>/hessian/{model}/{condition}/tracking.parquet",
        competence=rules.competence.output.table,
        oracle=collect(
            "<results>/hessian/{model}/{reference}/{table}.parquet",
            reference=entry("{model}/reference", of=CHECKPOINTS),
            table=["spectra", "metrics", "tracking"],
            allow_missing=True,
        ),
    output:
        report(
            "<results>/hessian/{model}/{condition}/figures/spectra.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_spectra.rst",
            labels={"figure": "1 spectra per level"},
        ),
        report(
            "<results>/hessian/{model}/{condition}/figures/summary.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_summary.rst",
            labels={"figure": "2 condition and effective rank"},
        ),
        report(
            "<results>/hessian/{model}/{condition}/figures/alignment.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_alignment.rst",
            labels={"figure": "3 alignment against chance"},
        ),
        report(
            "<results>/hessian/{model}/{condition}/figures/tracking.svg",
            category="EXP-001 input-Hessian spectra",
            subcategory="{model}",
            caption="../report/hessian_tracking.rst",
            labels={"figure": "4 overlap between levels"},
        ),
        collect(
            "<results>/hessian/{model}/{condition}/figures/{figure}.{format}",
            figure=["spectra", "summary", "alignment", "tracking"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/hessian_figures/{model}/{condition}.log",
    benchmark:
        "<benchmarks>/hessian_figures/{model}/{condition}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("hessian_figures"),
    message:
        "EXP-001 figures of {wildcards.model} ({wildcards.condition})"
    script:
        "../../scripts/hessian_figures.py"


rule hessian:
    input:
        collect(rules.hessian_figures.output[0], model=MODELS, condition="trained"),
        collect(
            rules.gradients.output,
            model=MODELS,
            condition="trained",
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
