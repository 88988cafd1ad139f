"""The bridge against geomstats itself where that is right, and against the truth where it is not."""

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from iredinterp.errors import ConfigError
from iredinterp.geometry.geomstats_bridge import frechet_mean, grassmannian
from iredinterp.geometry.subspace import (
    chordal_mean,
    grassmann_distance,
    grassmann_exp,
    grassmann_log,
    haar_subspaces,
    parallel_transport,
    projector,
    subspace_basis,
)

# After the bridge, which makes geomstats importable.
from geomstats.geometry.grassmannian import Grassmannian  # isort: skip
from geomstats.learning.frechet_mean import FrechetMean  # isort: skip
from geomstats.learning.geometric_median import GeometricMedian  # isort: skip
from geomstats.learning.kmeans import RiemannianKMeans  # isort: skip
from geomstats.learning.pca import TangentPCA  # isort: skip

SHAPES = [(8, 1), (8, 2), (20, 5), (9, 6)]
# The matrix logarithm of geomstats is least exact close to right angles.
ATOL = 1e-9


@pytest.fixture(params=SHAPES, ids=lambda shape: f"Gr{shape}")
def stock(request):
    return Grassmannian(*request.param)


@pytest.fixture
def ours(stock):
    return grassmannian(stock.n, stock.p)


@pytest.fixture
def points(stock, generator):
    """Three batches of uniformly random projectors."""
    return [projector(haar_subspaces(12, stock.n, stock.p, generator)).numpy() for _ in range(3)]


def directions(U, count, generator):
    """Random horizontal matrices at a subspace."""
    Z = torch.randn(count, *U.shape, generator=generator, dtype=torch.float64)
    return Z - U @ (U.mT @ Z)


def around(centre, count, spread, generator):
    """Subspaces at random directions from a centre, lengths about `spread`."""
    n, k = centre.shape
    return grassmann_exp(centre, spread * directions(centre, count, generator) / math.sqrt(k * (n - k)))


def same(a, b, atol=ATOL):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# Against geomstats


def test_distances_and_logarithms_are_those_of_geomstats_between_random_subspaces(stock, ours, points):
    P, Q, _ = points
    same(ours.metric.dist(P, Q), stock.metric.dist(P, Q))
    same(ours.metric.squared_dist(P, Q), stock.metric.squared_dist(P, Q))
    same(ours.metric.dist(P[0], Q), stock.metric.dist(P[0], Q))
    same(ours.metric.log(Q, P), stock.metric.log(Q, P))
    same(ours.metric.log(Q, P[0]), stock.metric.log(Q, P[0]))
    assert ours.is_tangent(ours.metric.log(Q, P), P).all()


def test_distance_in_geomstats_is_arc_length_times_the_root_of_two(stock, points):
    U, V = (subspace_basis(torch.from_numpy(one), stock.p) for one in points[:2])
    same(stock.metric.dist(points[0], points[1]), math.sqrt(2) * grassmann_distance(U, V).numpy())


def test_exponentials_and_geodesics_are_those_of_geomstats(stock, ours, points):
    P, Q, R = points
    X = stock.to_tangent(R, P)
    same(ours.metric.exp(X, P), stock.metric.exp(X, P))
    times = np.linspace(-0.5, 1.5, 5)
    for one in (slice(None), 0):
        by_end = {"initial_point": P[one], "end_point": Q[one]}
        by_velocity = {"initial_point": P[one], "initial_tangent_vec": X[one]}
        for arguments in (by_end, by_velocity):
            path, expected = ours.metric.geodesic(**arguments), stock.metric.geodesic(**arguments)
            same(path(times), expected(times))
            same(path(0.25), expected(0.25))


