"""What a program is made of, read from its trace."""

from collections import Counter

import jax

# What must not be computed in bfloat16: sums of many numbers, exponentials and logarithms, roots.
WIDE = {
    'reduce_sum', 'reduce_window_sum', 'reduce_prod', 'cumsum', 'scatter-add', 'exp', 'exp2', 'expm1', 'log', 'log1p',
    'sqrt', 'rsqrt', 'integer_pow', 'pow', 'square', 'tanh', 'erf',
}  # fmt: skip


def inside(eqn):
    """The programs that an equation calls."""
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            found = getattr(one, 'jaxpr', one)
            if hasattr(found, 'eqns'):
                yield found


def equations(jaxpr):
    """All of them, those of programs that are called too."""
    for eqn in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
        called = list(inside(eqn))
        for one in called:
            yield from equations(one)
        if not called:
            yield eqn


def convolutions(jaxpr):
    return [eqn for eqn in equations(jaxpr) if eqn.primitive.name == 'conv_general_dilated']


def primitives_of(jaxpr, dtype):
    """The names of those that take or give numbers of a type; but for sums over axes of length one."""
    return {
        eqn.primitive.name
        for eqn in equations(jaxpr)
        if any(getattr(v.aval, 'dtype', None) == dtype for v in (*eqn.invars, *eqn.outvars))
        and not (eqn.primitive.name == 'reduce_sum' and eqn.invars[0].aval.size == eqn.outvars[0].aval.size)
    }


def passes(jaxpr, **parts):
    """Counter of the convolutions, by the names of those arguments that they depend on.

    parts: name -> a tree of bools in the form of the arguments.
    """
    leaves = {name: jax.tree.leaves(tree) for name, tree in parts.items()}
    arguments = [frozenset(name for name in parts if leaves[name][i]) for i in range(len(jaxpr.jaxpr.invars))]
    found = Counter()
    _follow(jaxpr.jaxpr, arguments, found)
    return found


def _follow(jaxpr, arguments, found):
    """What the results depend on."""
    on = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return frozenset() if hasattr(atom, 'val') else on.get(atom, frozenset())

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        called = list(inside(eqn))
        if len(called) == 1 and len(called[0].invars) == len(given) and len(called[0].outvars) == len(eqn.outvars):
            out = _follow(called[0], given, found)
        else:
            all_of_them = frozenset().union(*given)
            assert not any(one.primitive.name.startswith('conv_') for c in called for one in equations(c))
            if eqn.primitive.name == 'conv_general_dilated':
                found[all_of_them] += 1
            out = [all_of_them] * len(eqn.outvars)
        on.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
