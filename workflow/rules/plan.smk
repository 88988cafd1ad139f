# What a study takes, before and after parts of it have run.
rule plan:
    log:
        "<logs>/plan.log",
    localrule: True
    params:
        **code("plan"),
        study=["all", "verdicts", "scorecard"],
    message:
        "Count the jobs and hours of the whole study"
    script:
        "../../scripts/plan.py"
