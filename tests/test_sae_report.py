"""What is said of one encoder, against sums by hand, planted latents and closed forms."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from iredinterp.analyses.sae import report
from iredinterp.analyses.sae.concepts import half_of_problems, probe
from iredinterp.analyses.sae.dictionaries import Dictionary, fit_dictionary
from iredinterp.analyses.sae.features import FeatureAnalyzer
from iredinterp.analyses.sae.fidelity import PLACES
from iredinterp.analyses.sae.labels import Labels
from iredinterp.analyses.sae.model import SparseAutoencoder, Standardisation
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.points import normal_draws
from iredinterp.tables import tensor_array
from iredinterp.truth.planted import planted

D, WIDTH, LEVELS = 9, 20, 10
SHAPE = (3, 3)
PROBLEMS, EACH = 24, 10


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def autoencoder(generator, activation="topk", width=WIDTH, b_enc=0.0):
    """Untrained, per level, with b_dec and μ_t that are not zero."""
    scale = torch.rand(LEVELS, generator=generator, dtype=torch.float64) + 0.5
    standardisation = Standardisation(tuple(range(LEVELS)), normal(LEVELS, D, generator=generator), scale)
    k = None if activation == "relu_l1" else 4
    b_dec = 0.3 * normal(D, generator=generator)
    random = SparseAutoencoder.random(
        D, width, generator, activation, k, b_dec, standardisation, torch.float64
    )
    return replace(random, b_enc=random.b_enc + b_enc)


def identity(**changed):
    """Writes every vector as it is, entry by entry."""
    eye, zeros = torch.eye(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    return replace(SparseAutoencoder("abstopk", eye, zeros, eye, zeros, k=D), **changed)


@pytest.fixture
def field(generator):
    """Vectors, levels and problems: one vector per problem and level."""
    index = torch.arange(PROBLEMS * EACH)
    return normal(len(index), D, generator=generator), index % LEVELS, index // EACH


@pytest.fixture
def labels(generator, seed):
    """Two concepts of problems, of which either half has as many, and one of vectors."""
    problem = torch.arange(PROBLEMS)
    half = half_of_problems(problem, torch.Generator().manual_seed(seed))
    concepts = {name: torch.zeros(PROBLEMS, dtype=torch.bool) for name in ("common", "rarer")}
    for part in (half, ~half):
        for label, count in zip(concepts.values(), (6, 4), strict=True):
            members = problem[part]
            label[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    size = torch.rand(PROBLEMS * EACH, generator=generator, dtype=torch.float64)
    return Labels(concepts, {"size": size}, normal(PROBLEMS, *SHAPE, generator=generator))


def component(metrics, name):
    """Values of a metric of one row, by component."""
    return {metric.component: float(metric.values) for metric in metrics if metric.name == name}


# Quality


def unexplained(x, written):
    return np.square(x - written).sum() / np.square(x - x.mean(0)).sum()


def refit_by_hand(sae, x, codes):
    """Each row by least squares on the atoms that it uses, b_dec given."""
    atoms, bias = sae.W_dec.numpy(), sae.b_dec.numpy()
    rows = []
    for row, code in zip(x, codes, strict=True):
        used = atoms[code != 0]
        rows.append(bias + np.linalg.lstsq(used.T, row - bias)[0] @ used)
    return np.stack(rows)


def test_quality_of_an_autoencoder_is_that_of_sums_by_hand(generator, field):
    x, t, _ = field
    sae = autoencoder(generator)
    scale = sae.standardisation
    scaled = ((x - scale.mean[t]) / scale.scale[t, None]).numpy()
    entries = np.maximum((scaled - sae.b_dec.numpy()) @ sae.W_enc.numpy().T, 0)
    codes = np.where(entries >= np.sort(entries, 1)[:, [-4]], entries, 0)
    found = report.quality(sae, x, t)
    assert found == pytest.approx(
        {
            "FVU": unexplained(scaled, codes @ sae.W_dec.numpy() + sae.b_dec.numpy()),
            "FVU_refitted": unexplained(scaled, refit_by_hand(sae, scaled, codes)),
            "L0": (codes > 0).sum(1).mean(),
            "alive": (codes > 0).any(0).mean(),
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("activation", ["relu_l1", "topk", "batchtopk", "jumprelu", "abstopk"])
def test_a_refit_never_explains_less(activation, generator, field):
    x, t, _ = field
    found = report.quality(autoencoder(generator, activation, width=6), x, t)
    assert found["FVU_refitted"] < found["FVU"]


def test_a_dictionary_is_refitted_already(generator, field):
    x, t, _ = field
    dictionary = fit_dictionary("random", x, t, WIDTH, 3, generator)
    found = report.quality(dictionary, x, t)
    means = torch.stack([x[t == level].mean(0) for level in range(LEVELS)])[t]
    spread = torch.stack([(x - means)[t == level].square().mean().sqrt() for level in range(LEVELS)])
    scaled = ((x - means) / spread[t, None]).numpy()
    codes = dictionary.encode(x, t).numpy()
    assert found["FVU"] == pytest.approx(unexplained(scaled, codes @ dictionary.W_dec.numpy()), rel=1e-9)
    assert found["FVU_refitted"] == pytest.approx(found["FVU"], rel=1e-9)
    assert found["L0"] == pytest.approx(3)


def test_what_the_decoder_bias_writes_is_no_latent(generator, field):
    x, t, _ = field
    silent = autoencoder(generator, "relu_l1", b_enc=-1e6)
    scaled = silent.standardisation.apply(x, t).numpy()
    found = report.quality(silent, x, t)
    expected = unexplained(scaled, silent.b_dec.numpy())
    assert (found["L0"], found["alive"]) == (0, 0)
    assert found["FVU"] == pytest.approx(expected, rel=1e-9)
    assert found["FVU_refitted"] == pytest.approx(expected, rel=1e-9)


def test_shrunk_codes_of_the_right_atoms_lose_all_their_error_in_a_refit(generator):
    # b_dec + c·atom with c ≥ 2, of which the encoder keeps c − 1.
    atoms = torch.linalg.qr(normal(D, D, generator=generator)).Q
    bias = normal(D, generator=generator)
    scale = Standardisation(None, torch.zeros(1, D, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    shrinking = identity(
        activation="relu_l1",
        W_enc=atoms,
        W_dec=atoms,
        b_enc=torch.full((D,), -1.0, dtype=torch.float64),
        b_dec=bias,
        k=None,
        standardisation=scale,
    )
    size = 2 + torch.rand(50, generator=generator, dtype=torch.float64)
    which = torch.randint(D, (50,), generator=generator)
    x = bias + size[:, None] * atoms[which]
    found = report.quality(shrinking, x, torch.zeros(50, dtype=torch.long))
    assert found["L0"] == 1
    assert found["FVU"] == pytest.approx(50 / float((x - x.mean(0)).square().sum()), rel=1e-9)
    assert found["FVU_refitted"] < 1e-20


def test_only_the_first_vectors_are_refitted(generator, field, monkeypatch):
    x, t, _ = field
    sae = autoencoder(generator)
    monkeypatch.setattr(report, "REFITTED", 100)
    many, few = report.quality(sae, x, t), report.quality(sae, x[:100], t[:100])
    assert many["FVU_refitted"] == pytest.approx(few["FVU_refitted"], rel=1e-12)
    assert many["FVU"] != few["FVU"]


# Latents


def one_sided(generator, field):
    """Latent 0 is never in use, latent 1 in one problem only."""
    x, t, problem = field
    x = x.clone()
    x[:, 0] = -x[:, 0].abs()
    x[:, 1] = torch.where(problem == 5, 1.0, -1.0)
    sae = identity(activation="relu_l1", k=None)
    return FeatureAnalyzer(sae, x, t, problem, SHAPE)


def monosemanticity_pair_by_pair(codes, embedding, problem):
    """The mean cosine over pairs of vectors of different problems, weighted by both codes."""
    units = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosines, apart = units @ units.T, problem[:, None] != problem
    weights = [np.outer(code, code) * apart for code in np.abs(codes.T)]
    return np.array([(one * cosines).sum() / one.sum() if one.any() else np.nan for one in weights])


def test_latents_are_as_monosemantic_as_the_matrices_of_all_pairs_of_their_vectors(generator, field, labels):
    looked = one_sided(generator, field)
    found = report.latents(looked, labels, generator)
    matrices = labels.matrices.flatten(1).numpy()
    embedding = matrices / np.linalg.norm(matrices, axis=1, keepdims=True)
    embedding = (embedding - embedding.mean(0))[looked.problem.numpy()]
    expected = monosemanticity_pair_by_pair(looked.codes.numpy(), embedding, looked.problem.numpy())
    np.testing.assert_allclose(found["monosemanticity"], expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(expected[:2]).all()
    assert not np.isnan(expected[2:]).any()


def test_a_latent_of_alike_problems_is_monosemantic_and_one_of_permuted_problems_is_not(generator, labels):
    # Two sorts of matrices, of which latent 0 is in use in one and latent 1 in the other.
    sort = torch.arange(PROBLEMS) % 2
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    matrices = torch.zeros(PROBLEMS, *SHAPE, dtype=torch.float64)
    matrices[:, 0, :2] = axes[sort]
    x = torch.zeros(PROBLEMS * EACH, D, dtype=torch.float64)
    problem = torch.arange(PROBLEMS).repeat_interleave(EACH)
    x[:, :2] = axes[sort[problem]]
    looked = FeatureAnalyzer(identity(), x, torch.zeros_like(problem), problem, SHAPE)
    found = report.latents(looked, Labels({}, {}, matrices), generator)
    assert found["monosemanticity"][:2].tolist() == pytest.approx([1, 1])
    # By chance the 12 problems of a latent are of either sort: pairs agree or are opposite.
    assert (found["monosemanticity_chance"][:2] < 0.9).all()


def test_unused_latents_have_a_density_of_zero_and_nothing_else(generator, field, labels):
    looked = one_sided(generator, field)
    found = report.latents(looked, labels, generator)
    expected = (looked.x > 0).double().mean(0)
    assert found["density"].tolist() == pytest.approx(expected.tolist())
    assert found["density"][0] == 0
    others = {name: value for name, value in found.items() if name != "density"}
    assert {"monosemanticity_chance", "effective_rank", "rank_one_share", "symmetric_share"} < others.keys()
    assert all(value[0].isnan() for value in others.values())
    # An atom with one entry has rank one.
    assert found["effective_rank"][1:].tolist() == pytest.approx([1] * (D - 1))


def test_summary_is_the_mean_over_latents_in_use(generator, field, labels, seed):
    looked = one_sided(generator, field)
    found = report.latents(looked, labels, generator)
    means = report.summary(found, looked, labels, seed)
    assert means.keys() == found.keys() - {"density"} | {"auroc_mean"}
    for name in found.keys() - {"density"}:
        assert means[name] == pytest.approx(np.nanmean(found[name].numpy()), rel=1e-12), name
    aurocs = component(report.concept_metrics(looked, labels, 2, seed)[0], "auroc")
    assert means["auroc_mean"] == pytest.approx(np.mean([aurocs["common"], aurocs["rarer"]]), rel=1e-12)


# Concepts


def test_cells_weighted_by_their_vectors_average_to_the_mean_auroc_over_concepts(
    generator, field, labels, seed
):
    x, t, problem = field
    # Three vectors to a cell in level 0, two in level 1, and one in the others.
    t = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 6]).repeat(PROBLEMS)
    looked = FeatureAnalyzer(autoencoder(generator), x, t, problem, SHAPE)
    metrics, cells, placed = report.concept_metrics(looked, labels, 3, seed)
    order = sorted({(int(p), int(level)) for p, level in zip(problem, t, strict=True)})
    assert list(map(tuple, cells.mT.tolist())) == order
    weights = [3 if level == 0 else 2 if level == 1 else 1 for _, level in order]
    aurocs = component(metrics, "auroc")
    assert aurocs.keys() == {"common", "rarer", "size"}
    expected = np.mean([aurocs["common"], aurocs["rarer"]])
    assert np.average(placed, weights=weights) == pytest.approx(expected, rel=1e-12)


def test_the_only_latent_scores_what_scikit_learn_says_with_the_sign_of_the_other_half(
    generator, field, seed
):
    x, t, problem = field
    truth = torch.randperm(PROBLEMS, generator=generator) < PROBLEMS // 2
    x[:, 0] -= 0.7 * truth[problem]
    axis = torch.eye(1, D, dtype=torch.float64)
    only = identity(W_enc=axis, W_dec=axis, b_enc=torch.zeros(1, dtype=torch.float64), k=1)
    looked = FeatureAnalyzer(only, x, t, problem, SHAPE)
    labels = Labels({"low": truth}, {}, normal(PROBLEMS, *SHAPE, generator=generator))
    metrics, cells, placed = report.concept_metrics(looked, labels, 3, seed)
    half = half_of_problems(problem, torch.Generator().manual_seed(seed)).numpy()
    scores, positive = x[:, 0].numpy(), truth[problem].numpy()
    areas = [roc_auc_score(positive[rows], scores[rows]) for rows in (half, ~half)]
    sign = [1 if area > 0.5 else -1 for area in areas]
    judged = [0.5 + s * (area - 0.5) for s, area in zip(sign, reversed(areas), strict=True)]
    assert component(metrics, "auroc") == pytest.approx({"low": np.mean(judged)}, rel=1e-12)
    assert component(metrics, "auroc_selected")["low"] == pytest.approx(
        0.5 + np.abs(np.subtract(areas, 0.5)).mean()
    )
    # A cell is one vector here: placed among the vectors of the other class in its half.
    rows = ~half
    for row in np.flatnonzero(rows)[:20]:
        others = scores[rows & (positive != positive[row])]
        side = sign[0] * (1 if positive[row] else -1)
        (cell,) = np.flatnonzero((cells[0] == problem[row]) & (cells[1] == t[row]))
        assert float(placed[cell]) == pytest.approx((side * scores[row] > side * others).mean(), abs=1e-12)


def test_a_concept_that_one_half_lacks_is_left_out_of_the_cells(generator, field, labels, seed):
    x, t, problem = field
    half = half_of_problems(problem, torch.Generator().manual_seed(seed))
    rare = torch.zeros(PROBLEMS, dtype=torch.bool)
    rare[problem[half].unique()[:2]] = True
    looked = FeatureAnalyzer(autoencoder(generator), x, t, problem, SHAPE)

    def found(concepts):
        return report.concept_metrics(looked, Labels(concepts, labels.vector, labels.matrices), 3, seed)

    metrics, _, placed = found({"rare": rare, **labels.problem})
    assert np.isnan(component(metrics, "auroc")["rare"])
    assert torch.equal(placed, found(labels.problem)[2])
    assert found({"rare": rare})[2].isnan().all()


# Probes


def test_all_probes_tell_a_planted_concept(generator, field, labels, seed):
    x, t, problem = field
    x[:, 4] += 5 * labels.problem["common"][problem]
    looked = FeatureAnalyzer(identity(), x, t, problem, SHAPE)
    metrics = report.probe_metrics(looked, labels, (1, 3), seed)
    names = {f"probe_{kind}_{k}" for kind in ("latents", "components") for k in (1, 3)} | {"probe_raw"}
    assert {metric.name for metric in metrics} == names
    for name in names:
        found = component(metrics, name)
        assert found.keys() == {"common", "rarer"}
        assert found["common"] > 0.95


def test_probes_see_so_many_vectors_at_most_each_once_with_its_own_code_and_problem(
    generator, field, labels, seed, monkeypatch
):
    x, t, problem = field
    looked = FeatureAnalyzer(autoencoder(generator), x, t, problem, SHAPE)
    seen = []

    def spy(codes, x, label, problem, *how):
        seen.append((codes, x, label, problem))
        return probe(codes, x, label, problem, *how)

    monkeypatch.setattr(report, "PROBED", 100)
    monkeypatch.setattr(report, "probe", spy)
    report.probe_metrics(looked, labels, (2,), seed)
    for (codes, some, label, ids), of_problems in zip(seen, labels.problem.values(), strict=True):
        rows = [int((x == one).all(1).nonzero()) for one in some]
        assert len(set(rows)) == len(rows) == 100
        assert torch.equal(codes, looked.codes[rows])
        assert torch.equal(ids, problem[rows])
        assert torch.equal(label, of_problems[ids])


def test_a_concept_too_rare_to_probe_has_a_reason_and_the_others_a_value(generator, field, labels, seed):
    x, t, problem = field
    looked = FeatureAnalyzer(autoencoder(generator), x, t, problem, SHAPE)
    rare = torch.arange(PROBLEMS) < 2
    metrics = report.probe_metrics(
        looked, Labels({"rare": rare, **labels.problem}, {}, labels.matrices), (1,), seed
    )
    for metric in metrics:
        if metric.component == "rare":
            assert metric.values.isnan().all()
            assert "fewer than 3 problems of a half" in metric.reason
        else:
            assert metric.values.isfinite().all()
    assert {metric.component for metric in metrics} == {"rare", "common", "rarer"}


# Stability


def coded_by(atoms, k, x):
    """A dictionary looked at on vectors and on its own atoms, so that all of these are in use."""
    x = torch.cat([x, atoms])
    t = torch.zeros(len(x), dtype=torch.long)
    return FeatureAnalyzer(Dictionary.of_atoms("given", atoms, k), x, t, torch.arange(len(x)), SHAPE)


def test_permuted_copies_are_stable_and_independent_dictionaries_no_more_than_by_chance(generator):
    x, atoms, others = (normal(count, D, generator=generator) for count in (30, 200, 200))

    def copy():
        """In another order and with other signs, which signed codes make up for."""
        signs = 1 - 2 * torch.randint(2, (200, 1), generator=generator)
        return signs * atoms[torch.randperm(200, generator=generator)]

    first = coded_by(atoms, 6, x)
    copies = report.stability([first, coded_by(copy(), 6, x), coded_by(copy(), 6, x)], generator)
    assert copies["stability"] == pytest.approx(1)
    assert copies["stability_chance"] < 0.95
    independent = report.stability([first, coded_by(others, 6, x)], generator)
    assert independent["stability"] == pytest.approx(independent["stability_chance"], abs=0.03)


def test_stability_is_the_mean_match_of_the_first_with_each_later_one(generator):
    # Orthonormal atoms, each turned towards a direction of its own: matched cosines are those of the angles.
    frame = torch.linalg.qr(normal(D, D, generator=generator)).Q
    atoms, towards = frame[:4], frame[4:8]
    angles = (0.0, 0.1, 0.3)
    turned = [np.cos(angle) * atoms + np.sin(angle) * towards for angle in angles]
    x = normal(30, D, generator=generator)
    found = report.stability([coded_by(each, 4, x) for each in turned], generator)
    assert found["stability"] == pytest.approx(np.cos(angles[1:]).mean(), rel=1e-12)


# The sampler

COUNT = 12


@pytest.fixture
def runs(generator, seed):
    """Of a quadratic energy, from first states from which nothing is clamped; y* = Bx."""
    case = planted(6, D, seed)
    x = normal(COUNT, 6, generator=generator) / 4
    noise = torch.rand(COUNT, D, generator=generator, dtype=torch.float64)
    init = case.truth.schedule.sqrt_alphas_cumprod[9] * (noise - 0.5)
    keys = pa.table({"problem_id": pa.array(range(COUNT), pa.int32())})
    return report.SamplerRuns(MLPEnergy(case.model), keys, x, x @ case.truth.slope.mT, init, seed)


def test_an_identity_serves_as_well_as_the_gradient_and_nothing_as_none(runs, field):
    g, t, _ = field
    nothing = identity(W_dec=torch.zeros(D, D, dtype=torch.float64))
    # Gradients are stored in float32.
    metrics = runs.fidelity({"identity": identity(), "nothing": nothing}, g.float(), t)
    for end in ("", "_low", "_high"):
        # The displacement of the original is zero by definition, and any other is worth less.
        found = component(metrics, f"fidelity_displacement{end}")
        for place in ("jump", "both"):
            assert found[f"{place}/identity"] == found[f"{place}/original"] == 1
            assert found[f"{place}/nothing"] == found[f"{place}/zero"] == 0
            assert found[f"{place}/mean"] < 1
            assert found[f"{place}/random"] < 1
        # That of the error is undefined where the sampler does as well without the gradient.
        found = component(metrics, f"fidelity_mse{end}")
        for place in PLACES:
            np.testing.assert_equal(found[f"{place}/identity"], found[f"{place}/original"])
            np.testing.assert_equal(found[f"{place}/nothing"], found[f"{place}/zero"])
    rates = component(metrics, "accept_rate")
    for place in PLACES:
        assert rates[f"{place}/identity"] == rates[f"{place}/original"]
    assert rates["inner/nothing"] == 1
    kept = component(metrics, "descent_kept")
    assert kept["identity"] == pytest.approx(1, abs=1e-12)
    assert kept["nothing"] == 0
    assert abs(kept["random"]) < 0.5


def test_the_mean_keeps_the_share_of_descent_that_lies_along_it(runs, field):
    g, t, _ = field
    g = g + 1
    kept = component(runs.fidelity({}, g, t), "descent_kept")["mean"]
    shares = []
    for level in range(LEVELS):
        rows = g[t == level].numpy()
        shares.append(len(rows) * np.square(rows.mean(0)).sum() / np.square(rows).sum())
    assert kept == pytest.approx(np.mean(shares), rel=1e-9)


def test_on_a_flat_landscape_no_reconstruction_has_a_worth_and_the_reason_is_said(runs, field):
    g, t, _ = field
    flat = replace(runs, energy=CallableEnergy(lambda x, y, t: 0 * y.sum(1), 6, D))
    metrics = flat.fidelity({"identity": identity()}, g, t)
    undefined = [metric for metric in metrics if metric.name.startswith("fidelity_")]
    assert len(undefined) == 2 * 3 * 4 * 5
    assert all(metric.values.isnan().all() and "does not need" in metric.reason for metric in undefined)
    assert set(component(metrics, "accept_rate").values()) == {1}


def test_first_states_depend_on_the_seed_and_the_problem_alone(runs, generator):
    problems = pa.table(
        {
            "problem_id": pa.array([4, 9, 2], pa.int32()),
            "x": tensor_array(normal(3, 2, 3, generator=generator)),
            "y_star": tensor_array(normal(3, *SHAPE, generator=generator)),
        }
    )
    made = report.SamplerRuns.of(runs.energy, problems, runs.seed)
    assert (made.x.shape, made.y_star.shape) == ((3, 6), (3, D))
    assert made.keys["problem_id"].to_pylist() == [4, 9, 2]
    for row, one in enumerate((4, 9, 2)):
        assert torch.equal(made.init[row], normal_draws(runs.seed, "first_state", [one], 1, D)[0, 0])


def test_effects_are_those_of_the_latents_that_write_most(runs, generator, field):
    g, t, _ = field
    sae = autoencoder(generator, "abstopk")
    length = 0.2 + torch.rand(WIDTH, 1, generator=generator, dtype=torch.float64)
    sae = replace(sae, W_dec=length * sae.W_dec)
    written = (sae.encode(g, t)[:, :, None] * sae.W_dec).square().sum((0, 2))
    table = runs.effects(sae.to(torch.float32), g.float(), t, 2).to_pandas()
    assert set(table["latent"]) == set(written.topk(2).indices.tolist())
    assert set(table["role"]) == {"latent", "matched", "random", "latent − matched", "latent − random"}
    assert table.groupby(["latent", "role"]).size().nunique() == 1
