"""Splits a function in two: the part that does not depend on its last argument, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.core import eval_jaxpr
from jax.extend.core import Var

Tree = Any


def split(function: Callable[[Tree, Tree], Tree], given: Tree, last: Tree) -> tuple[Callable, Callable]:
    """Return (first, rest) such that rest(first(given), last) is function(given, last), for arguments of these shapes.

    Everything that does not depend on `last` is in `first`, so that it is computed once for many values of `last`. A
    call of a jitted function inside `function` is not split, and is in `rest` if any of it depends on `last`.

    Args:
      function: a function of two trees.
      given: example of its first argument.
      last: example of its last argument.
    """
    closed, shown = jax.make_jaxpr(function, return_shape=True)(given, last)
    jaxpr, known = closed.jaxpr, len(jax.tree.leaves(given))
    late = set(jaxpr.invars[known:])
    before, after = [], []
    for eqn in jaxpr.eqns:
        waits = not late.isdisjoint(_variables(eqn.invars))
        (after if waits else before).append(eqn)
        late.update(eqn.outvars if waits else ())
    read = [v for eqn in after for v in _variables(eqn.invars)] + _variables(jaxpr.outvars)
    over = [v for v in dict.fromkeys(read) if v not in late and v not in jaxpr.constvars]
    one = jaxpr.replace(invars=jaxpr.invars[:known], outvars=over, eqns=before)
    other = jaxpr.replace(invars=[*over, *jaxpr.invars[known:]], eqns=after)

    def first(given: Tree) -> list[jax.Array]:
        return eval_jaxpr(one, closed.consts, *jax.tree.leaves(given))

    def rest(once: list[jax.Array], last: Tree) -> Tree:
        out = eval_jaxpr(other, closed.consts, *once, *jax.tree.leaves(last))
        return jax.tree.unflatten(jax.tree.structure(shown), out)

    return first, rest


def _variables(atoms: Iterable[Any]) -> list[Var]:
    """Return the variables among atoms, without the literals."""
    return [atom for atom in atoms if isinstance(atom, Var)]
