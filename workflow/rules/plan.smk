# What a study takes, before and after parts of it have run.
rule plan:
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../envs/iredinterp.yaml"
    params:
        **code("plan"),
        study=["all", "verdicts", "scorecard"],
    message:
        "Count the jobs and hours of the whole study"
    script:
        "../../scripts/plan.py"
