"""The search looks at every layout that divides, and proposes only what fits."""

import dataclasses

import pytest

from sharding import rules
from teleflm_jax import config
from teleflm_jax.errors import UserError
from teleflm_jax.plan import search
from teleflm_jax.plan.config import SECTIONS as PLANNING
from teleflm_jax.runs.config import SECTIONS
from teleflm_jax.train import step as train_step


@pytest.fixture(scope="module")
def setting():
    return config.parse(["configs/runs/pretrain_7b.gin", "configs/clusters/h100x64.gin"], [], SECTIONS | PLANNING)


def ranked(setting, gpus=64, **cluster):
    changed = dataclasses.replace(setting["cluster"], **cluster)
    return search.ranked(setting["model"], setting["train"], setting["mesh"], gpus, changed, setting["plan"])


def test_the_fastest_that_fits_comes_first(setting):
    found, count = ranked(setting)
    assert 100 < len(found) < count
    steps = [candidate.times.step for candidate in found]
    assert steps == sorted(steps)
    limit = setting["cluster"].memory_bytes * (1 - setting["plan"].spare)
    assert all(candidate.memory.total + setting["plan"].allowance_bytes <= limit for candidate in found)


def test_every_candidate_uses_all_gpus_and_divides(setting):
    for job in search.jobs(setting["model"], setting["train"], setting["mesh"], 48):
        assert job.devices == 48
        train = dataclasses.replace(setting["train"], microbatch_size=job.microbatch_size)
        train_step.microbatch(job.model, train, rules.without_devices(job.mesh, job.model.d_model))  # raises where not
    meshes = {
        (job.mesh.data, job.mesh.pipe, job.mesh.tensor) for job in search.jobs(setting["model"], setting["train"], setting["mesh"], 64)
    }
    assert {(64, 1, 1), (16, 2, 2), (2, 1, 32), (8, 8, 1), (2, 32, 1)} <= meshes


def test_the_run_s_own_layout_is_among_them(setting):
    own = {"mesh.data": 8, "mesh.pipe": 1, "mesh.tensor": 1, "mesh.interleave": 1, "mesh.sequence_parallel": True, "mesh.zero": 3}
    wanted = own | {"train.microbatch_size": 4, "model.remat": "qkv"}
    assert wanted in [search.bindings(job) for job in search.jobs(setting["model"], setting["train"], setting["mesh"], 8)]


def test_bindings_give_the_layout_back(setting):
    best = ranked(setting)[0][0].job
    texts = [f"{name} = {value!r}" for name, value in search.bindings(best).items()]
    parsed = config.parse(["configs/runs/pretrain_7b.gin"], texts, SECTIONS)
    assert parsed["mesh"] == best.mesh
    assert parsed["model"] == best.model
    assert parsed["train"].microbatch_size == best.microbatch_size


def test_what_is_not_searched_is_kept(setting):
    for change in ({"sequence_parallel": False}, {"zero": 0, "interleave": 16, "pipe": 2}):
        mesh = dataclasses.replace(setting["mesh"], **change)
        train = dataclasses.replace(setting["train"], microbatch_size=64)
        found = list(search.jobs(setting["model"], train, mesh, 16))
        assert {job.mesh.sequence_parallel for job in found} == {mesh.sequence_parallel}
        assert mesh.zero in {job.mesh.zero for job in found}
        assert 64 in {job.microbatch_size for job in found}
        assert mesh.interleave in {job.mesh.interleave for job in found}


def test_less_memory_leaves_fewer_and_slower(setting):
    small, _ = ranked(setting, memory_bytes=30e9)
    large, _ = ranked(setting)
    assert len(small) < len(large)
    assert small[0].times.step >= large[0].times.step
    with pytest.raises(UserError, match=r"the leanest of .* layouts takes .* GB; allowed: .*; change --gpus"):
        ranked(setting, memory_bytes=4e9)


def test_a_count_that_nothing_divides_is_refused(setting):
    with pytest.raises(UserError, match=r"got 13 GPUs for 32 layers"):
        ranked(setting, gpus=13)


def test_remedies_fit_and_change_one_thing(setting):
    model = dataclasses.replace(setting["model"], remat="none")
    job = next(
        job
        for job in search.jobs(model, setting["train"], setting["mesh"], 8)
        if job.mesh.zero == 3 and job.mesh.data == 8 and job.microbatch_size == 16 and job.model.remat == "none"
    )
    assert not search.fits(search.assess(job, setting["cluster"], setting["plan"]).memory, setting["cluster"], setting["plan"])
    found = search.remedies(job, setting["cluster"], setting["plan"])
    assert {"model.remat", "train.microbatch_size"} <= {name for other in found for name in changed(job, other.job)}
    for other in found:
        assert len(changed(job, other.job) - {"mesh.data"}) == 1
        assert search.fits(other.memory, setting["cluster"], setting["plan"], setting["plan"].spare)


def changed(job, other):
    own, others = search.bindings(job), search.bindings(other)
    return {name for name in own if own[name] != others[name]}
