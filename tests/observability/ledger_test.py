"""The ledger against trainers whose every second is known: made-up runs with kills, rewinds and clocks that jump."""

import dataclasses
import json
import random

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.observability import history, ledger, run_log

TOKENS = 1_000
SEEDS = range(60)


def rows_of(rows):
    return {name: np.array([history.number(row.get(name)) for row in rows]) for name in history.COLUMNS}


@dataclasses.dataclass
class Trainer:
    """Writes what a trainer writes, and the truth beside it."""

    random: random.Random
    wall: float = 1.7e9
    elapsed: float = 0.0
    events: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)
    saved: list = dataclasses.field(default_factory=lambda: [0])
    truth: dict = dataclasses.field(default_factory=lambda: dict.fromkeys(ledger.CATEGORIES, 0.0))

    def spend(self, category, most):
        seconds = self.random.uniform(0.1, most)
        self.wall, self.elapsed = self.wall + seconds, self.elapsed + seconds
        self.truth[category] += seconds
        return seconds

    def event(self, name, **fields):
        self.events.append({"event": name, "time": self.wall, "elapsed": self.elapsed, **fields})

    def drop(self):
        """Go back to the newest checkpoint, or to one before it."""
        if len(self.saved) > 1 and self.random.random() < 0.3:
            self.saved.pop()
        dropped = [row for row in self.rows if row["step"] > self.saved[-1]]
        self.rows = self.rows[: len(self.rows) - len(dropped)]
        for row in dropped:
            self.truth["lost"] += row["step_seconds"]
            self.truth["data wait"] -= row["data_wait_seconds"]
            self.truth["steps"] -= row["step_seconds"] - row["data_wait_seconds"]
        return {"lost_steps": len(dropped), "lost_seconds": sum(row["step_seconds"] for row in dropped)}, dropped

    def begin(self):
        self.elapsed = 0.0
        lost, dropped = self.drop()
        previous = dropped[-1]["elapsed"] if dropped else None
        seconds = self.spend("start-up", 30)
        more = {"previous_elapsed": previous, **lost} if self.events else {}
        self.event("resume" if self.saved[-1] else "start", step=self.saved[-1], seconds=seconds, **more)
        self.event("compile", step=self.saved[-1], seconds=self.spend("compile", 60))

    def step(self):
        waited = self.spend("data wait", 0.5)
        worked = self.spend("steps", 5)
        number = len(self.rows) + 1
        row = {"step": number, "tokens": number * TOKENS, "loss": 2.0, "grad_norm": 1.0, "data_wait_seconds": waited, "mfu": 0.5}
        row |= {"step_seconds": waited + worked, "tokens_per_second": TOKENS / (waited + worked)}
        self.rows.append(row | {"elapsed": self.elapsed})

    def save(self):
        self.event("save", step=len(self.rows), seconds=self.spend("checkpoint", 3))
        self.saved.append(len(self.rows))

    def skip(self):
        self.event("skip", step=len(self.rows), data_step=len(self.rows), seconds=self.spend("lost", 4), loss=9.0, grad_norm=90.0)

    def rewind(self):
        lost, _ = self.drop()
        self.event("rewound", step=self.saved[-1], seconds=self.spend("lost", 9), reason="spike", **lost)

    def evaluate(self):
        self.event("eval", step=len(self.rows), seconds=self.spend("validation", 20))

    def jump(self):
        self.wall += self.random.choice([-1, 1]) * 10 ** self.random.uniform(2, 8)
        self.event("spike", step=len(self.rows), loss=7.0)

    def idle(self):
        self.spend("other", 10)

    def kill(self):
        """After a step or an event, so that the truth is known to the last second."""
        self.wall += (pause := self.random.uniform(0, 1_000))
        self.truth["down"] += pause
        self.begin()

    def write(self, folder):
        folder.mkdir(exist_ok=True)
        for file, lines in ((run_log.EVENTS, self.events), (run_log.METRICS, self.rows)):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder


