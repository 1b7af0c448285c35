"""Pack domains of documents into ArrayRecord shards with a manifest, over several processes, so that it may be stopped at any instant.

A domain is built in PACKED/.DOMAIN.partial and takes its name when it is finished: PACKED/DOMAIN is whole or not there, and a finished
one stays until its successor is. Four steps, each of small tasks whose result is a file: scan every unit (count, and refuse bad input
before hours of work), read the held-out families, pack every unit, write the held-out set and the manifest. Started again, tasks whose
file is there are not done again. What is written depends on documents, tokenizer and settings alone, neither on the number of processes
nor on interruptions.
"""

import collections
import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from teleflm_jax.documents import files, work_units
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout, records, shards, workers
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load, specials

VERSION = 1
READING = 2
"""Raised when other documents are read from the same files."""
FINGERPRINTED = ("heldout_fraction", "heldout_max_bytes", "unit_bytes", "seed")
"""The settings that the bytes depend on."""
Progress = Callable[[str, int, int], None]
"""Called several times a second with the step, bytes done and bytes in all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One domain on its way from documents to a manifest."""

    domain: str
    units: list[work_units.Unit]
    packed: pathlib.Path
    tokenizer: str
    fingerprint: dict
    config: PackConfig

    @property
    def final(self) -> pathlib.Path:
        """Where the finished data set stands."""
        return self.packed / self.domain

    @property
    def partial(self) -> pathlib.Path:
        """Where it is built."""
        return self.packed / f".{self.domain}.partial"

    @property
    def former(self) -> pathlib.Path:
        """Where the data set that is being replaced stands for an instant."""
        return self.packed / f".{self.domain}.former"

    def state(self, name: str) -> str:
        """Path of a step's result."""
        return str(self.partial / "state" / name)


def pack(
    *,
    sources: dict[str, str],
    packed: str,
    tokenizer: str,
    sequence_length: int,
    vocab_size: int,
    config: PackConfig,
    force: bool = False,
    say: Callable[[str], None] = print,
    progress: Progress = lambda step, done, total: None,
) -> None:
    """Pack every domain of `sources` that is not yet packed.

    Args:
        sources: domain -> folder or file of documents.
        packed: folder of the packed data sets.
        tokenizer: path of tokenizer.json.
        sequence_length: tokens of one training sequence.
        vocab_size: rows of the model's embedding; the tokenizer may not have more.
        config: settings.
        force: start the domains afresh, whatever stands there.
        say: takes one line for the user.
        progress: shows how far the work is.

    Raises:
        UserError: no or too many malformed documents, inputs that differ from those of what stands there, a place that cannot be written.
    """
    loaded = load.load(tokenizer)
    size, wrap = loaded.get_vocab_size(), specials.of(loaded)
    if wrap.bos == wrap.eos:
        raise UserError(
            f"got the tokenizer {tokenizer}, in which the id {wrap.bos} both begins and ends a text; allowed: two ids, since the end is "
            "learnt and the beginning is not; change data.tokenizer"
        )
    if size > vocab_size:
        raise UserError(
            f"got a tokenizer of {size:,} ids ({tokenizer}) for model.vocab_size={vocab_size:,}; allowed: at most as many; change "
            "model.vocab_size or data.tokenizer"
        )
    base = {"version": VERSION, "sequence_length": sequence_length, "vocab_size": size, "tokenizer_sha256": load.sha256(tokenizer)}
    base |= {"reading": READING} | {f"pack.{name}": getattr(config, name) for name in FINGERPRINTED}
    with contextlib.ExitStack() as stack, _writing(packed):
        jobs = []
        for domain, source in sources.items():
            column, setting = config.text_columns.get(domain, work_units.TEXT), f"data.sources[{domain!r}]"
            work = work_units.units(source, config.unit_bytes, setting, column)
            work_units.refuse_unknown(work, config.max_malformed_fraction, setting)
            fingerprint = base | {"text column": column, "source files": work_units.identity(work)}
            job = Job(domain=domain, units=work, packed=pathlib.Path(packed), tokenizer=tokenizer, fingerprint=fingerprint, config=config)
            if not force and _stands(job):
                say(f"{domain}: already packed")
                continue
            stack.enter_context(_locked(job))
            if _prepare(job, force=force):
                jobs.append(job)
            else:
                say(f"{domain}: already packed")
        if jobs:
            _pack_all(jobs, sequence_length, stack.enter_context(workers.start(config.processes)), say, progress)


