"""Pack domains of documents into ArrayRecord shards with a manifest, over several processes; stopping and resuming is always safe.

A domain is built in PACKED/.DOMAIN.partial and renamed when it is finished: PACKED/DOMAIN is complete or does not exist, and a finished
data set stays until its replacement is finished. There are four steps of small tasks, each of which writes a file: scan every unit (count
its documents and refuse bad input before hours of work), read the held-out families, pack every unit, write the held-out set and the
manifest. A resumed run skips the tasks whose file exists. The output depends only on documents, tokenizer and settings, not on the number
of processes or on interruptions.
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
"""Version of the document reader; increased when the same files yield other documents."""
FINGERPRINTED = ("heldout_fraction", "heldout_max_bytes", "unit_bytes", "seed")
"""Settings that the packed bytes depend on."""
Progress = Callable[[str, int, int], None]
"""Called several times a second with the step, the bytes done and the total bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackJob:
    """The packing of one domain."""

    domain: str
    units: list[work_units.WorkUnit]
    packed: pathlib.Path
    tokenizer: str
    fingerprint: dict
    config: PackConfig

    @property
    def final(self) -> pathlib.Path:
        """Folder of the finished data set."""
        return self.packed / self.domain

    @property
    def partial(self) -> pathlib.Path:
        """Folder in which the data set is built."""
        return self.packed / f".{self.domain}.partial"

    @property
    def former(self) -> pathlib.Path:
        """Folder to which a replaced data set is moved before it is deleted."""
        return self.packed / f".{self.domain}.former"

    def state(self, name: str) -> str:
        """Return the path of a step's result."""
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
    log: Callable[[str], None] = print,
    progress: Progress = lambda step, done, total: None,
) -> None:
    """Pack every domain of `sources` that is not packed yet.

    Args:
        sources: Domain -> folder or file of documents.
        packed: Folder of the packed data sets.
        tokenizer: Path of tokenizer.json.
        sequence_length: Tokens of one training sequence.
        vocab_size: Rows of the model's embedding; the tokenizer may not have more ids.
        config: Settings.
        force: Pack again from the start, even if a data set exists.
        log: Receives one line for the user.
        progress: Receives the progress of each step.

    Raises:
        UserError: No documents, too many malformed documents, inputs that differ from those of an existing data set, or a folder that
            cannot be written.
    """
    base = _base_fingerprint(tokenizer, sequence_length, vocab_size, config)
    with contextlib.ExitStack() as stack, _report_write_errors(packed):
        jobs = []
        for domain, source in sources.items():
            job = _job(domain, source, packed=packed, tokenizer=tokenizer, base=base, config=config)
            if not force and _is_packed(job):
                log(f"{domain}: already packed")
                continue
            stack.enter_context(_locked(job))
            if _prepare(job, force=force):
                jobs.append(job)
            else:
                log(f"{domain}: already packed")
        if jobs:
            _pack_all(jobs, sequence_length, stack.enter_context(workers.start(config.processes)), log, progress)


def _base_fingerprint(path: str, sequence_length: int, vocab_size: int, config: PackConfig) -> dict:
    """Return the part of the fingerprint that all domains share; refuse a tokenizer that the model cannot use."""
    tokenizer = load.load(path)
    size, wrap = tokenizer.get_vocab_size(), specials.of(tokenizer)
    if wrap.bos == wrap.eos:
        raise UserError(
            f"got the tokenizer {path}, in which the id {wrap.bos} marks both the start and the end of a text; allowed: two ids, because "
            "the end is learned and the start is not; change data.tokenizer"
        )
    if size > vocab_size:
        raise UserError(
            f"got a tokenizer of {size:,} ids ({path}) for model.vocab_size={vocab_size:,}; allowed: at most model.vocab_size ids; change "
            "model.vocab_size or data.tokenizer"
        )
    base = {"version": VERSION, "sequence_length": sequence_length, "vocab_size": size, "tokenizer_sha256": load.sha256(path)}
    return base | {"reading": READING} | {f"pack.{name}": getattr(config, name) for name in FINGERPRINTED}