def lived(seed, *, jumps=True):
    """A run of random fates; its last deed is logged."""
    trainer = Trainer(random=random.Random(seed))
    trainer.begin()
    deeds = [trainer.step] * 12 + [trainer.save, trainer.skip, trainer.rewind, trainer.evaluate, trainer.idle]
    deeds += [trainer.jump] * jumps
    for _ in range(trainer.random.randrange(200)):
        trainer.random.choice(deeds)()
        if trainer.random.random() < 0.05:
            trainer.step()
            for _ in range(trainer.random.choice([1, 1, 2])):
                trainer.kill()
    trainer.step()
    return trainer


@pytest.mark.parametrize("seed", SEEDS)
def test_every_second_is_booked_as_it_was_spent(tmp_path, seed):
    trainer = lived(seed)
    found = ledger.read(trainer.write(tmp_path))
    assert found.seconds == pytest.approx(trainer.truth, abs=1e-4)
    assert found.total == pytest.approx(sum(trainer.truth.values()), abs=1e-3)
    assert found.step == len(trainer.rows) and found.tokens == TOKENS * len(trainer.rows)
    assert found.mfu == pytest.approx(0.5)
    assert found.mfu_of_wall_time == pytest.approx(found.mfu * found.goodput)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_missing_or_wrong_no_category_is_negative_and_they_sum_to_the_total(tmp_path, seed):
    trainer, chance = lived(seed), random.Random(seed)
    for line in [*trainer.events, *trainer.rows]:
        for name in [name for name in line if name not in ("event", "step")]:
            if chance.random() < 0.1:
                line[name] = chance.choice([None, "x", -1.0, float("nan"), float("inf"), 10**400, True, [], 1e12])
            if chance.random() < 0.1:
                del line[name]
    chance.shuffle(trainer.events) if seed % 2 else None
    found = ledger.read(trainer.write(tmp_path))
    for session in found.sessions:
        assert list(session.seconds) == list(ledger.CATEGORIES)
        assert all(seconds >= 0 for seconds in session.seconds.values())
    assert found.total == pytest.approx(sum(found.seconds.values()))
    assert 0 <= found.goodput <= 1
    assert sum(session.seconds["down"] for session in found.sessions) <= ledger.LONGEST_PAUSE * len(found.sessions)


@pytest.mark.parametrize("seed", SEEDS)
def test_older_logs_are_read_by_the_wall_clock(tmp_path, seed):
    trainer = lived(seed, jumps=False)
    old = ("event", "time", "step", "seconds")
    trainer.events = [
        {key: value for key, value in event.items() if key in old} for event in trainer.events if event["event"] not in ("compile", "skip")
    ]
    for row in trainer.rows:
        del row["elapsed"]
    found = ledger.read(trainer.write(tmp_path))
    for same in ("start-up", "data wait", "steps", "checkpoint", "validation"):
        assert found.seconds[same] == pytest.approx(trainer.truth[same], abs=1e-3)
    assert all(seconds >= 0 for seconds in found.seconds.values())
    assert found.total <= sum(trainer.truth.values()) + 1e-3  # the last session's last words may be rows, which had no time


def test_a_run_killed_and_resumed_has_lost_the_rows_that_were_dropped(tmp_path):
    trainer = Trainer(random=random.Random(0))
    trainer.begin()
    for deed in [trainer.step] * 3 + [trainer.save] + [trainer.step] * 4:
        deed()
    dropped = sum(row["step_seconds"] for row in trainer.rows[3:])
    trainer.kill()
    found = ledger.read(trainer.write(tmp_path))
    assert found.seconds["lost"] == pytest.approx(dropped)
    assert [session.seconds["lost"] > 0 for session in found.sessions] == [True, False]
    assert [session.step for session in found.sessions] == [0, 3] and found.step == 3


