"""Train all seeds of a recipe together; a run that was stopped goes on where it was."""

from pathlib import Path

from iredinterp.energy import resolve_device
from iredinterp.ired.training import Recipe, history_table, run_recipe, save_networks
from iredinterp.provenance import provenance
from iredinterp.runlog import progress, run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    params = snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        settings = dict(params.recipe) | {"problems": params.spec}
        seeds, precision = settings.pop("seeds"), settings.pop("precision")
        recipe = Recipe.from_dict(settings)
        saved = Path(snakemake.output.history).with_suffix(".state.pt")
        state = run_recipe(recipe, seeds, saved, resolve_device(params.device), progress)
        save_networks(state, snakemake.wildcards.recipe, snakemake.output.checkpoints, precision)
        footer = provenance(recipe.to_dict() | {"seeds": seeds}, code=params.code)
        write_table(history_table(state), snakemake.output.history, footer)
        saved.unlink(missing_ok=True)
