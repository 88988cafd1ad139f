# The page that shows everything, and where its verdicts come from.
JUDGEMENT = {
    "selected": {
        "verdicts": "<results>/preview/verdicts.parquet",
        "contrasts": "<results>/preview/contrasts.parquet",
        "scorecard": [],
    },
    "all": {
        "verdicts": rules.verdicts.output.verdicts,
        "contrasts": rules.verdicts.output.contrasts,
        "scorecard": [rules.scorecard.output.table],
    },
}[config["report"]["verdicts"]]

DIFFERENCES = [
    collect(
        rules.difference_figures.output,
        zip,
        model=[model for model, _ in config["difference"]["pairs"]],
        other=[other for _, other in config["difference"]["pairs"]],
    ),
    collect(
        rules.difference_course_figures.output,
        recipe=config["difference"]["course"]["recipes"],
    ),
]


# Beside the verdicts it needs only what `all` makes.
rule report:
    input:
        exp001=[
            collect(rules.hessian_figures.output, model=MODELS, condition="trained"),
            SHOWN_METRICS["hessian"],
        ],
        exp002=[
            collect(rules.landscape_figures.output, model=MODELS),
            collect(
                rules.landscape_connectivity_figure.output,
                model=[model for model in MODELS if CHECKPOINTS[model]["partner"]],
            ),
            SHOWN_METRICS["landscape"],
        ],
        exp003=[
            collect(rules.sae_figures.output, model=MODELS),
            SHOWN_METRICS["sae"],
        ],
        exp004=[
            collect(rules.grassmann_figures.output, model=MODELS),
            SHOWN_METRICS["grassmann"],
        ],
        exp005=[
            collect(rules.tangent_figures.output, model=MODELS),
            SHOWN_METRICS["tangent"],
        ],
        exp006=[
            collect(rules.score_figures.output, model=MODELS),
            SHOWN_METRICS["score"],
        ],
        exp007=[
            collect(rules.implicit_bias_figures.output, model=MODELS),
            collect(
                rules.implicit_bias_course_figures.output,
                recipe=config["implicit_bias"]["course"]["recipes"],
            ),
            SHOWN_METRICS["implicit_bias"],
        ],
        exp008=[
            collect(rules.ntk_figures.output, model=MODELS),
            collect(
                rules.ntk_course_figures.output,
                recipe=config["ntk"]["course"]["recipes"],
            ),
            SHOWN_METRICS["ntk"],
        ],
        exp009=[
            collect(rules.circuits_figures.output, model=MODELS),
            SHOWN_METRICS["circuits"],
        ],
        exp010=[
            collect(rules.annealing_figures.output, model=MODELS),
            SHOWN_METRICS["annealing"],
        ],
        difference=DIFFERENCES if config["report"]["differences"] else [],
        verdicts=JUDGEMENT["verdicts"],
        contrasts=JUDGEMENT["contrasts"],
        scorecard=JUDGEMENT["scorecard"],
        hypotheses=config["hypotheses"],
        cards=collect(rules.competence.output.table, model=MODELS),
        calibrations=collect(rules.calibration.output, problems=PROBLEMS),
        recovered=collect(rules.circuits_planted.output.recovered, problems=PROBLEMS),
        costs=collect(rules.circuits_planted.output.costs, problems=PROBLEMS),
        pages=ROOT / "workflow/report/pages.yaml",
        captions=sorted((ROOT / "workflow/report").glob("*.rst")),
    output:
        "<results>/report.html",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **code("report"),
        config=config,
    message:
        "Write the report"
    script:
        "../../scripts/report.py"
