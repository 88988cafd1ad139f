"""What latents are: usage, atoms, concepts, monosemanticity, matching and probes, next to their nulls."""

import math

import pytest
import torch
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from iredinterp.analyses.sae.atoms import as_matrices, atom_structure, chance_structure
from iredinterp.analyses.sae.concepts import auroc, concept_scores, half_of_problems, probe
from iredinterp.analyses.sae.dictionaries import Dictionary
from iredinterp.analyses.sae.features import (
    FeatureAnalyzer,
    monosemanticity,
    permuted_monosemanticity,
    quantile_examples,
    top_examples,
    usage,
)
from iredinterp.analyses.sae.matching import chance_matching, match_atoms
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.errors import ConfigError
from iredinterp.truth.dictionary import SparseDictionary


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sparse(count, width, generator, share=0.3):
    """Mostly zero codes with many ties."""
    sizes = torch.randint(1, 6, (count, width), generator=generator).double()
    return sizes * (torch.rand(count, width, generator=generator) < share)


# Usage and examples


def test_usage_is_share_and_mean_size_of_what_is_active_by_level():
    codes = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-4.0, 0.0], [1.0, 3.0]])
    found = usage(codes, torch.tensor([5, 5, 5, 2]))
    assert found.levels == (2, 5)
    assert torch.allclose(found.density, torch.tensor([[1, 1], [2 / 3, 0]], dtype=torch.float64))
    assert found.magnitude[:, 0].tolist() == [1, 3]
    assert found.magnitude[0, 1] == 3
    assert found.magnitude[1, 1].isnan()


def test_examples_are_the_strongest_and_the_quantiles_of_active_vectors():
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-5.0, 0.0], [3.0, 0.0], [2.0, 0.0], [4.0, 7.0]])
    assert top_examples(codes, 3).tolist() == [[2, 5, 3], [5, -1, -1]]
    assert top_examples(codes[:, :1], 9).tolist() == [[2, 5, 3, 4, 1, -1]]
    assert quantile_examples(codes, [0, 0.25, 0.5, 1]).tolist() == [[1, 4, 3, 2], [5, 5, 5, 5]]
    assert quantile_examples(torch.zeros(3, 2), [0.5]).tolist() == [[-1], [-1]]
    with pytest.raises(ConfigError, match=r"quantiles lie in 0 … 1; found \[50\]"):
        quantile_examples(codes, [50])


# Atoms


def test_outer_products_have_rank_one_and_the_identity_lies_on_the_diagonal(generator):
    u, v = normal(4, generator=generator), normal(4, generator=generator)
    first_row = torch.zeros(4, 4, dtype=torch.float64)
    first_row[0] = 1
    atoms = torch.stack([torch.outer(u, v), torch.eye(4, dtype=torch.float64), first_row, first_row.T])
    found = atom_structure(7 * atoms)
    assert found["rank_one_share"].tolist() == pytest.approx([1, 0.25, 1, 1])
    assert found["effective_rank"].tolist() == pytest.approx([1, 4, 1, 1])
    assert found["row_concentration"][1:].tolist() == pytest.approx([0.25, 1, 0.25])
    assert found["column_concentration"][1:].tolist() == pytest.approx([0.25, 0.25, 1])
    rows = u.square() / u.square().sum()
    assert float(found["row_concentration"][0]) == pytest.approx(float(rows.square().sum()))
    assert found["diagonal_share"][1:].tolist() == pytest.approx([1, 0.25, 0.25])
    cosine = float(u @ v / (u.norm() * v.norm()))
    assert found["symmetric_share"].tolist() == pytest.approx([(1 + cosine**2) / 2, 1, 5 / 8, 5 / 8])


def test_a_singular_pair_of_the_reference_has_cosine_one_with_it_and_its_sum_with_another_a_half_root(
    generator,
):
    references = normal(3, 5, 4, generator=generator)
    U, _, Vh = torch.linalg.svd(references[:1], full_matrices=False)
    pair = torch.outer(U[0, :, 2], Vh[0, 0])
    both = torch.outer(U[0, :, 1], Vh[0, 1]) - torch.outer(U[0, :, 3], Vh[0, 3])
    atoms = torch.stack([-pair, both])
    found = atom_structure(atoms, references[:1])["pair_cosine"]
    assert found.tolist() == pytest.approx([1, math.sqrt(0.5)])
    each = [atom_structure(atoms, references[i : i + 1])["pair_cosine"] for i in range(3)]
    assert torch.allclose(atom_structure(atoms, references)["pair_cosine"], sum(each) / 3)