def _job(domain: str, source: str, *, packed: str, tokenizer: str, base: dict, config: PackConfig) -> PackJob:
    column, setting = config.text_columns.get(domain, work_units.TEXT), f"data.sources[{domain!r}]"
    units = work_units.split_source(source, config.unit_bytes, setting, column)
    work_units.refuse_unknown(units, config.max_malformed_fraction, setting)
    fingerprint = base | {"text column": column, "source files": work_units.identity(units)}
    return PackJob(domain=domain, units=units, packed=pathlib.Path(packed), tokenizer=tokenizer, fingerprint=fingerprint, config=config)


def _pack_all(jobs: list[PackJob], sequence_length: int, pool: workers.Pool, log: Callable[[str], None], progress: Progress) -> None:
    tasks = []
    for job in jobs:
        work = functools.partial(_scan, seed=job.config.seed, fraction=job.config.heldout_fraction)
        paths = [job.state(f"scan-{i:06d}.json") for i in range(len(job.units))]
        tasks += [(unit.num_bytes, path, work, (unit, path)) for unit, path in zip(job.units, paths, strict=True)]
    workers.run(pool, tasks, functools.partial(progress, "scan"))
    scans = {job.domain: [shards.read_json(job.state(f"scan-{i:06d}.json")) for i in range(len(job.units))] for job in jobs}
    for job in jobs:
        _refuse_malformed(job, scans[job.domain])
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
        log(_finish(job, scans[job.domain]))


def _scan(unit: work_units.WorkUnit, path: str, *, seed: int, fraction: float) -> None:
    shards.write_json(path, heldout.scan(unit, seed=seed, fraction=fraction))


def _collect(unit: work_units.WorkUnit, path: str, *, keys: frozenset[int], seed: int) -> None:
    shards.write_json(path, {"texts": heldout.collect(unit, keys, seed=seed)})


def _is_packed(job: PackJob) -> bool:
    """Return True if the domain is packed from these inputs, without leftovers; writes nothing, because finished data may be read-only."""
    manifest = job.final / "manifest.json"
    leftover = job.partial.exists() or job.former.exists()
    return not leftover and manifest.exists() and shards.read_json(str(manifest)).get("fingerprint") == job.fingerprint


def _prepare(job: PackJob, *, force: bool) -> bool:
    """Create the build folder or resume an existing one; return False if the domain is already packed."""
    if job.former.exists():
        if job.final.exists():
            shutil.rmtree(job.former)
        else:
            job.former.rename(job.final)
    if force:
        _clear(job.partial)
    elif (job.partial / "manifest.json").exists():
        _refuse_changed(job, shards.read_json(str(job.partial / "manifest.json")).get("fingerprint", {}), "unfinished data set")
        _publish(job)
        return False
    elif job.final.exists():
        manifest = job.final / "manifest.json"
        if not manifest.exists():
            raise UserError(f"got {job.final} without a manifest.json; allowed: a finished data set or no folder; remove it or add --force")
        _refuse_changed(job, shards.read_json(str(manifest)).get("fingerprint", {}), "packed data set")
        _clear(job.partial)
        return False
    begun = job.partial / "state" / "fingerprint.json"
    if begun.exists():
        _refuse_changed(job, shards.read_json(str(begun)), "unfinished data set")
        for leftover in [*job.partial.glob("*.tmp"), *begun.parent.glob("*.tmp")]:
            leftover.unlink()
    else:
        _clear(job.partial)
        begun.parent.mkdir()
        shards.write_json(str(begun), job.fingerprint)
    return True


def _refuse_changed(job: PackJob, former: dict, what: str) -> None:
    changed = [f"{name} {former.get(name)} -> {value}" for name, value in job.fingerprint.items() if former.get(name) != value]
    if changed:
        raise UserError(
            f"got inputs that differ from those of the {what} {job.final} ({'; '.join(changed)}); allowed: the same inputs; "
            f"undo the change, or add --force to pack {job.domain} again"
        )