def test_parallel_transport_and_inner_product_are_those_of_geomstats(stock, ours, points):
    P, Q, R = points
    X, Y = stock.metric.log(Q, P), stock.to_tangent(R, P)
    same(
        ours.metric.parallel_transport(Y, P, direction=X),
        stock.metric.parallel_transport(Y, P, direction=X),
    )
    same(
        ours.metric.parallel_transport(Y, P, end_point=Q),
        stock.metric.parallel_transport(Y, P, end_point=Q),
    )
    same(ours.metric.inner_product(X, Y, P), stock.metric.inner_product(X, Y, P))
    same(ours.metric.norm(X, P), ours.metric.dist(P, Q), atol=1e-12)


def test_transport_in_basis_form_is_that_of_geomstats(stock, generator):
    U, V, W = (haar_subspaces(6, stock.n, stock.p, generator) for _ in range(3))
    D, E = grassmann_log(U, V).direction, grassmann_log(U, W).direction
    lifted = E @ U.mT + U @ E.mT
    moved = stock.metric.parallel_transport(
        lifted.numpy(), projector(U).numpy(), end_point=projector(V).numpy()
    )
    same((torch.from_numpy(moved) @ grassmann_exp(U, D)).numpy(), parallel_transport(U, D, E).numpy())


def test_frechet_mean_is_that_of_geomstats_run_to_the_end(generator):
    centre = haar_subspaces(1, 8, 2, generator)[0]
    U = around(centre, 10, 0.3, generator)
    weights = torch.rand(10, generator=generator, dtype=torch.float64)
    found = frechet_mean(U, weights)
    estimator = FrechetMean(Grassmannian(8, 2)).set(epsilon=1e-18, max_iter=200)
    estimator.fit(projector(U).numpy(), weights=weights.numpy())
    assert found.converged
    same(projector(found.U).numpy(), estimator.estimate_, atol=1e-6)


# Right angles


def test_geomstats_reads_zero_between_orthogonal_lines_and_the_bridge_a_right_angle():
    """Should geomstats be right one day, say so in the bridge's docstring and drop this half."""
    P, Q = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    assert Grassmannian(2, 1).metric.dist(P, Q) == 0
    metric = grassmannian(2, 1).metric
    assert metric.dist(P, Q) == pytest.approx(math.pi / math.sqrt(2), abs=1e-15)
    log = metric.log(Q, P)
    assert metric.norm(log, P) == pytest.approx(math.pi / math.sqrt(2), abs=1e-15)
    same(metric.exp(log, P), Q, atol=1e-15)
    middle = metric.geodesic(P, end_point=Q)(0.5)
    same(metric.dist(middle, Q), np.full(1, math.pi / math.sqrt(8)), atol=1e-15)


def test_one_right_angle_among_others_is_dropped_by_geomstats_and_counted_by_the_bridge(generator):
    angles = torch.tensor([0.3, 0.8, math.pi / 2], dtype=torch.float64)
    cosines = torch.tensor([math.cos(0.3), math.cos(0.8), 0.0], dtype=torch.float64)
    truth = math.sqrt(2) * angles.norm().item()
    stock, ours = Grassmannian(12, 3).metric, grassmannian(12, 3).metric

    def pair(ambient):
        U, V = ambient[:, :3], ambient[:, :3] * cosines + ambient[:, 3:6] * angles.sin()
        return projector(U).numpy(), projector(V).numpy()

    # Along the axes the right angle is exact, and exactly it is missing.
    axes = pair(torch.eye(12, dtype=torch.float64))
    assert stock.dist(*axes) == pytest.approx(math.sqrt(2) * math.hypot(0.3, 0.8), abs=1e-12)
    for P, Q in (axes, pair(haar_subspaces(1, 12, 6, generator)[0])):
        assert ours.dist(P, Q) == pytest.approx(truth, abs=1e-14)
        same(ours.exp(ours.log(Q, P), P), Q, atol=1e-13)