def test_rows_of_two_sessions_thrown_away_at_once_do_not_make_the_run_longer():
    events = [
        {"event": "start", "time": 1_010.0, "elapsed": 10.0, "step": 0, "seconds": 10.0},
        {"event": "save", "time": 1_050.0, "elapsed": 50.0, "step": 4, "seconds": 0.0},
        {"event": "save", "time": 1_090.0, "elapsed": 90.0, "step": 8, "seconds": 0.0},
        {"event": "resume", "time": 1_110.0, "elapsed": 10.0, "step": 8, "seconds": 10.0, "lost_seconds": 0.0},
        # its checkpoint of step 8 is damaged: 40 s of the first session and 20 s of the second are to be done again
        {"event": "resume", "time": 1_160.0, "elapsed": 10.0, "step": 4, "seconds": 10.0, "lost_seconds": 60.0, "previous_elapsed": 30.0},
    ]
    kept = rows_of([{"step": i, "step_seconds": 10.0, "elapsed": 10.0 + 10 * i} for i in range(1, 5)])
    found = ledger.account(events, kept)
    assert found.total == 160.0
    assert [session.seconds["lost"] for session in found.sessions] == [40.0, 20.0, 0.0]
    assert found.seconds == dict.fromkeys(ledger.CATEGORIES, 0.0) | {"start-up": 30.0, "steps": 40.0, "lost": 60.0, "down": 30.0}


def test_a_clock_put_back_between_sessions_counts_as_no_pause_and_is_said():
    for wrong in (-5_000.0, 1e9):
        events = [
            {"event": "start", "time": 1.7e9, "elapsed": 10.0, "step": 0, "seconds": 10.0},
            {"event": "resume", "time": 1.7e9 + wrong, "elapsed": 10.0, "step": 0, "seconds": 10.0},
        ]
        found = ledger.account(events, rows_of([]))
        assert found.seconds["down"] == 0 and found.total == 20
        assert "session 2 began" in found.remarks[0] and "counted as 0 s" in found.remarks[0]


def test_a_clock_moved_during_a_session_is_said(tmp_path):
    trainer = Trainer(random=random.Random(1))
    trainer.begin()
    trainer.jump()
    trainer.step()
    found = ledger.read(trainer.write(tmp_path))
    assert found.remarks[0].startswith("The wall clock was moved by") and "session 1" in found.remarks[0]


def test_how_it_ended_and_how_fast_it_was_at_last():
    start = {"event": "start", "time": 10.0, "elapsed": 1.0, "step": 0, "seconds": 1.0}
    rows = [{"step": i, "tokens": 100 * i, "step_seconds": 9.0, "tokens_per_second": 100 / 9} for i in range(1, 301)]
    rows += [{"step": i, "tokens": 100 * i, "step_seconds": i % 2 + 1.0, "tokens_per_second": 100 / (i % 2 + 1)} for i in range(301, 401)]
    found = ledger.account([start], rows_of(rows))
    assert found.end is None and found.recent_speed == pytest.approx(100 / 1.5)
    for name in ledger.ENDS:
        assert ledger.account([start, {"event": name, "time": 11.0, "elapsed": 2.0}], rows_of([])).end == name


def test_a_run_without_events_or_without_rows():
    assert ledger.account([], rows_of([])).total == 0
    alone = ledger.account([], rows_of([{"step": 1, "step_seconds": 3.0, "data_wait_seconds": 1.0, "elapsed": 5.0, "mfu": 0.5}]))
    assert (alone.seconds["steps"], alone.seconds["data wait"], alone.seconds["other"]) == (2.0, 1.0, 2.0)
    assert alone.goodput == 0.6 and alone.mfu_of_wall_time == pytest.approx(0.3)
    started = ledger.account([{"event": "start", "time": 10.0, "elapsed": 4.0, "step": 0, "seconds": 4.0}], rows_of([]))
    assert started.total == started.seconds["start-up"] == 4.0 and started.goodput == 0 and started.step == 0


def test_a_torn_last_line_is_not_read_and_a_damaged_one_is_refused(tmp_path):
    trainer = lived(0)
    whole = ledger.read(trainer.write(tmp_path)).seconds
    for file in (run_log.EVENTS, run_log.METRICS):
        with (tmp_path / file).open("a") as log:
            log.write('{"event": "sa')
    assert ledger.read(tmp_path).seconds == whole
    (tmp_path / run_log.EVENTS).write_text('{"event": "sa\n{}\n')
    with pytest.raises(UserError, match=r"events.jsonl, line 1"):
        ledger.read(tmp_path)
