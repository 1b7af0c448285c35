"""The vector-Jacobian product of one layer, split into a forward and a backward function."""

from collections.abc import Callable

import jax

from teleflm_jax.model.transformer import Block

ForwardLayer = Callable[[Block, jax.Array, tuple], tuple[jax.Array, list[jax.Array]]]
"""(block, input, constants) -> (output, residuals)."""
BackwardLayer = Callable[[Block, list[jax.Array], tuple, jax.Array], tuple[Block, jax.Array]]
"""(block, residuals, constants, gradient of the output) -> (gradient of the block, gradient of the input)."""


def split_vjp(run: Callable[..., jax.Array]) -> tuple[ForwardLayer, BackwardLayer]:
    """Split `jax.vjp` of a layer in two, with a list of residuals in between that holds neither weights nor constants.

    Args:
        run: (block, input, *constants) -> output; differentiated by the first two.

    Returns:
        The forward and the backward function. Trace forward first: it records the structure of the residuals.
    """
    form = {}

    def forward(block: Block, x_BTD: jax.Array, constants: tuple):
        y_BTD, pull = jax.vjp(lambda block, x: run(block, x, *constants), block, x_BTD)
        leaves, form["tree"] = jax.tree.flatten(pull)
        given = [id(leaf) for leaf in jax.tree.leaves((block, constants))]
        kept = {id(leaf): leaf for leaf in leaves if id(leaf) not in given}
        places = {**{key: ("kept", i) for i, key in enumerate(kept)}, **{key: ("given", i) for i, key in enumerate(given)}}
        form["places"] = [places[id(leaf)] for leaf in leaves]
        return y_BTD, list(kept.values())

    def backward(block: Block, residuals: list, constants: tuple, dy_BTD: jax.Array):
        source = {"kept": residuals, "given": jax.tree.leaves((block, constants))}
        pull = jax.tree.unflatten(form["tree"], [source[where][i] for where, i in form["places"]])
        return pull(dy_BTD)

    return forward, backward
