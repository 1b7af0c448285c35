"""Programs that are judged, in few words."""

import textwrap

from teleflm_jax.evaluate import sandbox


def task(program, test="def check(f):\n    f()\n", prompt="def f():\n"):
    return sandbox.Task(program=textwrap.dedent(program), entry_point="f", prompt=prompt, test=textwrap.dedent(test))


def run(program, test="def check(f):\n    f()\n", prompt="def f():\n", **limits):
    """Judge a program."""
    return sandbox.run(task(program, test, prompt), **{"seconds": 3.0} | limits)


def act(code, **limits):
    """Judge a program whose function does something, of which nothing but an exception counts."""
    return run("def f():\n" + textwrap.indent(textwrap.dedent(code).strip(), "    "), **limits)


def equal(result, expected, **settings):
    """Judge a function that returns something, by comparison."""
    return run(f"def f(*given):\n    return {result}", f"def check(f):\n    assert {expected}", **settings)
