"""Settings of `evaluation.*` and `suite.*`."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Bits-per-byte evaluation."""

    batch_size: int = 8
    """Windows of the context length per forward pass, over all devices."""
    domains: tuple[str, ...] = ()
    """Held-out domains to measure; empty: all domains of data.proportions."""
    max_bytes: int = 0
    """UTF-8 bytes per domain; 0: everything."""

    def __post_init__(self):
        refuse_outside("evaluation", self, batch_size=1, max_bytes=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Benchmark tasks (docs/evaluation.md)."""

    tasks: dict[str, int] = dataclasses.field(default_factory=dict)
    """Task or group of lm-evaluation-harness or of `teleflm_jax/evaluate/tasks`, or `humaneval` -> number of few-shot examples."""
    fractions: dict[str, float] = dataclasses.field(default_factory=dict)
    """Task or group -> share of its items to draw; one not named is measured whole. Source: report, figure 4."""
    seed: int = 0
    """Seed of the drawn items, and of sampling in tasks that sample."""
    data: str | None = None
    """Folder with the data sets in the layout of docs/evaluation.md; None: the network, or the cache of `datasets`."""
    include: tuple[str, ...] = ()
    """Folders with more task files of the harness."""
    batch_size: int = 8
    """Texts at a time, over all devices."""
    max_tokens: int = 0
    """Largest number of new tokens of a task; 0: the task's own number."""
    chat: bool = False
    """Apply the chat template, as an instruction-tuned model expects."""
    bos: bool = True
    """Begin every text with the ids that the tokenizer adds, `<s>` for ours; the harness calls it add_bos_token."""
    allow_code: bool = False
    """Run code that the model wrote (`humaneval`) in the sandbox of docs/evaluation.md."""
    code_samples: int = 5
    """Programs per problem, 5 or more, from which pass@5 is estimated."""

    def __post_init__(self):
        refuse_outside("suite", self, batch_size=1, max_tokens=0, code_samples=5)
        refuse_seed("suite", self.seed)
        for task, shots in self.tasks.items():
            if not task.isprintable():
                raise UserError(f"got the task {task!r} in suite.tasks; allowed: a name that can be printed; rename it")
            if not 0 <= shots <= 100:
                raise UserError(f"got suite.tasks[{task!r}]={shots}; allowed: 0 to 100 examples; change suite.tasks")
        for task, share in self.fractions.items():
            if task not in self.tasks:
                raise UserError(f"got suite.fractions for {task!r}; allowed: {', '.join(self.tasks) or 'no task'}; change suite.fractions")
            if not 0 < share <= 1:
                raise UserError(f"got suite.fractions[{task!r}]={share}; allowed: above 0, at most 1; change suite.fractions")
