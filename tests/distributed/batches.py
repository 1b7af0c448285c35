"""One process of several: join them, and print what this process's devices hold of some batches, one JSON line each."""

import hashlib
import json
import os
import sys

import jax
import numpy as np

from sharding import mesh, rules
from teleflm_jax import config
from teleflm_jax.data import loader
from teleflm_jax.distributed import processes
from teleflm_jax.runs.config import SECTIONS, RunConfig

processes.join(processes.find(os.environ))
run = RunConfig(**config.parse([sys.argv[1]], [f"mesh.tensor = {sys.argv[2]}"], SECTIONS))
layout = rules.layout(run.mesh, run.model.d_model)
sizes = {"sequence_length": run.model.context_length, "vocab_size": run.model.vocab_size}
data = loader.open_run(run.data, batch_size=run.train.batch_size, steps=run.train.steps, **sizes)
part, parts = mesh.data_share(layout.mesh)
for step in (0, 7):
    rows = data.batch(step, process=part, num_processes=parts)
    for name, placed in layout.place_batch(rows, run.train.batch_size).items():
        for shard in placed.addressable_shards:
            digest = hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
            print(json.dumps({"step": step, "name": name, "device": shard.device.id, "from": shard.index[0].start or 0, "sha256": digest}))
jax.distributed.shutdown() if jax.process_count() > 1 else None
