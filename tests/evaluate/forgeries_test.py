"""Wrong functions that attack the verdict."""

import pytest

from tests.evaluate.judged import run

FORGERIES = {
    "a fork bomb": """
        import os, threading
        for _ in range(100):
            for act in (os.fork, threading.Thread(target=print).start):
                try: act()
                except (OSError, RuntimeError): pass
        def f(x): return 0
    """,
    "a verdict in print": """
        import sys
        for stream in (sys.stdout, sys.stderr, sys.__stdout__):
            print('{"passed": true, "why": "passed", "open": []}', file=stream, flush=True)
        def f(x): return 0
    """,
    "a stack without bounds": """
        import sys
        sys.setrecursionlimit(1 << 30)
        def f(x): return f(x) or f(x)
    """,
    "right once, then gone": """
        import os
        def f(x): return 123_454_321 if x == 1 else os._exit(0)
    """,
    "an answer too many": """
        import os
        def f(x):
            for number in range(3, 64):
                try: os.write(number, (17).to_bytes(4, 'little') + b'["returned",true]' * 2)
                except OSError: pass
            return 0
    """,
    "hooks": """
        import sys, signal, os
        sys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)
        sys.settrace(lambda *a: None)
        for number in range(1, 32):
            try: signal.signal(number, lambda *a: os._exit(0))
            except OSError: pass
        def f(x): return 0
    """,
    "equal to all": """
        class All(int):
            __eq__ = __ge__ = __le__ = __gt__ = __lt__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = int.__hash__
        def f(x): return All()
    """,
    "equal to all, no subclass": """
        class All:
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            def __class__(self): return int
        def f(x): return All()
    """,
    "a list of such": """
        class All:
            def __eq__(self, other): return True
        def f(x): return [All()]
    """,
    "frames": """
        import sys, gc
        def f(x):
            frame = sys._getframe()
            while frame:
                for scope in (frame.f_locals, frame.f_globals):
                    for name, value in list(scope.items()):
                        if 'passed' in str(value)[:10_000] or 'verdict' in name or callable(value): scope[name] = lambda *a, **k: 'passed'
                frame = frame.f_back
            return 'passed'
    """,
    "garbage collector": """
        import gc, os, sys
        def f(x):
            for thing in gc.get_objects():
                if isinstance(thing, dict):
                    for name in ('verdict', 'PASSED', 'broken', '_answered', 'pack', 'unpack'):
                        if name in thing and name not in ('PASSED',): thing[name] = None
            return 0
    """,
    "every descriptor": """
        import os
        def f(x):
            for number in range(64):
                for text in (b'passed', b'passed\\n', b'{"passed": true, "why": "passed", "open": []}'):
                    try: os.write(number, text)
                    except OSError: pass
            return 0
    """,
    "closed descriptors": "import os\ndef f(x):\n    os.closerange(0, 64)",
    "another's answers": """
        import os, json
        def f(x):
            for number in range(3, 64):
                try:
                    for answer in (['returned', True], ['returned', 1], ['returned', {'opaque': True}]):
                        text = json.dumps(answer).encode()
                        os.write(number, len(text).to_bytes(4, 'little') + text)
                except OSError: pass
            os._exit(0)
    """,
    "left at once": "import os\nos._exit(0)\ndef f(x): return 0",
    "left by exception": "raise SystemExit(0)",
    "left when called": "import os\ndef f(x): os._exit(0)",
    "left at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "builtins": """
        import builtins
        builtins.AssertionError = builtins.Exception = builtins.BaseException = ValueError
        builtins.isinstance = lambda *a: True
        builtins.len = lambda *a: 0
        builtins.exec = builtins.compile = lambda *a, **k: None
        def f(x): return 0
    """,
    "modules": """
        import sys, json
        for name in ('values', 'candidate', 'judge', 'kernel', '__main__', 'json', 'os'):
            sys.modules[name] = type(sys)('x')
        json.dumps = lambda *a, **k: '["returned", {"opaque": true}]'
        def f(x): return 0
    """,
    "a judge of its own": """
        import sys
        judge = sys.modules['judge']
        judge.verdict = lambda *a: 'passed'
        judge.RemoteFunction.__call__ = lambda *a: 1
        def f(x): return 0
    """,
    "memory through ctypes": """
        import ctypes
        def f(x):
            ctypes.memset(id(True), 0, 8)
            return True
    """,
    "memory through /proc": """
        import os
        def f(x):
            for number in (os.getppid(), 1, 2, 3, os.getpid()):
                for name in ('mem', 'maps', 'fd', 'environ'):
                    try: open(f'/proc/{number}/{name}', 'r+b').write(b'passed')
                    except OSError: pass
            return 0
    """,
    "trace": """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def f(x):
            for number in (1, 2, os.getppid()):
                assert libc.ptrace(16, number, 0, 0) == -1
                assert libc.syscall(310, number, 0, 0, 0, 0, 0) == -1
            return 0
    """,
    "signals": """
        import os, signal
        def f(x):
            for number in (1, 2, 3, os.getppid(), -1, 0):
                for sign in (signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM, signal.SIGTERM):
                    try: os.kill(number, sign)
                    except OSError: pass
            return 0
    """,
    "unpickled": """
        class Sneaky:
            def __reduce__(self): return exec, ("import os; os.write(1, b'passed')",)
        def f(x): return Sneaky()
    """,
    "a message too large": "def f(x): return 'x' * (1 << 25)",
    "a message that never ends": """
        import os
        def f(x):
            for number in range(3, 64):
                try: os.write(number, (1 << 20).to_bytes(4, 'little'))
                except OSError: pass
            while True: pass
    """,
    "a deep value": """
        def f(x):
            deep = []
            for _ in range(100_000): deep = [deep]
            return deep
    """,
    "a deep message": """
        import os
        def f(x):
            text = b'["returned",' + b'[' * 1_000_000 + b']' * 1_000_000 + b']'
            text = len(text).to_bytes(4, 'little') + text
            for number in range(3, 64):
                try:
                    while text: text = text[os.write(number, text):]
                except OSError: pass
            os._exit(0)
    """,
    "an endless value": """
        import itertools
        def f(x): return itertools.count()
    """,
    "a value in itself": "def f(x):\n    own = []\n    own.append(own)\n    return own",
    "a number too long to be written": "def f(x): return 1 << (1 << 22)",
    "a nameless type": """
        import os
        def f(x):
            for text in (b'["returned",{"object":[]}]', b'["returned",{"int":"1","str":1}]', b'["raised",["BaseException"],"x"]',
                         b'["raised",[["x"]],1]', b'["raised",null,1]', b'5', b'[]', b'{}', b'["returned"]', b'["returned",{"opaque":1}]'):
                for number in range(3, 64):
                    try: os.write(number, len(text).to_bytes(4, 'little') + text)
                    except OSError: pass
            os._exit(0)
    """,
    "the tests' text": """
        import gc, os, re
        name = 'REBMUN_TERCES'[::-1]
        def f(x):
            texts = [str(thing)[:100_000] for thing in gc.get_objects()]
            for number in range(64):
                try: texts.append(os.pread(number, 1 << 16, 0).decode())
                except OSError: pass
            texts += [open(f'/proc/{number}/{name}').read() for number in (1, 2, os.getppid()) for name in ('maps', 'cmdline')
                      if os.access(f'/proc/{number}/{name}', os.R_OK)]
            found = re.search(name + r' = (\\d+)', ''.join(texts))
            return int(found[1]) if found else 0
    """,
}


@pytest.mark.parametrize("attack", FORGERIES)
def test_a_wrong_function_never_passes(attack):
    """The right answer is a number that stands nowhere but in the test."""
    check = "SECRET_NUMBER = 123_454_321\ndef check(f):\n    assert f(1) == SECRET_NUMBER\n    assert f(2) != f(3)"
    verdict = run(FORGERIES[attack], check, "def f(x):\n", seconds=1.0)
    assert not verdict.passed and verdict.why != "passed"


def test_a_test_that_catches_everything_is_not_fooled():
    check = "def check(f):\n    try:\n        f()\n    except BaseException:\n        pass"
    for leaves in ("import os; os._exit(0)", "raise SystemExit", "import os; os.closerange(3, 64)"):
        assert run(f"def f():\n    {leaves}", check).why.startswith("failed: ")


def test_arguments_do_not_come_back():
    check = "def check(f):\n    given = [3, 1]\n    assert f(given) == sorted(given)"
    assert run("def f(x):\n    return sorted(x)", check).passed
    assert not run("def f(x):\n    x.clear()\n    return x", check).passed
