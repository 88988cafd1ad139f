"""How many jobs of each rule a target needs, and what depends on what, for one model of `project.SMALL`."""

# One block each: of the model and its oracle, of all seven conditions, and of the planted network.
EXP001 = {
    "problems": 1,
    "competence": 1,
    "points": 2,
    "gradients": 1,
    "hessian_block": 2,
    "gather": 6,
    "hessian_figures": 1,
}
EXP002 = {
    "problems": 1,
    "competence": 1,
    "landscape_block": 7,
    "gather": 5,
    "landscape_figures": 1,
    "landscape_connectivity": 1,
    "landscape_connectivity_figure": 1,
}
EXP003 = {"competence": 1, "sae_field": 1, "sae_train": 2, "sae_figures": 1}
EXP004 = {"problems": 1, "competence": 1, "grassmann_block": 7, "gather": 3, "grassmann_figures": 1}
EXP005 = {"problems": 1, "competence": 1, "points": 7, "tangent_block": 7, "gather": 1, "tangent_figures": 1}
EXP006 = {
    "problems": 1,
    "competence": 1,
    "points": 7,
    "score_block": 7,
    "score_pair": 1,
    "gather": 1,
    "score_figures": 1,
}
EXP007 = {
    "problems": 1,
    "competence": 1,
    "implicit_bias_block": 7,
    "gather": 1,
    "implicit_bias_figures": 1,
    "implicit_bias_course": 1,
    "implicit_bias_course_figures": 1,
}
EXP008 = {
    "problems": 1,
    "competence": 1,
    "points": 7,
    "ntk_block": 7,
    "gather": 1,
    "ntk_figures": 1,
    "ntk_course": 1,
    "ntk_course_figures": 1,
}
EXP009 = {
    "problems": 1,
    "competence": 1,
    "points": 7,
    "circuits_search": 7,
    "circuits_figures": 1,
    "circuits_planted": 1,
    "leaderboard": 1,
}
EXP010 = {"problems": 1, "competence": 1, "annealing_block": 7, "gather": 1, "annealing_figures": 1}
DIFFERENCE = {
    "problems": 1,
    "competence": 2,
    "difference_pair": 2,
    "difference_figures": 1,
    "difference_course": 1,
    "difference_course_figures": 1,
}
PLANTED = {
    "planted_network": 1,
    "planted_dictionary": 1,
    "expected": 1,
    "points": 1,
    "hessian_block": 1,
    "tangent_block": 1,
    "grassmann_block": 1,
    "annealing_block": 1,
    "circuits_planted": 1,
    "gather": 5,
    "calibration": 1,
}
# What the default target needs, by what it depends on.
HESSIAN = {"hessian_block": 3, "gather": 8, "hessian_figures": 1, "calibration": 1}
TANGENT = {"tangent_block": 8, "gather": 2, "tangent_figures": 1, "calibration": 1}
GRASSMANN = {"grassmann_block": 8, "gather": 4, "grassmann_figures": 1, "calibration": 1}
LANDSCAPE = {"landscape_block": 7, "gather": 5, "landscape_figures": 1}
CONNECTIVITY = {"landscape_connectivity": 1, "landscape_connectivity_figure": 1}
SCORE = {"score_block": 7, "score_pair": 1, "gather": 1, "score_figures": 1}
ANNEALING = {"annealing_block": 8, "gather": 2, "annealing_figures": 1, "expected": 1, "calibration": 1}
INFERENCE = {"implicit_bias_block": 7, "gather": 1, "implicit_bias_figures": 1}
COURSE = {"implicit_bias_course": 1, "implicit_bias_course_figures": 1}
KERNELS = {"ntk_block": 7, "gather": 1, "ntk_figures": 1}
KERNEL_COURSE = {"ntk_course": 1, "ntk_course_figures": 1}
CIRCUITS = {"circuits_search": 7, "circuits_figures": 1}
LEADERBOARD = {"circuits_planted": 1, "leaderboard": 1, "calibration": 1}
SAE = {"sae_field": 1, "sae_train": 2, "sae_figures": 1}
POINTS = {"points": 8, "gradients": 1}
AT_POINTS = POINTS | HESSIAN | TANGENT | SCORE | KERNELS | CIRCUITS | {"gather": 12}
IN_THE_SAMPLER = LANDSCAPE | ANNEALING | SAE | INFERENCE | {"gather": 8}
COURSES = COURSE | KERNEL_COURSE
ANALYSES = AT_POINTS | GRASSMANN | IN_THE_SAMPLER | CONNECTIVITY | COURSES | LEADERBOARD | {"gather": 24}
SAE_FIGURES = ("frontier", "atoms", "examples", "density", "stability", "concepts", "fidelity", "effects")
FIGURES = dict.fromkeys(
    [
        f"{name}_figures"
        for name in (
            "hessian",
            "landscape",
            "sae",
            "grassmann",
            "tangent",
            "score",
            "annealing",
            "implicit_bias",
            "ntk",
            "circuits",
        )
    ]
    + ["landscape_connectivity_figure"],
    1,
)
OF_PROBLEMS = {"problems": 1, "planted_network": 1, "planted_dictionary": 1, "expected": 1}
EVERYTHING = OF_PROBLEMS | {"competence": 1} | ANALYSES
