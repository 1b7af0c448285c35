"""Templates in processes of their own: what a hostile one may cost, and that nothing of them stays behind."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from teleflm_jax.generate import template
from teleflm_jax.generate.template import Failed, Refused, Template

WAIT = 60
HANGS = "{% if messages[0] == 'hang' %}{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}{% endif %}"
SLOW = {
    "sums": "{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "a constant": "{% if false %}{{ 9 ** (9 ** 9) }}{% endif %}",
    "a long expression": "{{ " + "~".join("1" * 99_999) + " }}",
    "a regular expression": "{{ ('www.a' * 10 ** 6) | urlize }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}
LARGE = {
    "center": "{{ ''.center(10 ** 9) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "str.format": "{{ '{:1000000000d}'.format(1) }}",
    "tojson": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "join": "{{ ('x' * 10 ** 5) | join('y' * 10 ** 5) }}",
    "replace": "{{ ('x' * 10 ** 5) | replace('x', 'y' * 10 ** 5) }}",
    "a product": "{{ 'x' * 10 ** 10 }}",
    "lists": "{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}",
}
DEEP = {
    "parentheses": "{{ " + "(" * 99_999 + "1" + ")" * 99_999 + " }}",
    "conditions": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a loop": "{% set a = [1] %}{% for x in a recursive %}{{ loop(a) }}{% endfor %}",
}


def rendered(source, *messages, **variables):
    return Template(source).render([messages], variables)[0]


def process_of(made):
    """Id of the process that renders, which has answered."""
    return made._process.popen.pid


def is_there(process):
    return pathlib.Path(f"/proc/{process}").exists()


def wait_for_end(process):
    end = time.monotonic() + WAIT
    while is_there(process) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_there(process)


@pytest.mark.parametrize("name", SLOW)
def test_what_takes_long_is_ended_wherever_it_runs(name, monkeypatch):
    monkeypatch.setattr(template, "SECONDS", 0.5)
    with pytest.raises(Failed, match="^it (takes|needs) more than (0.5 seconds|256 MiB)$"):
        rendered(SLOW[name])


@pytest.mark.parametrize("name", LARGE)
def test_what_fills_the_memory_fails(name):
    with pytest.raises(Failed, match="^it needs more than 256 MiB$"):
        rendered(LARGE[name])


@pytest.mark.parametrize("name", DEEP)
def test_what_is_too_deep_fails(name):
    with pytest.raises(Failed, match="^RecursionError: "):
        rendered(DEEP[name])


def test_a_text_that_is_too_long_or_no_unicode_fails():
    with pytest.raises(Failed, match="^OutputTooLong: more than 8,388,608 characters$"):
        rendered("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}")
    with pytest.raises(Failed, match="a string with a lone surrogate"):
        rendered("{{ '\\ud800' }}")
    assert rendered("{{ messages[0] * 1000 }}\x00é\N{GRINNING FACE}", "ab") == "ab" * 1000 + "\x00é\N{GRINNING FACE}"


def test_one_failure_is_not_the_next_requests(monkeypatch):
    made = Template("{{ ''.center(messages[0]) }}.{{ raise_exception('no') if messages[0] == 3 }}")
    assert made.render([[1], [2]], {}) == [" .", "  ."]
    first = process_of(made)
    with pytest.raises(Failed, match="more than 256 MiB"):
        made.render([[10**9]], {})
    with pytest.raises(Refused, match="^no$"):
        made.render([[3]], {})
    assert made.render([[4]], {}) == ["    ."] and process_of(made) == first


@pytest.mark.parametrize("end", ["by time", "from outside", "between question and answer"])
def test_after_its_process_has_ended_a_template_goes_on_in_another(end, monkeypatch):
    made = Template("{{ messages[0] }}" + HANGS)
    assert made.render([["a"]], {}) == ["a"]
    first = process_of(made)
    with monkeypatch.context() as patched:
        if end == "by time":
            patched.setattr(template, "SECONDS", 0.3)
            with pytest.raises(Failed, match=r"more than 0\.3 seconds"):
                made.render([["hang"]], {})
        elif end == "from outside":
            os.kill(first, signal.SIGKILL)
            os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        else:
            patched.setattr(template._Process, "receive", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                made.render([["b"]], {})
    assert made.render([["c"]], {}) == ["c"] and process_of(made) != first and not is_there(first)


def test_a_process_that_dies_under_a_request_fails_it():
    made = Template("{{ messages[0] }}" + HANGS)
    made.render([["a"]], {})
    threading.Timer(0.3, os.kill, (process_of(made), signal.SIGKILL)).start()
    with pytest.raises(Failed, match="^its process gives no answer: "):
        made.render([["hang"]], {})


def test_the_process_holds_nothing_and_may_open_nothing(monkeypatch):
    monkeypatch.setenv("SECRET", "sesame")
    with open(os.devnull) as kept:
        os.set_inheritable(kept.fileno(), True)
        made = Template("")
        made.render([[]], {})
    place = pathlib.Path(f"/proc/{process_of(made)}")
    assert sorted(os.listdir(place / "fd")) == ["0", "1", "2"]
    assert b"sesame" not in (place / "environ").read_bytes() and os.readlink(place / "cwd") == "/"
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (place / "limits").read_text().splitlines()}
    assert limits["Max open files"] == ["3", "3"] and limits["Max address space"] == [str(256 << 20)] * 2
    assert limits["Max processes"] == limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert os.getsid(process_of(made)) == process_of(made)  # Ctrl-C at a terminal does not reach it


def test_what_jinja_and_python_import_late_is_there():
    late = "{{ 'a b' | wordwrap(1) }},{{ '<b>x</b> &amp;' | striptags }},{{ [1] | pprint }},{{ '\\N{BULLET}' }},{{ lipsum(n=1)[:0] }}"
    assert rendered(late) == "a\nb,x &,[1],\N{BULLET},"
    with pytest.raises(Failed, match="^UndefinedError: 'x' is undefined$"):
        rendered("{{ x.y }}")


def test_conversations_of_a_request_are_written_at_the_same_time_of_day():
    first, second = Template("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}").render([[], []], {})
    assert first == second and len(first) == 26 and first.startswith("20")


def test_threads_take_turns():
    made = Template("{{ messages[0] }} of {{ total }}")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: made.render([[number], [-number]], {"total": 99}), range(99)))
    assert found == [[f"{number} of 99", f"{-number} of 99"] for number in range(99)]


def test_a_template_that_nobody_holds_leaves_no_process():
    made = Template("x")
    made.render([[]], {})
    process = process_of(made)
    del made
    gc.collect()
    assert not is_there(process)


SCRIPT = """
import os, sys
from teleflm_jax.generate.template import Template
made = Template("{{ messages[0] }}")
assert made.render([["a"]], {}) == ["a"]
first = made._process.popen.pid
made._turn.acquire()  # by another thread, which a fork does not take along
child = os.fork()
if child == 0:
    assert made.render([["child"]], {}) == ["child"] and made._process.popen.pid != first
    print(made._process.popen.pid, flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
made._turn.release()
assert made.render([["b"]], {}) == ["b"] and made._process.popen.pid == first
print(first, flush=True)
sys.stdin.read()
"""


def test_a_template_that_hangs_does_not_outlive_who_started_it():
    script = "from teleflm_jax.generate import template; template.SECONDS = 1.0; made = template.Template(sys.argv[1]);"
    script += "made.render([['a']], {}); print(made._process.popen.pid, flush=True); made.render([['hang']], {})"
    with subprocess.Popen([sys.executable, "-c", f"import sys; {script}", HANGS], stdout=subprocess.PIPE) as started:
        process = int(started.stdout.readline())
        time.sleep(0.2)  # most likely it hangs by now
        started.kill()
    wait_for_end(process)


@pytest.mark.parametrize("killed", [False, True])
def test_a_fork_has_its_own_and_none_outlives_who_started_it(killed):
    with subprocess.Popen([sys.executable, "-W", "error", "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        forks, own = (int(started.stdout.readline()) for _ in range(2))
        wait_for_end(forks)
        assert is_there(own)
        if killed:
            started.kill()
        started.stdin.close()
        assert started.wait(WAIT) == (-signal.SIGKILL if killed else 0)
        wait_for_end(own)
