"""`iredinterp sample`: a checkpoint's answers to fresh problems, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from iredinterp.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

    from iredinterp.ired.model import EnergyMLP
    from iredinterp.ired.tasks import ProblemSpec


@click.command()
@click.argument("path", metavar="CKPT", type=click.Path())
@click.option("--task", type=click.Choice(["addition", "inverse", "completion"]))
@click.option("--n", type=int, help="Matrix size.")
@click.option("--rank", type=int, help="Completion of exactly this rank.")
@click.option("--kappa", type=float, help="Inverse with exactly this condition number.")
@click.option("--ood/--no-ood", default=None, help="The official harder distribution.")
@click.option("--factors", type=click.Choice(["normal", "positive"]), help="Law of the factors, at a rank.")
@click.option("--observed", type=float, help="Share of entries observed, at a rank.")
@click.option("--noise", type=float, help="Standard deviation of observation noise, at a rank.")
@click.option("--count", type=int, default=5632, show_default=True, help="Problems, 22 × 256 officially.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of problems and first states.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="As torch names it, or auto.")
@click.option("--output", type=click.Path(), help="Write problems and answers to this .parquet file.")
def sample(path, count, seed, weights, device, output, **problem) -> None:
    """Answers to fresh problems, beside the baselines'.

    Runs the official sampler by the protocol of the competence card (float32, the value that the sampler
    returns), and compares its mean squared error with those of the card's baselines.

    Without --task the problems are those that the file says it was trained on; other options change them.
    """
    from iredinterp.energy import resolve_device
    from iredinterp.ired.checkpoint import load_checkpoint
    from iredinterp.ired.competence import BASELINE_NAMES, MODEL, competence

    checkpoint = load_checkpoint(path, weights)
    spec = chosen_problems(path, checkpoint.record, problem)
    found, needed = (checkpoint.model.dim_x, checkpoint.model.dim_y), (spec.dim_x, spec.dim_y)
    if found != needed:
        raise TaskError(
            f"{path}: takes (d_x, d) = {found}, but {spec.task} with n = {spec.n} has {needed}; give --task "
            "and --n that it was trained on"
        )
    answers = []

    def predict(x: Tensor) -> Tensor:
        answers.append(official_answers(checkpoint.model, x, seed, resolve_device(device)))
        return answers[0]

    result = competence(predict, spec, count, seed)
    labels = {MODEL: "this model", **BASELINE_NAMES}
    ranks = sorted(result.scores, key=lambda each: (each.entries != result.deciding, each.entries, each.mse))
    for score in ranks:
        error = f"MSE {score.mse:.4g} ± {score.stderr:.1g}"
        click.echo(f"{labels[score.predictor]:<29} {error}, {score.entries} entries")
    click.echo(f"\n{result.sentence()}")
    if output:
        write_answers(output, path, weights, spec, count, seed, answers[0])
        click.echo(f"{count:,} problems and answers are in {output}")


def chosen_problems(path: str, record: Mapping, options: Mapping) -> ProblemSpec:
    """The distribution that options ask for, by default that of the training record.

    Args:
        path: of the checkpoint.
        record: of its training.
        options: keys of `ProblemSpec`, None where not given.

    Raises:
        TaskError: there is neither, or they do not go together.
    """
    from iredinterp.ired.tasks import ProblemSpec

    given = {key: value for key, value in options.items() if value is not None}
    if "task" not in given:
        trained_on = record.get("recipe", {}).get("problems")
        if trained_on is None:
            raise TaskError(f"{path}: does not say what it was trained on; give --task and --n")
        given = {**trained_on, **given}
    return ProblemSpec.from_dict(given)


def official_answers(model: EnergyMLP, x: Tensor, seed: int, device) -> Tensor:
    """What the official sampler returns, as `iredinterp.cards.score_model` has it: (B, d_x) → (B, d)."""
    import torch

    from iredinterp.cards import BATCH
    from iredinterp.ired.sampler import sample

    generator = torch.Generator().manual_seed(seed)
    model = model.to(torch.float32, device)
    init = torch.randn(len(x), model.dim_y, generator=generator)
    parts = zip(x.to(device, torch.float32).split(BATCH), init.split(BATCH), strict=True)
    return torch.cat([sample(model, part, init=first).final for part, first in parts]).cpu()


def write_answers(
    output: str, path: str, weights: str, spec: ProblemSpec, count: int, seed: int, answers: Tensor
) -> None:
    """One row per problem: `problem`, `x`, `y_star`, `answer` and its mean squared error `mse`."""
    import pyarrow as pa

    from iredinterp.ired.tasks import make_problems
    from iredinterp.provenance import provenance
    from iredinterp.tables import tensor_array, write_table

    problems = make_problems(count=count, seed=seed, **spec.to_dict())
    answers = answers.to(problems.y_star)
    columns = {
        "problem": pa.array(range(count), pa.int32()),
        "x": tensor_array(problems.x),
        "y_star": tensor_array(problems.y_star),
        "answer": tensor_array(answers),
        "mse": pa.array((answers - problems.y_star).square().mean(1).numpy()),
    }
    parameters = {"spec": spec.to_dict(), "count": count, "weights": weights}
    write_table(pa.table(columns), output, provenance(parameters, seed, {"checkpoint": path}))