def _pack_all(jobs: list[Job], sequence_length: int, pool: workers.Pool, say: Callable[[str], None], progress: Progress) -> None:
    tasks = []
    for job in jobs:
        work = functools.partial(_scan, seed=job.config.seed, fraction=job.config.heldout_fraction)
        paths = [job.state(f"scan-{i:06d}.json") for i in range(len(job.units))]
        tasks += [(unit.num_bytes, path, work, (unit, path)) for unit, path in zip(job.units, paths, strict=True)]
    workers.run(pool, tasks, functools.partial(progress, "scan"))
    scans = {job.domain: [shards.read_json(job.state(f"scan-{i:06d}.json")) for i in range(len(job.units))] for job in jobs}
    for job in jobs:
        _refuse_bad(job, scans[job.domain])
    for job in jobs:
        _hold_out(job, scans[job.domain], pool, functools.partial(progress, "held-out"))
    tasks = []
    for job in jobs:
        sizes = [one["bytes"] for one in scans[job.domain]]
        _progress_file(job)
        arguments = {"folder": str(job.partial), "tokenizer": job.tokenizer, "sequence_length": sequence_length, "seed": job.config.seed}
        work = functools.partial(shards.pack_unit, **arguments)
        tasks += [(sizes[i], job.state(f"unit-{i:06d}.json"), work, (unit, i)) for i, unit in enumerate(job.units)]
    counters = [np.memmap(job.state("progress"), np.int64, "r") for job in jobs]
    workers.run(pool, tasks, functools.partial(progress, "pack"), lambda: sum(int(counter.sum()) for counter in counters))
    for job in jobs:
        say(_finish(job, scans[job.domain]))


def _scan(unit: work_units.Unit, path: str, *, seed: int, fraction: float) -> None:
    shards.write_json(path, heldout.scan(unit, seed=seed, fraction=fraction))


def _collect(unit: work_units.Unit, path: str, *, keys: frozenset[int], seed: int) -> None:
    shards.write_json(path, {"texts": heldout.collect(unit, keys, seed=seed)})


def _stands(job: Job) -> bool:
    """Tell if the domain is packed from these inputs and nothing is left over; finished data may be read-only, so this writes nothing."""
    manifest = job.final / "manifest.json"
    leftover = job.partial.exists() or job.former.exists()
    return not leftover and manifest.exists() and shards.read_json(str(manifest)).get("fingerprint") == job.fingerprint


def _prepare(job: Job, *, force: bool) -> bool:
    """Make the folder to build in, or take up the one that stands there; False if the domain is packed already."""
    if job.former.exists():
        if job.final.exists():
            shutil.rmtree(job.former)
        else:
            job.former.rename(job.final)
    if force:
        _empty(job.partial)
    elif (job.partial / "manifest.json").exists():
        _refuse_changed(job, shards.read_json(str(job.partial / "manifest.json")).get("fingerprint", {}), "unfinished data set")
        _publish(job)
        return False
    elif job.final.exists():
        manifest = job.final / "manifest.json"
        if not manifest.exists():
            raise UserError(f"got {job.final} without a manifest.json; allowed: a finished data set or no folder; remove it or add --force")
        _refuse_changed(job, shards.read_json(str(manifest)).get("fingerprint", {}), "packed data set")
        _empty(job.partial)
        return False
    begun = job.partial / "state" / "fingerprint.json"
    if begun.exists():
        _refuse_changed(job, shards.read_json(str(begun)), "unfinished data set")
        for leftover in [*job.partial.glob("*.tmp"), *begun.parent.glob("*.tmp")]:
            leftover.unlink()
    else:
        _empty(job.partial)
        begun.parent.mkdir()
        shards.write_json(str(begun), job.fingerprint)
    return True