def test_structure_of_a_zero_atom_is_undefined_and_leaves_the_others_alone(generator):
    atoms = normal(3, 2, 3, generator=generator)
    with_zero = atoms.clone()
    with_zero[1] = 0
    found, expected = atom_structure(with_zero), atom_structure(atoms)
    assert "symmetric_share" not in found
    for name, values in found.items():
        assert values[1].isnan()
        assert torch.equal(values[[0, 2]], expected[name][[0, 2]])


@pytest.mark.parametrize("shape", [(3, 3), (2, 5)])
def test_chance_of_structure_is_the_mean_over_random_directions(shape, generator):
    reference = normal(2, *shape, generator=generator)
    chance = chance_structure(shape, generator, reference, draws=4000)
    drawn = atom_structure(normal(4000, *shape, generator=generator), reference)
    assert chance.keys() == drawn.keys()
    for name, values in drawn.items():
        assert float(values.mean()) == pytest.approx(
            chance[name], abs=8 * float(values.std()) / math.sqrt(4000)
        ), name


def test_atoms_and_references_must_fit_the_shape(generator):
    with pytest.raises(ConfigError, match="dimension 6 are no 2×2 matrices"):
        as_matrices(torch.ones(4, 6), (2, 2))
    with pytest.raises(ConfigError, match=r"shape \(R, 2, 3\)"):
        atom_structure(torch.ones(4, 2, 3), torch.ones(2, 3))
    assert as_matrices(torch.arange(6.0)[None], (2, 3))[0, 1].tolist() == [3, 4, 5]


# Concepts


def test_auroc_is_that_of_scikit_learn_with_ties(generator):
    scores = torch.cat([sparse(80, 4, generator), -sparse(80, 3, generator)], 1)
    labels = torch.rand(80, 5, generator=generator) < 0.3
    labels[0], labels[1] = True, False
    found = auroc(scores, labels)
    expected = [[roc_auc_score(y, s) for y in labels.T.numpy()] for s in scores.T.numpy()]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_auroc_counts_pairs_in_order_and_half_of_ties():
    # Positives 2, 0 against negatives 0, 1: above, above, tie, below.
    scores = torch.tensor([[2.0], [0.0], [0.0], [1.0]])
    labels = torch.tensor([[True, True], [True, True], [False, True], [False, True]])
    found = auroc(scores, labels)
    assert float(found[0, 0]) == pytest.approx(2.5 / 4)
    assert found[0, 1].isnan()


def test_halves_hold_whole_problems(generator):
    problem = torch.randint(9, (60,), generator=generator)
    problem[:9] = torch.arange(9)
    half = half_of_problems(problem, generator)
    assert len(problem[half].unique()) == 4
    assert not set(problem[half].tolist()) & set(problem[~half].tolist())
    with pytest.raises(ConfigError, match="collect more problems"):
        half_of_problems(torch.zeros(5, dtype=torch.long), generator)


def test_a_latent_per_planted_atom_tells_perfectly_when_it_fired(generator):
    law = SparseDictionary.random(8, 8, 2.0, generator, zipf=0.0, noise=0.0)
    x, truth = law.sample(240, generator)
    codes = x @ torch.linalg.inv(law.atoms)
    codes = codes.where(codes.abs() > 1e-9, 0)
    problem = torch.arange(240) // 2
    concepts = {f"atom {i}": truth[:, i] != 0 for i in range(3)} | {"amplitude": truth[:, 4]}
    found = concept_scores(codes, concepts, problem, generator, permutations=39)
    # The amplitude is 0 for more than half of the vectors: above its median means that the atom fired.
    assert found.auroc.tolist() == pytest.approx([1, 1, 1, 1])
    assert found.latents.tolist() == [[0, 0], [1, 1], [2, 2], [4, 4]]
    assert found.p_value.tolist() == pytest.approx([1 / 40] * 4)
    assert found.q_value.tolist() == pytest.approx([1 / 40] * 4)


