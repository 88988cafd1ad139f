"""Train a recipe anew and tell when its networks get the properties of the optimum."""

from contextlib import suppress

from iredinterp.analyses.difference.course import course_table
from iredinterp.energy import resolve_device
from iredinterp.errors import TaskError
from iredinterp.ired.training import Recipe
from iredinterp.provenance import provenance
from iredinterp.runlog import progress, run_log
from iredinterp.tables import write_table
from iredinterp.truth.oracle import BayesOracle

if __name__ == "__main__":
    params, name = snakemake.params, snakemake.wildcards.recipe
    with run_log(snakemake.log[0], snakemake.threads):
        settings, course = dict(params.recipe) | {"problems": params.spec}, dict(params.course)
        seeds, _ = settings.pop("seeds"), settings.pop("precision")
        seeds = course.pop("seeds") or seeds
        recipe, device, oracle = Recipe.from_dict(settings), resolve_device(params.device), None
        with suppress(TaskError):
            oracle = BayesOracle(recipe.problems, device=device)
        table = course_table(recipe, name, seeds, oracle, device=device, progress=progress, **course)
        footer = provenance(recipe.to_dict() | course | {"seeds": seeds}, course["seed"], code=params.code)
        write_table(table, snakemake.output[0], footer)