def _refuse_malformed(job: PackJob, scans: list[dict]) -> None:
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
    _clear(job.partial)  # the inputs will change, so the counts must not be reused
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


def _hold_out(job: PackJob, scans: list[dict], pool: workers.Pool, progress: Callable[[int, int], None]) -> None:
    """Choose the held-out families and read their texts, at most `heldout_max_bytes` in total."""
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


def _progress_file(job: PackJob) -> None:
    """Create a file with one counter per unit, which workers increase and the progress bar reads; workers need no setup for a file."""
    progress = np.memmap(job.state("progress"), np.int64, "w+", shape=(len(job.units),))
    for i in range(len(job.units)):
        path = job.state(f"unit-{i:06d}.json")
        progress[i] = shards.read_json(path)["counts"]["bytes"] if os.path.exists(path) else 0
    progress.flush()


def _finish(job: PackJob, scans: list[dict]) -> str:
    """Write the held-out set and the manifest and rename the folder; return a line that summarizes the data set."""
    done = [shards.read_json(job.state(f"unit-{i:06d}.json")) for i in range(len(job.units))]
    texts = shards.read_json(job.state("heldout.json"))["texts"]
    names = sorted(shards.watched_lines(texts))
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
        "train": _split(train, [one["shard"] for one in done]),
        "heldout": _split(held, [shard]),
        "malformed": _total(scans, "malformed"),
        "malformed_bytes": _total(scans, "malformed_bytes"),
        "mended": _total(scans, "mended"),
        "moved": {"near-duplicate": len(texts) - len(kept)},
        "fingerprint": job.fingerprint,
    }
    shards.write_json(str(job.partial / "manifest.json"), manifest)
    _publish(job)
    return _summary(manifest)


def _publish(job: PackJob) -> None:
    """Rename the finished folder to its final name; a replaced data set is deleted only after that."""
    shutil.rmtree(job.partial / "state", ignore_errors=True)
    if job.final.exists():
        job.final.rename(job.former)
    job.partial.rename(job.final)
    shutil.rmtree(job.former, ignore_errors=True)


def _split(counts: dict[str, int], written: list[dict]) -> dict:
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
        line += "; skipped " + ", ".join(
            f"{number:,} {reason}" + (f" ({sizes[reason]:,} bytes)" if sizes[reason] else "")
            for reason, number in manifest["malformed"].items()
        )
    if manifest["mended"]:
        line += "; repaired " + ", ".join(f"{number:,} {reason}" for reason, number in manifest["mended"].items())
    if not held["documents"]:
        line += "; NO HELD-OUT SET: " + (
            "training text repeats every held-out document" if moved else "the documents are of one family, or no family fits"
        )
    return line


def _clear(folder: pathlib.Path) -> None:
    """Remove the contents of a folder, but not the folder, which holds the lock.

    The files that declare the rest valid are removed first, so that an interrupted removal leaves nothing to resume from.
    """
    for name in ("manifest.json", "state/fingerprint.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _locked(job: PackJob) -> Iterator[None]:
    """Keep two processes from packing the same domain; the system releases the lock when a process dies for any reason."""
    job.partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(job.partial, os.O_RDONLY)
    try:
        if not _lock(descriptor) or not job.partial.exists() or not os.path.samestat(os.fstat(descriptor), os.stat(job.partial)):
            raise UserError(f"got {job.final}, which another pack command is writing; allowed: one at a time; wait for it or stop it")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                job.partial.rmdir()  # succeeds only if the folder is empty
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock; a file system without locks gives no protection, but no error either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


@contextlib.contextmanager
def _report_write_errors(packed: str) -> Iterator[None]:
    """Report a full disk or an unwritable folder as a UserError; finished data sets stay intact."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"got an error while packing into {packed} ({error}); allowed: a writable folder with enough space; "
            "free space or change data.packed, then run the same command again to continue"
        ) from error