def test_an_inhibited_latent_counts_with_the_sign_chosen_on_the_other_half(generator):
    label = torch.arange(120) % 2 == 0
    codes = torch.cat([(~label)[:, None].double(), sparse(120, 1, generator)], 1)
    found = concept_scores(codes, {"on": label}, torch.arange(120), generator, permutations=5)
    assert float(found.auroc) == 1
    # A sign that turns over between problems is no knowledge: below a half, not above.
    problem = torch.arange(120) // 60
    turning = torch.where(problem == 0, label, ~label).double()[:, None]
    turned = concept_scores(turning, {"on": label}, problem, generator, permutations=0)
    assert float(turned.on_selection) == 1
    assert float(turned.auroc) == 0
    assert float(turned.p_value) == 1


def test_permuted_labels_score_a_half_while_the_best_latent_in_sample_scores_above(generator):
    # 60 problems of 2 vectors, 150 latents that know nothing: the best one looks informative.
    problem = torch.arange(120) // 2
    codes = sparse(120, 150, generator)
    concepts = {f"coin {i}": (torch.rand(60, generator=generator) < 0.5)[problem] for i in range(20)}
    found = concept_scores(codes, concepts, problem, generator, permutations=60)
    assert float(found.on_selection.min()) > 0.6
    assert float(found.null.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found.auroc.mean()) == pytest.approx(0.5, abs=0.08)
    assert 0.1 < float(found.p_value.mean()) < 0.9
    assert found.q_value.tolist() == pytest.approx(false_discovery_control(found.p_value.numpy()).tolist())


def test_vectors_of_one_problem_are_no_independent_evidence(generator):
    # The latent marks problems, 20 vectors each, and so does the label: independent, but permuting single
    # vectors would call their chance agreement significant.
    problem = torch.arange(400) // 20
    marks = torch.rand(20, 1, generator=generator)[problem]
    label = (torch.randperm(20, generator=generator) < 10)[problem]
    found = concept_scores(marks, {"mark": label}, problem, generator, permutations=100)
    assert float(found.null.std()) > 0.08


def test_a_concept_missing_from_one_half_is_undefined_not_scored(generator):
    label = torch.zeros(12, dtype=torch.bool)
    label[3] = True
    both = {"once": label, "often": torch.arange(12) % 2 == 0}
    found = concept_scores(sparse(12, 3, generator), both, torch.arange(12), generator, permutations=9)
    assert found.auroc[0].isnan()
    assert found.p_value[0].isnan()
    assert found.q_value[0].isnan()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.ones(6), "'c' is the same for all vectors; leave it out"),
        (torch.tensor([0.0, 1, 2, torch.nan, 1, 1]), "'c' has labels that are not finite; drop those"),
        (torch.ones(5), r"'c' has labels \(5,\) for 6 vectors"),
    ],
)
def test_labels_that_say_nothing_are_refused(label, message, generator):
    with pytest.raises(ConfigError, match=message):
        concept_scores(torch.ones(6, 2), {"c": label}, torch.arange(6), generator)


# Monosemanticity


def brute_force_similarity(weights, embedding, problem):
    e = embedding / embedding.norm(dim=1, keepdim=True)
    pairs = weights[:, None] * weights[None] * (problem[:, None] != problem[None])
    return float((pairs * (e @ e.T)).sum() / pairs.sum())


def test_monosemanticity_in_linear_time_is_the_weighted_mean_over_pairs_of_problems(generator):
    codes, problem = sparse(30, 5, generator) - sparse(30, 5, generator, 0.1), torch.arange(30) // 3
    embedding = normal(30, 4, generator=generator)
    found = monosemanticity(codes, embedding, problem)
    expected = [brute_force_similarity(column.abs(), embedding, problem) for column in codes.T]
    assert found.tolist() == pytest.approx(expected)
    strongest = torch.rand(30, 1, generator=generator).double() + 0.1
    kept = strongest[:, 0].where(strongest[:, 0] >= strongest[:, 0].sort().values[-10], 0)
    assert monosemanticity(strongest, embedding, problem, top=10).tolist() == pytest.approx(
        [brute_force_similarity(kept, embedding, problem)]
    )


def test_a_latent_of_one_kind_of_input_is_monosemantic_and_a_permuted_one_is_not(generator):
    problem = torch.arange(400) // 2
    kind = (problem % 4)[:, None]
    embedding = torch.nn.functional.one_hot(kind[:, 0], 4).double()
    codes = (kind == torch.arange(4)) * torch.rand(400, 4, generator=generator)
    assert monosemanticity(codes, embedding, problem).tolist() == pytest.approx([1] * 4)
    permuted = permuted_monosemanticity(codes, embedding, problem, generator)
    # Two random problems are of one kind with probability 49/199.
    assert permuted.tolist() == pytest.approx([49 / 199] * 4, abs=0.13)