def test_injectivity_radius_is_the_distance_of_the_first_right_angle(ours, points):
    P = points[0]
    radius = ours.metric.injectivity_radius()
    assert radius == pytest.approx(math.pi / math.sqrt(2))
    same(ours.metric.injectivity_radius(P), np.full(len(P), radius), atol=0)
    line = grassmannian(4, 1)
    axes = np.eye(4)
    first, second = np.outer(axes[0], axes[0]), np.outer(axes[1], axes[1])
    assert line.metric.dist(first, second) == pytest.approx(radius, abs=1e-15)


# Estimators of geomstats on the bridge's metric


def test_frechet_mean_recovers_the_centre_of_a_symmetric_cloud(generator):
    centre = haar_subspaces(1, 20, 5, generator)[0]
    cloud = around(centre, 15, 0.4, generator)
    D = grassmann_log(centre, cloud).direction
    symmetric = torch.cat([cloud, grassmann_exp(centre, -D)])
    found = frechet_mean(symmetric)
    assert found.converged
    assert grassmann_distance(found.U, centre) < 1e-6


def test_gradient_norm_is_that_at_the_mean_and_tells_a_mean_from_a_stopped_search(generator):
    centre = haar_subspaces(1, 12, 3, generator)[0]
    U = around(centre, 20, 0.8, generator)
    found, stopped = frechet_mean(U), frechet_mean(U, max_iter=1)
    assert found.converged
    assert found.gradient_norm < 1e-6
    assert not stopped.converged
    assert stopped.gradient_norm > found.gradient_norm

    def cost(mean):
        return grassmann_distance(mean.unsqueeze(-3), U).square().mean(-1) / 2

    # The gradient of the cost is minus the mean logarithm: its length by central differences.
    D = grassmann_log(stopped.U, U).direction.mean(0)
    step = 1e-4 * D / D.norm()
    slope = (cost(grassmann_exp(stopped.U, step)) - cost(grassmann_exp(stopped.U, -step))) / 2e-4
    assert -slope.item() == pytest.approx(stopped.gradient_norm, rel=1e-4)
    around_it = grassmann_exp(found.U, 1e-2 * directions(found.U, 50, generator))
    assert (cost(around_it) > cost(found.U)).all()


def test_frechet_mean_of_one_subspace_is_itself_and_a_weight_of_zero_leaves_one_out(generator):
    U = around(haar_subspaces(1, 10, 3, generator)[0], 4, 0.3, generator)
    alone = frechet_mean(U[:1])
    assert alone.converged
    assert grassmann_distance(alone.U, U[0]) < 1e-14
    three = frechet_mean(U, torch.tensor([2.0, 2.0, 0.0, 2.0]))
    assert grassmann_distance(three.U, frechet_mean(U[[0, 1, 3]]).U) < 1e-6


def test_k_means_recovers_two_planted_clusters(generator):
    centres = haar_subspaces(2, 10, 3, generator)
    U = torch.cat([around(centre, 12, 0.2, generator) for centre in centres])
    points = projector(U).numpy()
    space = grassmannian(10, 3)
    fitted = RiemannianKMeans(space, n_clusters=2, init=points[[0, 12]]).fit(points)
    assert fitted.labels_.tolist() == [0] * 12 + [1] * 12
    found = subspace_basis(torch.from_numpy(fitted.cluster_centers_), 3)
    assert grassmann_distance(found, centres).max() < 0.2


def test_geometric_median_stays_at_the_majority_where_the_mean_is_drawn_to_outliers(generator):
    centre, far = haar_subspaces(2, 8, 2, generator)
    U = torch.cat([around(centre, 12, 1e-3, generator), around(far, 4, 1e-3, generator)])
    fitted = GeometricMedian(grassmannian(8, 2), epsilon=1e-7).fit(projector(U).numpy())
    median = subspace_basis(torch.from_numpy(fitted.estimate_), 2)
    assert grassmann_distance(median, centre) < 1e-2
    assert grassmann_distance(chordal_mean(U).U, centre) > 1e-2