def _refuse_changed(job: Job, former: dict, what: str) -> None:
    changed = [f"{name} {former.get(name)} -> {value}" for name, value in job.fingerprint.items() if former.get(name) != value]
    if changed:
        raise UserError(
            f"got other inputs than those of the {what} {job.final} ({'; '.join(changed)}); allowed: the same; "
            f"undo the change, or add --force to pack {job.domain} afresh"
        )


def _refuse_bad(job: Job, scans: list[dict]) -> None:
    count = sum(one["documents"] for one in scans)
    malformed = _total(scans, "malformed")
    sizes = _total(scans, "malformed_bytes")
    bad, bad_bytes = (sum(number for reason, number in one.items() if reason not in files.SKIPPED) for one in (malformed, sizes))
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in malformed.items())
    num_bytes = sum(one["bytes"] for one in scans) + bad_bytes
    share = max(bad / max(1, count + bad), bad_bytes / max(1, num_bytes))
    first = next((one["first_malformed"] for one in scans if one["first_malformed"]), "")
    if share <= job.config.max_malformed_fraction and count:
        return
    _empty(job.partial)  # the inputs will change: what was counted must not stand in their way
    if share > job.config.max_malformed_fraction:
        raise UserError(
            f"got {bad:,} malformed of {count + bad:,} documents in {job.domain} ({reasons}; first in {first}), {bad_bytes:,} of "
            f"{num_bytes:,} bytes; allowed: a share of {job.config.max_malformed_fraction} of either; repair "
            f"data.sources[{job.domain!r}] or raise pack.max_malformed_fraction"
        )
    raise UserError(
        f"got no document in {job.domain} ({reasons or 'no files'}); allowed: at least one; change data.sources[{job.domain!r}]"
    )


def _total(scans: list[dict], name: str) -> dict[str, int]:
    total: collections.Counter = collections.Counter()
    for one in scans:
        total.update(one[name])
    return dict(sorted(total.items()))


def _hold_out(job: Job, scans: list[dict], pool: workers.Pool, progress: Callable[[int, int], None]) -> None:
    """Choose the held-out families and read their texts, at most `heldout_max_bytes`."""
    if os.path.exists(job.state("heldout.json")):
        return
    keys = heldout.choose(scans, fraction=job.config.heldout_fraction, max_bytes=job.config.heldout_max_bytes)
    numbers = [i for i, one in enumerate(scans) if any(int(key) in keys for key in one["families"])]
    paths = [job.state(f"texts-{i:06d}.json") for i in numbers]
    work = functools.partial(_collect, keys=keys, seed=job.config.seed)
    workers.run(
        pool, [(job.units[i].num_bytes, path, work, (job.units[i], path)) for i, path in zip(numbers, paths, strict=True)], progress
    )
    texts = [text for path in paths for text in shards.read_json(path)["texts"]]
    shards.write_json(job.state("heldout.json"), {"families": [str(key) for key in sorted(keys)], "texts": texts})


def _progress_file(job: Job) -> None:
    """Lay out one number per unit, which workers count up and the progress bar reads; a file, because it needs no set-up in the workers."""
    progress = np.memmap(job.state("progress"), np.int64, "w+", shape=(len(job.units),))
    for i in range(len(job.units)):
        path = job.state(f"unit-{i:06d}.json")
        progress[i] = shards.read_json(path)["counts"]["bytes"] if os.path.exists(path) else 0
    progress.flush()


