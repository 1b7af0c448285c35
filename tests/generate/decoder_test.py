import jax
import jax.numpy as jnp
import numpy as np

from sharding import decoding
from teleflm_jax.generate import decoder
from tests import tiny

CONFIG = tiny.config()


def test_a_released_model_is_laid_out_as_one_that_stays_and_each_array_of_it_goes():
    layout = decoding.layout(CONFIG.d_model, CONFIG.num_kv_heads)
    stays, goes = (jax.tree.map(jnp.copy, jax.device_put(tiny.model(CONFIG), layout.replicated())) for _ in range(2))
    wanted, found = decoder.decoder(stays, layout), decoder.decoder(goes, layout, release=True)
    jax.tree.map(np.testing.assert_array_equal, found.model, wanted.model)
    assert all(x.is_deleted() for x in jax.tree.leaves(goes)) and not any(x.is_deleted() for x in jax.tree.leaves(stays))
    of = lambda made: [x.sharding for x in jax.tree.leaves(made.model)]  # noqa: E731
    assert of(found) == of(wanted)