def test_monosemanticity_needs_two_problems(generator):
    codes = torch.tensor([[1.0, 0.0, 0.1], [0.3, 0.0, 0.0], [0.0, 0.0, 0.2]])
    found = monosemanticity(codes, normal(3, 2, generator=generator), torch.tensor([0, 0, 1]))
    assert found.isnan().tolist() == [True, True, False]
    with pytest.raises(ConfigError, match=r"one row per vector; found \(2, 2\) for 3 vectors"):
        monosemanticity(codes, torch.ones(2, 2), torch.tensor([0, 0, 1]))


# Matching


def test_a_permuted_dictionary_is_matched_to_itself_and_a_negated_one_where_signs_do_not_matter(generator):
    atoms = normal(6, 9, generator=generator)
    order = torch.randperm(6, generator=generator)
    found = match_atoms(atoms, 2 * atoms[order])
    assert found.mean == pytest.approx(1)
    assert order[found.second].tolist() == found.first.tolist() == list(range(6))
    assert match_atoms(atoms, -atoms[order], signed=True).mean == pytest.approx(1)
    assert match_atoms(atoms, -atoms[order]).mean < 0.9


def test_matching_takes_the_best_sum_not_the_best_pair_first():
    # Greedy would take 1.0 and be left with 0: the sum .8 + .6 is larger.
    first = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    second = torch.tensor([[0.8, 0.6], [0.6, -0.8]], dtype=torch.float64)
    found = match_atoms(first, second)
    assert found.second.tolist() == [1, 0]
    assert found.cosine.tolist() == pytest.approx([0.6, 1.0])
    third = torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    greedy = match_atoms(torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64), third)
    assert greedy.cosine.tolist() == pytest.approx([0.8, 0.6])


def test_chance_of_one_atom_is_the_mean_cosine_of_random_directions(generator):
    # In three dimensions the cosine is uniform on [−1, 1].
    assert chance_matching(1, 1, 3, generator, draws=1000) == pytest.approx(0, abs=0.12)
    assert chance_matching(1, 1, 3, generator, signed=True, draws=1000) == pytest.approx(0.5, abs=0.06)


def test_chance_of_matching_is_what_random_dictionaries_of_these_sizes_give(generator):
    def simulated():
        first, second = normal(20, 6, generator=generator), normal(12, 6, generator=generator)
        return match_atoms(first, second).mean

    means = torch.tensor([simulated() for _ in range(40)])
    chance = chance_matching(20, 12, 6, generator, draws=40)
    assert chance == pytest.approx(float(means.mean()), abs=8 * float(means.std()) / math.sqrt(40))
    assert chance > 0.5
    assert math.isnan(chance_matching(0, 5, 6, generator))


def test_atoms_of_other_vectors_cannot_be_matched():
    with pytest.raises(ConfigError, match="dimensions 2 and 3 cannot be matched"):
        match_atoms(torch.ones(1, 2), torch.ones(1, 3))


# Probes