def _finish(job: Job, scans: list[dict]) -> str:
    """Write the held-out set and the manifest, then give the folder its name; returns the line that says what was packed."""
    done = [shards.read_json(job.state(f"unit-{i:06d}.json")) for i in range(len(job.units))]
    texts = shards.read_json(job.state("heldout.json"))["texts"]
    names = sorted(shards.watched_marks(texts))
    seen = {names[i] for one in done for i in one["seen"]}
    kept = heldout.without_near_duplicates(texts, seen)
    tokenizer = load.load(job.tokenizer)
    rows = [
        records.HeldOut(tokens=np.concatenate([*shards.encode(tokenizer, shards.cut(text))]), num_bytes=len(text.encode())) for text in kept
    ]
    shard = shards.write_shard(str(job.partial / "heldout-000000.array_record"), map(records.encode_document, rows))
    train = {name: sum(one["counts"][name] for one in done) for name in ("documents", "tokens", "bytes")}
    held = {"documents": len(rows), "tokens": sum(row.tokens.size for row in rows), "bytes": sum(row.num_bytes for row in rows)}
    manifest = {
        "version": VERSION,
        "finished": True,
        "domain": job.domain,
        **{name: job.fingerprint[name] for name in ("sequence_length", "vocab_size", "tokenizer_sha256")},
        "train": _part(train, [one["shard"] for one in done]),
        "heldout": _part(held, [shard]),
        "malformed": _total(scans, "malformed"),
        "malformed_bytes": _total(scans, "malformed_bytes"),
        "mended": _total(scans, "mended"),
        "moved": {"near-duplicate": len(texts) - len(kept)},
        "fingerprint": job.fingerprint,
    }
    shards.write_json(str(job.partial / "manifest.json"), manifest)
    _publish(job)
    return _summary(manifest)


def _publish(job: Job) -> None:
    """Give the finished folder its name; what stood there goes only when its successor is complete."""
    shutil.rmtree(job.partial / "state", ignore_errors=True)
    if job.final.exists():
        job.final.rename(job.former)
    job.partial.rename(job.final)
    shutil.rmtree(job.former, ignore_errors=True)


def _part(counts: dict[str, int], written: list[dict]) -> dict:
    kept = [shard for shard in written if shard["records"]]
    return {"records": sum(shard["records"] for shard in kept), **counts, "shards": kept}


def _summary(manifest: dict) -> str:
    train, held, moved = manifest["train"], manifest["heldout"], manifest["moved"]["near-duplicate"]
    line = (
        f"{manifest['domain']}: {train['documents']:,} documents, {train['bytes'] / 1e6:,.1f} MB -> {train['tokens']:,} tokens in "
        f"{train['records']:,} records; held out {held['documents']:,} documents, {held['bytes'] / 1e6:,.2f} MB"
    )
    if moved:
        line += f"; left out {moved:,} held-out documents that training text repeats"
    if manifest["malformed"]:
        sizes = manifest["malformed_bytes"]
        line += "; passed over " + ", ".join(
            f"{number:,} {reason}" + (f" ({sizes[reason]:,} bytes)" if sizes[reason] else "")
            for reason, number in manifest["malformed"].items()
        )
    if manifest["mended"]:
        line += "; mended " + ", ".join(f"{number:,} {reason}" for reason, number in manifest["mended"].items())
    if not held["documents"]:
        line += "; NO HELD-OUT SET: " + (
            "every held-out document is repeated in training" if moved else "the documents are of one family, or none fits"
        )
    return line


def _empty(folder: pathlib.Path) -> None:
    """Remove what is in a folder and leave the folder, on which the lock stands.

    First what says that the rest is good, so that a removal that is stopped halfway leaves nothing to go on from.
    """
    for name in ("manifest.json", "state/fingerprint.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Keep two packs from building the same domain; the system drops the lock when a process dies, however it dies."""
    job.partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(job.partial, os.O_RDONLY)
    try:
        if not _lock(descriptor) or not job.partial.exists() or not os.path.samestat(os.fstat(descriptor), os.stat(job.partial)):
            raise UserError(f"got {job.final}, which another pack is writing; allowed: one at a time; wait for it or stop it")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                job.partial.rmdir()  # only where nothing is in it
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock; a file system that has none gives no protection, and no error either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


@contextlib.contextmanager
def _writing(packed: str) -> Iterator[None]:
    """Turn a full disk and a folder that cannot be written into the user's error; what was finished is not touched by either."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"got an error while packing into {packed} ({error}); allowed: a folder with room that can be written; "
            "free space or change data.packed, then run the same command again to go on"
        ) from error
