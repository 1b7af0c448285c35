"""Small jobs for tests of the planner."""

from sharding import mesh as device_mesh
from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.plan import compiled
from teleflm_jax.plan.job import Job
from teleflm_jax.train.config import TrainConfig
from tests import tiny

ROWS = 32
CONFIG = tiny.config(num_layers=4, d_model=64, d_ff=128, vocab_size=512, context_length=256)
OPTIMIZER = OptimizerConfig(warmup_steps=5, decay_tokens=1_000_000)


def job(mesh: dict | None = None, *, microbatch_size: int = 2, accumulation_dtype: str = "float32", **model) -> tuple[Job, rules.Layout]:
    """A job of the small model on the eight devices of the tests."""
    config = tiny.config(**(vars(CONFIG) | model))
    layout = rules.layout(MeshConfig(**mesh or {}), config.d_model)
    sizes = device_mesh.resolved(MeshConfig(**mesh or {}), layout.mesh.size)
    return Job(model=config, mesh=sizes, batch_size=ROWS, microbatch_size=microbatch_size, accumulation_dtype=accumulation_dtype), layout


def traced(job: Job, layout: rules.Layout):
    """The training step of a job."""
    train = TrainConfig(steps=1, batch_size=job.batch_size, microbatch_size=job.microbatch_size, accumulation_dtype=job.accumulation_dtype)
    return compiled.trace(job.model, tiny.WIDE, OPTIMIZER, train, layout)
