"""EXP-008: train a recipe anew and follow the kernel of its gradient field."""

from iredinterp.analyses.ntk.course import course_table
from iredinterp.energy import resolve_device
from iredinterp.ired.training import Recipe
from iredinterp.provenance import provenance
from iredinterp.runlog import progress, run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    params, name = snakemake.params, snakemake.wildcards.recipe
    with run_log(snakemake.log[0], snakemake.threads):
        settings, course = dict(params.recipe) | {"problems": params.spec}, dict(params.course)
        seeds, _ = settings.pop("seeds"), settings.pop("precision")
        seeds, recipe = course.pop("seeds") or seeds, Recipe.from_dict(settings)
        device = resolve_device(params.device)
        table = course_table(recipe, name, seeds, device=device, progress=progress, **course)
        footer = provenance(recipe.to_dict() | course | {"seeds": seeds}, course["seed"], code=params.code)
        write_table(table, snakemake.output[0], footer)
