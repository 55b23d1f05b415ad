"""PuzzleMix: its mathematics against the authors' numbers and against exact solvers, and its two methods."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mixjax import losses
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.maths import puzzle
from mixjax.maths.puzzle import mincut, problem, transport
from mixjax.method import Ctx, Prepared, Run
from tests.support.common import fixture, tiny_net
from tests.support.graph_cut import energy, least_energy, pictures, problems

BLOCKS = (2, 4, 8, 16)


def slowly(*values):
    """A case that only the long run has."""
    return pytest.param(*values, marks=pytest.mark.parity)


SOME = (4, *map(slowly, (2, 8, 16)))
solve = jax.jit(mincut.solve)
plan = jax.jit(transport.plan, static_argnums=2)
masks = jax.jit(puzzle.masks, static_argnames=('blocks', 'settings'))
combined = jax.jit(puzzle.combined, static_argnums=5)


# --- a rule that shares nothing with ours (the solver of `graph_cut` does not, either) ---


def dense_plan(mask, u, eps):
    """The released rule on the whole cost matrix."""
    b, q, _ = mask.shape
    at = np.stack(np.divmod(np.arange(q * q), q), -1)
    cost = eps * (np.square(at[:, None] - at).sum(-1) / (q - 1) ** 2)
    cost = cost - u.reshape(b, -1, 1) * (mask.reshape(b, 1, -1) > 0)
    for _ in range(q):
        claims = np.arange(q * q) == cost.argmin(-1)[..., None]
        wins = claims & (np.arange(q * q)[:, None] == (claims * cost).argmin(-2)[:, None])
        cost = cost + (claims & ~wins)
    return np.where(wins.any(-2), wins.argmax(-2), -1)


# --- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('k', [1, 2, 4])
def test_neighbours_equal_the_released_code(k):
    f = fixture('puzzlemix_transport')
    with jax.enable_x64(True):
        a, b = jnp.asarray(f[f'neigh{k}_a']), jnp.asarray(f[f'neigh{k}_b'])
        np.testing.assert_allclose(problem.step_down(a, b, k), f[f'neigh{k}_x'], rtol=1e-12)
        across = problem.step_down(a.swapaxes(1, 2), b.swapaxes(1, 2), k).swapaxes(1, 2)
        np.testing.assert_allclose(across, f[f'neigh{k}_y'], rtol=1e-12)


def terms_and_costs(f, n, dtype):
    beta, lam, eta, gamma = float(f['beta_arg']) / n / 16, float(f['lam']), float(f['eta']), float(f['gamma'])
    assert beta == f['beta_effective']
    neighbourhood = puzzle.fitting(int(f['neigh_size_arg']), 32 // n)

    @jax.jit
    def both(image, saliency, mean, std):
        image = image * std + mean
        u = problem.normalised(problem.pool(saliency, 32 // n))
        terms = problem.terms(
            image, image[f['perm']], u, u[f['perm']], neighbourhood=neighbourhood, beta=beta, gamma=gamma
        )
        return terms, problem.costs(terms, lam, beta=beta, eta=eta)

    image = (f['images_u8'] / 255 - f['mean']) / f['std']
    return both(*(jnp.asarray(x, dtype) for x in (image, f['saliency'], f['mean'], f['std'])))


TERMS = ('unary_self', 'unary_partner', 'pairwise_x', 'pairwise_y')
COSTS = ('cut_unary_cost', 'cut_weight_x', 'cut_weight_y')


@pytest.mark.parametrize('n', SOME)
def test_terms_and_costs_equal_the_released_code(n):
    f = fixture(f'puzzlemix_block{n}')
    with jax.enable_x64(True):
        terms, costs = terms_and_costs(f, n, jnp.float64)
        for name, value in zip(TERMS, terms, strict=True):
            np.testing.assert_allclose(value, f[name], rtol=0, atol=1e-12)
        for name, value in zip(COSTS, costs, strict=True):
            assert value.dtype == jnp.int32
            np.testing.assert_array_equal(value, f[name])
    terms, costs = terms_and_costs(f, n, jnp.float32)
    for name, value in zip(TERMS, terms, strict=True):
        np.testing.assert_allclose(value, f[name], rtol=0, atol=1e-6)
    # Rounding towards zero can fall on either side of a whole number.
    off = np.concatenate([np.ravel(np.abs(np.asarray(v) - f[name])) for name, v in zip(COSTS, costs, strict=True)])
    assert off.max() <= 1 and off.mean() < 0.01


@pytest.mark.parametrize('n', BLOCKS)
def test_labels_are_optimal_on_the_authors_problems(n):
    f = fixture(f'puzzlemix_block{n}')
    costs = mincut.Costs(*(jnp.asarray(f[name]) for name in COSTS))
    found = energy(costs, solve(costs)) / 4
    np.testing.assert_array_equal(found, f['exact_energy'])
    assert (found <= f['gco_energy']).all()


@pytest.mark.parametrize('n', (2, 4, 8))
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_plans_equal_the_released_code(n, dtype):
    f = fixture('puzzlemix_transport')
    with jax.enable_x64(True):
        source = plan(jnp.asarray(f[f'n{n}_mask'], dtype), jnp.asarray(f[f'n{n}_saliency'], dtype), float(f['t_eps']))
        assert source.dtype == jnp.int32
        np.testing.assert_array_equal(source[:, None] == np.arange(n * n)[:, None], f[f'n{n}_plan'])
        image = transport.moved(jnp.asarray(f[f'n{n}_image'], dtype), source)
        np.testing.assert_allclose(image, f[f'n{n}_transported'], atol=1e-12 if dtype == 'float64' else 1e-6)


def test_a_permutation_moves_every_block():
    f = fixture('puzzlemix_transport')
    source = jnp.asarray(f['permplan'].argmax(1))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(transport.moved(jnp.asarray(f['permplan_image']), source), f['permplan_out'])


@pytest.mark.parametrize('n', SOME)
@pytest.mark.parametrize('dtype', ['float64', slowly('float32')])
def test_masks_and_mixed_images_equal_the_released_code(n, dtype):
    f = fixture(f'puzzlemix_block{n}')
    perm, tolerance = f['perm'], 1e-12 if dtype == 'float64' else 1e-6
    settings = puzzle.Settings(transport_size=int(f['t_size_arg']), transport_eps=float(f['t_eps']))
    with jax.enable_x64(True):
        for part in ('self', 'partner'):
            mask, u = (jnp.asarray(f[f'transport_{name}_{part}'], dtype) for name in ('mask', 'saliency'))
            source = np.asarray(plan(mask, u, settings.transport_eps))
            dest = f[f'transport_dest_{part}']
            for b, i in np.ndindex(dest.shape):
                assert [dest[b, i]] == (list(np.flatnonzero(source[b] == i)) or [-1])

        image = jnp.asarray((f['images_u8'] / 255 - f['mean']) / f['std'], dtype)
        u, mask = jnp.asarray(f['saliency'], dtype), jnp.asarray(f['gco_mask'], dtype)
        for name in ('transport', 'plain'):
            mixed, weight = combined(
                image, image[perm], u, u[perm], mask, settings._replace(transport=name == 'transport')
            )
            assert mixed.dtype == dtype
            np.testing.assert_allclose(weight, f[f'ratio_{name}'], rtol=0, atol=1e-7)
            if name == 'transport':
                np.testing.assert_allclose(mixed, f['mixed_transport'], rtol=0, atol=tolerance)
            else:
                np.testing.assert_allclose(mixed.mean(2), f['mixed_plain_column_mean'], rtol=0, atol=tolerance)

        # From pixels to masks, in one go. At 8 and 16 blocks the released labels are not all optimal.
        colours = jnp.asarray(f['images_u8'] / 255, dtype)
        found = masks(colours, colours[perm], u, u[perm], jnp.asarray(f['lam'], dtype), blocks=n)
        costs = mincut.Costs(*(f[name] for name in COSTS))
        labels = (2 - 2 * np.asarray(found)).astype(int)
        # float32 poses a problem whose costs are off by 1 here and there.
        slack = 0 if dtype == 'float64' else 1e-5 * f['exact_energy']
        assert (energy(costs, labels) / 4 - f['exact_energy'] <= slack).all()
        if n <= 4:
            np.testing.assert_array_equal(found, f['gco_mask'])


# --- the labelling problem --------------------------------------------------------------------------------------------


def test_the_oracle_is_right():
    """The minimum cut against all 81 labellings."""
    rng = np.random.default_rng(0)
    costs = mincut.Costs(*(rng.integers(0, 100, (20, *shape)) for shape in ((2, 2, 3), (1, 2), (2, 1))))
    every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    least = np.min([energy(costs, np.broadcast_to(labels, (20, 2, 2))) for labels in every], 0)
    np.testing.assert_array_equal(least_energy(costs), least)
    found = solve(jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), costs))
    np.testing.assert_array_equal(energy(costs, found), least)


@pytest.mark.parametrize('n', [slowly(4), slowly(8), 16])
def test_labels_are_optimal_on_random_problems(n):
    costs = problems(30, n, seed=n)
    found = np.asarray(solve(costs))
    assert set(np.unique(found)) == {0, 1, 2}
    np.testing.assert_array_equal(energy(costs, found), least_energy(costs))
    constant = [energy(costs, np.full_like(found, label)) for label in range(3)]
    assert (energy(costs, found) <= np.min(constant, 0)).all()


@pytest.mark.parity
@pytest.mark.parametrize('n', [4, 8, 16])
@pytest.mark.parametrize('lam', [None, 0.0, 0.5, 1.0])
def test_labels_are_optimal_on_many_random_problems(n, lam):
    costs = problems(200, n, seed=100 + n, lam=lam)
    np.testing.assert_array_equal(energy(costs, solve(costs)), least_energy(costs))


@pytest.mark.parametrize('n', [8, 16])
@pytest.mark.parametrize(('top', 'weight'), [(1000, 10), (1000, 300), (1000, 1000), (256_000, 20_000), (10, 5), (2, 2)])
def test_labels_are_optimal_on_noise(n, top, weight):
    rng = np.random.default_rng(n)
    shapes, limits = ((40, n, n, 3), (40, n - 1, n), (40, n, n - 1)), (top, weight, weight)
    costs = mincut.Costs(*(rng.integers(0, t, s).astype(np.int32) for t, s in zip(limits, shapes, strict=True)))
    np.testing.assert_array_equal(energy(costs, solve(costs)), least_energy(costs))


@pytest.mark.parity
def test_message_passing_proves_what_dynamic_programming_finds():
    costs = jax.tree.map(jnp.asarray, problems(20, 8, seed=1))
    labels, gap = jax.jit(mincut.sweeps)(costs)
    assert gap.max() < mincut.PROVEN
    exact = jax.jit(mincut.exact)(costs)
    np.testing.assert_array_equal(energy(costs, labels), energy(costs, exact))


@pytest.mark.parity
def test_an_unproven_problem_of_eight_blocks_is_still_solved_exactly(monkeypatch):
    monkeypatch.setattr(mincut, 'MOST_SWEEPS', 1)
    monkeypatch.setattr(mincut, 'CHECK_EVERY', 1)
    costs = problems(20, 8, seed=2)
    # New functions, which have no trace of before the change.
    labels, gap = jax.jit(lambda costs: mincut.sweeps(costs))(costs)
    least = least_energy(costs)
    excess = energy(costs, labels) - least
    # The gap bounds the excess, and one sweep proves little.
    assert (excess <= np.asarray(gap) + mincut.PROVEN).all() and gap.max() > mincut.PROVEN and excess.max() > 0
    np.testing.assert_array_equal(energy(costs, jax.jit(lambda costs: mincut.solve(costs))(costs)), least)


@pytest.mark.parametrize('n', [2, 4, 8, 16])
def test_ties_are_solved(n):
    unary, edge = np.full((2, n, n, 3), 500, np.int32), np.full((2, n - 1, n), 1200, np.int32)
    costs = mincut.Costs(unary, edge, edge.swapaxes(1, 2))
    np.testing.assert_array_equal(energy(costs, solve(costs)), 4 * 500 * n * n)


def test_skewing_puts_diagonals_in_rows():
    x = jnp.arange(2 * 9.0).reshape(3, 3, 2)
    skewed = mincut.skewed(x)
    assert skewed.shape == (5, 3, 2)
    for i, j in np.ndindex(5, 3):
        expected = x[i - j, j] if 0 <= i - j < 3 else jnp.zeros(2)
        np.testing.assert_array_equal(skewed[i, j], expected)
    np.testing.assert_array_equal(mincut.straight(skewed), x)


@pytest.mark.parametrize('n', [slowly(8), 16])
def test_one_block_may_hold_all_saliency(n):
    """The released code wraps around here: int32 costs, times 100000 in int32."""
    image = jnp.full((2, 32, 32, 3), 0.5)
    size = 32 // n
    u_self = jnp.zeros((2, 32, 32)).at[:, :size, :size].set(1)
    u_partner = jnp.zeros((2, 32, 32)).at[:, -size:, -size:].set(1)
    mask = masks(image, image, u_self, u_partner, jnp.asarray(0.5), blocks=n)
    assert (mask[:, 0, 0] == 1).all() and (mask[:, -1, -1] == 0).all()
    unary = problem.Terms(*(problem.pool(u, size) for u in (u_self, u_partner)), jnp.zeros(()), jnp.zeros(()))
    # All that self has, lost; ten times what wraps around there.
    assert int(problem.costs(unary, 0.5, beta=0.0, eta=0.0).unary[0, 0, 0, 2]) == 1000 * n * n


def test_the_images_may_change_roles():
    image, u = pictures(8, 32, seed=3)
    settings = dict(blocks=8)
    one = masks(image[:4], image[4:], u[:4], u[4:], jnp.asarray(0.3), **settings)
    other = masks(image[4:], image[:4], u[4:], u[:4], jnp.asarray(0.7), **settings)
    np.testing.assert_array_equal(one, 1 - other)
    turned = masks(*(x.swapaxes(1, 2) for x in (image[:4], image[4:], u[:4], u[4:])), jnp.asarray(0.3), **settings)
    np.testing.assert_array_equal(one, turned.swapaxes(1, 2))


@pytest.mark.parametrize('u', [0.0, 1.0])
def test_lam_at_its_ends_shows_one_image(u):
    """Where no pixel matters more than another; also where none matters at all."""
    image, _ = pictures(8, 16, seed=4)
    flat = jnp.full((4, 16, 16), u)
    for lam, expected in ((1.0, image[:4]), (0.0, image[4:])):
        mask = masks(image[:4], image[4:], flat, flat, jnp.asarray(lam), blocks=4)
        mixed, weight = combined(image[:4], image[4:], flat, flat, mask, puzzle.RELEASED)
        np.testing.assert_array_equal(weight, lam)
        np.testing.assert_array_equal(mixed, expected)


def test_labels_follow_lam():
    image, u = pictures(16, 32, seed=5)
    shares = [masks(image[:8], image[8:], u[:8], u[8:], jnp.asarray(lam), blocks=4).mean() for lam in (0.1, 0.5, 0.9)]
    assert shares[0] < shares[1] < shares[2]


# --- transport --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('q', [2, slowly(3), 4, slowly(8), slowly(16)])
def test_plans_equal_the_dense_rule(q):
    rng = np.random.default_rng(q)
    count = 40 if q < 16 else 4
    with jax.enable_x64(True):
        for eps, kind in itertools.product((0.0, 0.8, 3.0), range(4)):
            mask = rng.choice([0, 0.5, 1], size=(count, q, q), p=(0.5, 0.2, 0.3) if kind % 2 else (0.9, 0.05, 0.05))
            u = rng.exponential(size=(count, q, q))
            # Also many equal saliencies, and none at all: then the first index decides.
            u = (u / u.sum((1, 2), keepdims=True), np.round(2 * u), 0 * u, np.round(u) * (u > 1))[kind]
            np.testing.assert_array_equal(plan(jnp.asarray(mask), jnp.asarray(u), eps), dense_plan(mask, u, eps))


def test_a_salient_block_moves_into_the_mask():
    mask = jnp.zeros((1, 2, 2)).at[0, 0, 1].set(1)
    u = jnp.zeros((1, 2, 2)).at[0, 0, 0].set(1)
    # Block 0 wants place 1 and gets it; block 1 claims it as well, at cost 0, and gives way.
    assert plan(mask, u, 0.8).tolist() == [[-1, 0, -1, -1]]
    image = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    assert transport.moved(image, plan(mask, u, 0.8)).ravel().tolist() == [0, 1, 0, 0]


def test_first_bits():
    bits = np.random.default_rng(0).uniform(size=(50, 75)) < 0.1
    found = transport.first_bits(jnp.asarray(bits), 10)
    for line, at in zip(bits, found, strict=True):
        expected = np.flatnonzero(line)[:10]
        assert at.tolist() == [*expected, *[75] * (10 - len(expected))]


# --- the whole of it --------------------------------------------------------------------------------------------------

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def batch(count, side, seed, groups=1):
    image, u = pictures(count, side, seed)
    rng = np.random.default_rng(seed)
    partner = np.stack([rng.permutation(count // groups) for _ in range(groups)])
    return (image - np.float32(MEAN)) / np.float32(STD), u, partner


def mixed(rng, image, u, partner):
    return puzzle.mix(rng, image, u, partner, 0.4, mean=MEAN, std=STD)


@pytest.mark.parity
def test_mix_draws_the_number_of_blocks():
    image, u, partner = batch(6, 4, seed=6, groups=2)
    order = np.concatenate([partner[0], 3 + partner[1]])
    go, seen = jax.jit(mixed), set()
    colours = image * np.float32(STD) + np.float32(MEAN)
    for seed in range(5):
        image_mix, weight = go(jax.random.key(seed), image, u, partner)
        expected = {}
        for n in (2, 4):
            mask = masks(colours, colours[order], u, u[order], jnp.asarray(0.4), blocks=n)
            expected[n] = combined(image, image[order], u, u[order], mask, puzzle.RELEASED)
        hit = [n for n, (x, w) in expected.items() if np.allclose(x, image_mix, atol=1e-6) and np.allclose(w, weight)]
        assert hit
        seen.update(hit)
    assert seen == {2, 4}


def devices_agree(side, seeds):
    """One device, eight by sharding, and eight by `shard_map` give the same; sharded rows stay where they are."""
    image, u, partner = batch(16, side, seed=7, groups=8)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec('data'))
    one = jax.jit(mixed)
    sharded = jax.jit(mixed, in_shardings=(whole, parts, parts, parts), out_shardings=parts)
    spec = PartitionSpec('data')
    mapped = jax.jit(jax.shard_map(mixed, mesh=mesh, in_specs=(PartitionSpec(), spec, spec, spec), out_specs=spec))
    for seed in seeds:
        expected = one(jax.random.key(seed), image, u, partner)
        for other in (sharded, mapped):
            found = other(jax.random.key(seed), image, u, partner)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    text = sharded.lower(jax.random.key(0), image, u, partner).compile().as_text()
    assert not [word for word in ('all-gather', 'all-to-all', 'collective-permute') if word in text]


@pytest.mark.parity
def test_one_device_and_eight_agree():
    devices_agree(4, range(3))


@pytest.mark.parity
def test_one_device_and_eight_agree_at_every_number_of_blocks():
    devices_agree(16, range(8))


@pytest.mark.parametrize(('side', 'size', 'moved'), [(32, 0, 4), (16, 0, 2), (32, 4, 4), (32, -1, 8), (24, 0, 3)])
def test_transport_size(side, size, moved, monkeypatch):
    seen = []
    monkeypatch.setattr(
        transport,
        'plan',
        lambda mask, u, eps: seen.append(mask.shape[1]) or jnp.zeros(mask.size, int).reshape(len(mask), -1),
    )
    image, u = jnp.zeros((2, side, side, 1)), jnp.ones((2, side, side))
    puzzle.combined(image, image, u, u, jnp.ones((2, 4, 4)), puzzle.Settings(transport_size=size))
    assert seen == [side // moved] * 2


def test_impossible_images_are_refused():
    for shape in ((2, 4, 8, 1), (2, 3, 3, 1)):
        with pytest.raises(UserError, match='square and even'):
            puzzle.mix(
                jax.random.key(0),
                jnp.zeros(shape),
                jnp.zeros(shape[:3]),
                jnp.arange(2)[None],
                0.5,
                mean=(0.5,),
                std=(1.0,),
            )
    image = jnp.zeros((1, 64, 64, 1))
    with pytest.raises(UserError, match='transport_size must be'):
        combined(image, image, image[..., 0], image[..., 0], jnp.ones((1, 2, 2)), puzzle.Settings(transport_size=1))


# --- the methods ------------------------------------------------------------------------------------------------------


def task(name, step=1, dtype=jnp.float32, **knobs):
    """A method on a tiny network and 2x2 images, which have one number of blocks: (method, net, parameters, ctx)."""
    built, net = method_registry.load(name)(10, **knobs), tiny_net()
    image, _, partner = batch(6, 2, seed=8)
    heads = {n: h.width for n, h in built.heads(10, 0, Prepared()).items()}
    variables = jax.tree.map(
        lambda x: x.astype(dtype), jax.jit(lambda: net.init(jax.random.key(0), jnp.asarray(image), heads))()
    )
    params, model_state = variables['params'], {'batch_stats': variables['batch_stats']}
    data = {'image': jnp.asarray(image, dtype), 'label': jnp.arange(6), 'partner': jnp.asarray(partner)}
    ctx = Ctx(model_state, (), (), data, jax.random.key(1), jnp.asarray(step), Run(10, 1.0, MEAN, STD))
    return built, net, params, ctx


def outcome(built, net, params, ctx):
    """(loss, aux, the image that the network learns from, gradient by the parameters)."""

    def loss(params):
        seen = []

        def apply(variables, image, *, train, **rest):
            seen.append(image)
            return net.apply(variables, image, train=train, **rest)

        value, aux = built.loss(net._replace(apply=apply), params, ctx)
        return value, (aux, seen[-1])

    (value, (aux, image)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(slope))
    return value, aux, image, slope


def puzzled(u, lam, rng, ctx, settings=puzzle.RELEASED):
    image, partner = ctx.batch['image'], ctx.batch['partner']
    return puzzle.mix(rng, image, u, partner, lam, mean=MEAN, std=STD, settings=settings)


def clean_ce(net, params, image, ctx, train):
    out, model_state = net.apply(ctx.variables(params), image, train=train)
    return losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean(), model_state


def saliency(net, params, ctx, train=False):
    gradient = jax.grad(lambda image: clean_ce(net, params, image, ctx, train)[0])(ctx.batch['image'])
    return jnp.sqrt(jnp.square(gradient).mean(-1))


@pytest.mark.parametrize(
    'knobs',
    [{}, slowly({'clean': 0.5, 'loss': 'ce'}), slowly({'loss': 'ce', 'transport': False})],
    ids=['released', 'clean', 'plain'],
)
def test_puzzlemix_by_hand(knobs):
    built, net, params, ctx = task('puzzlemix', **knobs)
    value, aux, image, slope = outcome(built, net, params, ctx)
    label, clean = ctx.batch['label'], knobs.get('clean', 0)
    settings = puzzle.Settings(transport=knobs.get('transport', True))
    objective = losses.soft_cross_entropy if knobs else losses.binary_cross_entropy

    @jax.jit
    def by_hand(params):
        for_lam, for_blocks = jax.random.split(ctx.rng)
        lam = jax.random.uniform(for_lam)
        # With `clean` the saliency is of the network in train mode.
        image_mix, weight = puzzled(saliency(net, params, ctx, bool(clean)), lam, for_blocks, ctx, settings)

        def total(params):
            first, model_state = 0.0, ctx.model_state
            if clean:
                first, model_state = clean_ce(net, params, ctx.batch['image'], ctx, True)
            # Both passes move the running statistics, one after the other.
            out, model_state = net.apply({'params': params, **model_state}, image_mix, train=True)
            y = losses.one_hot(label, 10)
            target = weight[:, None] * y + (1 - weight[:, None]) * y[ctx.batch['partner'][0]]
            return objective(out.logits['target'], target).mean() + 2 * clean / 10 * first, model_state

        # No gradient runs through the saliency and the mask: they are constants here.
        return jax.value_and_grad(total, has_aux=True)(params), image_mix, lam, weight.mean()

    ((expected, model_state), slope_by_hand), image_mix, lam, weight = by_hand(params)
    np.testing.assert_allclose(image, image_mix, atol=1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose([aux.metrics['lam'], aux.metrics['weight']], [lam, weight], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slope, slope_by_hand)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), aux.model_state, model_state)


def test_the_saliency_costs_a_forward_and_an_input_gradient():
    """Of 2 convolutions: 2 forward and 2 by the input; besides 2 forward, 1 by the input, 2 by the parameters."""
    _, net, params, ctx = task('puzzlemix')

    def convolutions(name):
        built = method_registry.load(name)(10)
        text = jax.jit(jax.grad(lambda params: built.loss(net, params, ctx)[0])).lower(params).as_text()
        return text.count('stablehlo.convolution')

    assert convolutions('finetune') == 2 + 1 + 2
    assert convolutions('puzzlemix') == 2 + 1 + 2 + 2 + 2


PUZZLES = [('puzzlemix', {}), ('lamix', {'mixing': 'puzzle'})]


@pytest.mark.parity
@pytest.mark.parametrize(('name', 'knobs'), PUZZLES)
def test_a_network_that_ignores_its_input_has_finite_gradients(name, knobs):
    """Then the saliency is 0 everywhere."""
    built, net, params, ctx = task(name, **knobs)
    value, *_ = outcome(built, net, jax.tree.map(jnp.zeros_like, params), ctx)
    assert np.isfinite(value)


@pytest.mark.parity
@pytest.mark.parametrize(('name', 'knobs'), PUZZLES)
def test_methods_run_in_float64(name, knobs):
    with jax.enable_x64(True):
        value, _, image, slope = outcome(*task(name, dtype=jnp.float64, **knobs))
        assert {x.dtype for x in (value, image, *jax.tree.leaves(slope))} == {jnp.dtype('float64')}


@pytest.mark.parametrize(
    'local_label',
    ['mask', slowly('lambda'), slowly('mean')],
)
def test_lamix_shows_puzzles_on_odd_steps(local_label):
    for step in (0, 1):
        built, net, params, ctx = task('lamix', step, mixing='puzzle', local_label=local_label, beta=1.0)
        value, aux, image, _ = outcome(built, net, params, ctx)
        expected, weight, label = ctx.batch['image'], jnp.ones(6), ctx.batch['label']
        if step:
            rng = jax.random.fold_in(ctx.rng, 1)
            expected, weight = jax.jit(lambda p: puzzled(saliency(net, p, ctx), 0.5, rng, ctx))(params)  # noqa: B023
            drawn = {'lambda': jax.random.uniform(ctx.rng), 'mean': 0.5, 'mask': weight}[local_label]
            weight = jnp.broadcast_to(drawn, (6,))
        np.testing.assert_allclose(image, expected, atol=1e-5)
        out, _ = jax.jit(lambda p, x: net.apply(ctx.variables(p), x, train=True))(params, expected)  # noqa: B023
        loss = losses.mixed_cross_entropy(out.logits['target'], label, label[ctx.batch['partner'][0]], weight)
        np.testing.assert_allclose(value, loss.mean(), rtol=1e-5)
        np.testing.assert_allclose(aux.metrics['lam'], weight.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ('name', 'knobs'),
    [
        ('puzzlemix', {'alpha': 0.0}),
        ('puzzlemix', {'loss': 'mse'}),
        ('puzzlemix', {'clean': -1.0}),
        ('puzzlemix', {'beta': -1.0}),
        ('puzzlemix', {'gamma': 1.5}),
        ('puzzlemix', {'eta': -0.1}),
        ('puzzlemix', {'neighbourhood': 0}),
        ('puzzlemix', {'transport_size': -2}),
        ('puzzlemix', {'transport_eps': -1.0}),
        ('lamix', {'mixing': 'cutmix'}),
        ('lamix', {'local_label': 'mask'}),
    ],
)
def test_impossible_values_are_refused(name, knobs):
    with pytest.raises(UserError, match='must be'):
        method_registry.load(name)(10, **knobs)