def test_tangent_pca_finds_the_one_geodesic_that_subspaces_lie_on(generator):
    centre = haar_subspaces(1, 9, 2, generator)[0]
    D = directions(centre, 1, generator)[0]
    D = D / D.norm()
    times = torch.linspace(-0.6, 0.6, 11, dtype=torch.float64)
    U = grassmann_exp(centre, times[:, None, None] * D)
    base = projector(frechet_mean(U).U).numpy()
    fitted = TangentPCA(grassmannian(9, 2), n_components=2).fit(projector(U).numpy(), base_point=base)
    assert fitted.explained_variance_ratio_[0] > 1 - 1e-10
    scores = fitted.transform(projector(U).numpy())[:, 0]
    assert abs(np.corrcoef(scores, times.numpy())[0, 1]) > 1 - 1e-10


# Edges


@pytest.mark.parametrize("k", [0, 5, 6])
def test_a_grassmannian_of_one_point_is_refused(k):
    with pytest.raises(ConfigError, match=rf"k must lie in 1 … n − 1 = 4, found {k}: .*single points"):
        grassmannian(5, k)


def test_negative_weights_of_a_mean_are_refused(generator):
    with pytest.raises(ConfigError, match="weights must not be negative, found"):
        frechet_mean(haar_subspaces(2, 5, 2, generator), torch.tensor([2.0, -1.0]))


def test_a_geodesic_and_a_transport_need_to_know_where_to(points, ours):
    P, Q, R = points
    with pytest.raises(ValueError, match="either end_point or initial_tangent_vec"):
        ours.metric.geodesic(P)
    with pytest.raises(ValueError, match="either end_point or initial_tangent_vec"):
        ours.metric.geodesic(P, Q, R)
    with pytest.raises(ValueError, match="direction or end_point"):
        ours.metric.parallel_transport(R, P)


def python(code, **environment):
    """What a fresh interpreter prints, errors included."""
    clean = {name: value for name, value in os.environ.items() if name != "GEOMSTATS_BACKEND"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment
    )
    return run.stdout + run.stderr


def test_another_backend_is_refused_before_geomstats_is_imported():
    code = (
        "import sys\n"
        "try:\n    import iredinterp.geometry.geomstats_bridge\n"
        "except Exception as error:\n    print(type(error).__name__, error, 'geomstats' in sys.modules)"
    )
    said = python(code, GEOMSTATS_BACKEND="pytorch")
    assert said.startswith("ConfigError GEOMSTATS_BACKEND is 'pytorch'")
    assert "unset GEOMSTATS_BACKEND" in said
    assert said.endswith("False\n")


def test_without_geomstats_the_bridge_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "geomstats.geometry.grassmannian", None)
    spec = importlib.util.find_spec("iredinterp.geometry.geomstats_bridge")
    with pytest.raises(ConfigError, match=r"needs the geomstats library: pip install geomstats==2\.8\.0"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_only_the_bridge_imports_geomstats():
    code = (
        "import iredinterp, iredinterp.geometry.subspace, sys; before = 'geomstats' in sys.modules\n"
        "import iredinterp.geometry.geomstats_bridge, torch\n"
        "print(before, 'geomstats' in sys.modules, torch.get_default_dtype())"
    )
    assert python(code) == "False True torch.float32\n"


def test_the_logging_of_the_process_stays_as_it_was():
    code = (
        "import logging; root = logging.getLogger(); root.addHandler(logging.NullHandler())\n"
        "before = root.level, root.handlers.copy()\n"
        "import iredinterp.geometry.geomstats_bridge\n"
        "print((root.level, root.handlers) == before)"
    )
    assert python(code) == "True\n"


def test_geomstats_still_needs_the_name_that_numpy_removed():
    assert not hasattr(np, "trapz") or np.trapz is np.trapezoid
    said = python("import geomstats.backend")
    assert "ImportError: cannot import name 'trapz' from 'numpy'" in said, (
        "this geomstats imports under this NumPy by itself: remove the np.trapz lines of geomstats_bridge.py "
        f"and this test. It said: {said or 'nothing'}"
    )
