"""EXP-009: figures of one model, and its circuit as a graph."""

from iredinterp.analyses.circuits import frames
from iredinterp.analyses.circuits.drawing import figures
from iredinterp.analyses.circuits.export import circuit_graph, write_graphml
from iredinterp.analyses.circuits.nodes import input_groups
from iredinterp.energy import load_energy
from iredinterp.figures import save_figure
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        method, level, metrics = params.method, params.level, read_table(inputs.trained)
        nodes, model = read_table(inputs.nodes), load_energy(inputs.checkpoint, params.weights).model
        scores = frames.scores_at(nodes, method, level)
        circuit = frames.chosen_circuit(read_table(inputs.circuits), method, level)
        graph = circuit_graph(model, circuit, level, scores, input_groups(ProblemSpec.from_dict(params.spec)))
        write_graphml(graph, snakemake.output.graph)
        curves, overlaps = frames.curves_frame(gather(inputs.metrics), method), frames.overlaps_frame(metrics)
        drawn = (curves, frames.scores_frame(nodes, method), overlaps, frames.accuracy_frame(metrics), graph)
        title, note = snakemake.wildcards.model, sentence_of(read_table(inputs.competence))
        for name, figure in figures(*drawn, title, note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/figures/{name}." in path))
