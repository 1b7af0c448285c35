"""Forward and backward passes over the mesh: from a batch to its loss and gradients, or to the loss of every token.

One program runs on every mesh: weights are gathered as ZeRO asks (`sharding/zero.py`), microbatches go through the pipeline's schedule
(`sharding/pipeline.py`; without a pipeline it is plain gradient accumulation), and each unit of the schedule runs `Transformer.forward`.
The backward pass is written by hand: the `jax.vjp` of one layer at a time, whose residuals without the weights are stored for each unit,
and whose gradients are added in place to accumulators. Differentiating the schedule instead would accumulate in the compute dtype, keep
every microbatch and send gradients at every tick.

D and V may be this device's shard of the width or of the vocabulary here.
"""

from teleflm_jax.passes.scoring import health, token_losses
from teleflm_jax.passes.stage import Batch
from teleflm_jax.passes.training import gradients

__all__ = ["Batch", "gradients", "health", "token_losses"]