def test_one_latent_probes_what_leading_components_lack_and_all_of_x_has(generator):
    # The concept is a direction in which x hardly varies.
    scales = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.5, 0.1])
    rotation = torch.linalg.qr(normal(6, 6, generator=generator)).Q
    x = (normal(400, 6, generator=generator) * scales) @ rotation
    value = x @ rotation[-1]
    codes = torch.cat([normal(400, 3, generator=generator), value[:, None]], 1)
    found = probe(codes, x, value > 0, torch.arange(400) // 2, [1, 3], generator)
    assert found.k == (1, 3)
    assert found.latents[0] == 1
    assert found.latents[1] > 0.97
    assert found.raw > 0.95
    assert found.components[0] < 0.75


def test_leading_components_probe_what_they_have_and_latents_of_noise_do_not(generator):
    x = normal(400, 4, generator=generator) * torch.tensor([9.0, 1.0, 1.0, 0.0])
    label = x[:, 0] + normal(400, generator=generator) > 0
    codes = sparse(400, 5, generator)
    found = probe(codes, x, label, torch.arange(400) // 2, [1], generator)
    assert found.components[0] > 0.95
    assert found.raw > 0.95
    assert found.latents[0] < 0.75


def test_a_probe_that_could_memorise_problems_is_at_chance_on_unseen_ones(generator):
    # All vectors of a problem are equal, so its label can be read off by heart; and nothing else can.
    problem = torch.arange(600) // 4
    label = (torch.rand(150, generator=generator) < 0.5)[problem]
    codes, x = sparse(150, 60, generator)[problem], normal(150, 40, generator=generator)[problem]
    found = probe(codes, x, label, problem, [30], generator)
    for score in (*found.latents, *found.components, found.raw):
        assert score == pytest.approx(0.5, abs=0.3)


def test_probes_refuse_what_they_cannot_fit(generator):
    x, problem = normal(80, 3, generator=generator), torch.arange(80)
    label = torch.arange(80) % 2 == 0
    x[:, 2] = x[:, 0]
    for k in ([], [0], [3]):
        with pytest.raises(ConfigError, match=r"1 … 2 inputs here"):
            probe(x, x, label, problem, k, generator)
    with pytest.raises(ConfigError, match="fewer than 3 problems of a half have one of the classes"):
        probe(x, x, problem < 5, problem, [1], generator)


# The analyzer


def analyzer(generator, atoms=None, **changed):
    law = SparseDictionary.random(6, 5, 1.5, generator, zipf=0.0, noise=0.0)
    x, truth = law.sample(240, generator)
    given = {
        "autoencoder": Dictionary.of_atoms("planted", law.atoms if atoms is None else atoms, 2),
        "x": x,
        "t": torch.arange(240) % 3,
        "problem": torch.arange(240) // 3,
        "shape": (2, 3),
        "concepts": {"fired": truth[:, 1] != 0},
    }
    return FeatureAnalyzer(**{**given, **changed})


def test_the_analyzer_reports_what_the_functions_say_of_its_codes(generator):
    one = analyzer(generator)
    assert torch.equal(one.codes, one.autoencoder.encode(one.x))
    assert torch.equal(one.usage().density, usage(one.codes, one.t).density)
    assert torch.equal(one.top_examples(4), top_examples(one.codes, 4))
    assert one.quantile_examples().shape == (5, 3)
    values, chance = one.structure(generator)
    assert values.keys() == chance.keys()
    assert torch.equal(values["rank_one_share"], atom_structure(one.atoms)["rank_one_share"])
    assert one.concept_scores(generator, permutations=3).auroc.shape == (1,)
    scores, permuted = one.monosemanticity(one.x + 0.1, generator)
    assert torch.equal(scores, monosemanticity(one.codes, one.x + 0.1, one.problem))
    assert permuted.shape == scores.shape
    assert one.probe("fired", [1], generator).k == (1,)


def test_the_analyzer_matches_latents_that_are_alive_and_counts_rows_among_all(generator):
    x = torch.eye(4, dtype=torch.float64)[:3].repeat(4, 1)
    eye, zero = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    one, other = (
        FeatureAnalyzer(
            SparseAutoencoder("relu_l1", atoms, zero, atoms, zero),
            x,
            torch.zeros(12, dtype=torch.long),
            torch.arange(12),
            (2, 2),
        )
        for atoms in (eye, eye[[3, 2, 0, 1]])
    )
    assert one.alive.tolist() == [True, True, True, False]
    assert other.alive.tolist() == [False, True, True, True]
    found, chance = one.match(other, generator)
    assert found.first.tolist() == [0, 1, 2]
    assert found.second.tolist() == [2, 3, 1]
    assert found.mean == 1
    assert chance < 1
    assert not one.signed


def test_the_analyzer_refuses_what_does_not_fit_together(generator):
    with pytest.raises(
        ConfigError, match=r"t holds one integer per vector; found torch.int64 of shape \(3,\)"
    ):
        analyzer(generator, t=torch.arange(3))
    with pytest.raises(ConfigError, match=r"problem holds one integer per vector; found torch.float32"):
        analyzer(generator, problem=torch.zeros(60))
    with pytest.raises(ConfigError, match="are no 3×3 matrices"):
        analyzer(generator, shape=(3, 3))
    with pytest.raises(ConfigError, match="concept 'c' has labels"):
        analyzer(generator, concepts={"c": torch.ones(3)})
    with pytest.raises(ConfigError, match="vector 0 has entries"):
        analyzer(generator, x=torch.full((60, 6), torch.nan))
    with pytest.raises(ConfigError, match="no concept 'other'; there are fired"):
        analyzer(generator).probe("other", [1], generator)
    with pytest.raises(ConfigError, match="no concepts to score"):
        analyzer(generator, concepts=None).concept_scores(generator)
