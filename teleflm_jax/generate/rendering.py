"""Compile a chat template and render conversations with it; `template.py` starts it as `python -I -S rendering.py FOLDER…`.

The folders contain jinja2 and its dependencies. A template is a program that came with the weights, and most of its work runs in C, where
only the end of the process can stop it. It therefore runs here: in jinja's sandbox, with little memory, and unable to open a file or a
socket, to write to a file, or (unless it runs as root) to start a process. The parent process ends this one if it takes too long.

Descriptor 0 is a socket to the parent. A message is its length in four bytes, then JSON: first the template's source, then requests. Each
message states the seconds allowed for its answer and gets one answer. This file imports nothing of the project.
"""

# ruff: noqa: E402  # sys.path comes from the arguments
import importlib
import sys

sys.path += sys.argv[1:]

import datetime
import json
import os
import resource
import signal
import struct
from typing import Any

import jinja2.ext
import jinja2.sandbox

# modules that jinja2 and Python import on first use, when files can no longer be opened
for _name in ("html", "pprint", "textwrap", "unicodedata", "jinja2.constants", "jinja2.debug"):
    importlib.import_module(_name)

MEMORY_BYTES = 256 << 20
"""Largest address space. 25 MB are used before the template arrives, and up to 130 MB for a conversation of the server's largest body."""
MAX_CHARACTERS = 8 << 20
"""Most characters that a template may output for one request."""
LINE = 1000
"""Most characters of an error message."""


class RaisedByTemplate(Exception):
    """The template calls `raise_exception`."""


class OutputTooLong(Exception):
    """The template outputs too much."""


def main() -> None:
    """Answer messages until the socket is closed."""
    environment = _environment()
    environment.from_string("{{ 'é\\n' }}").render()  # imports the codecs for strings in templates
    _confine()
    _send({"ready": True})
    template = None
    while (message := _receive()) is not None:
        signal.setitimer(signal.ITIMER_REAL, 2 * message["seconds"])  # ends this process if the parent, which would do so, has died
        try:
            if template is None:
                template = environment.from_string(message["source"])
                answer = {"compiled": True}
            else:
                answer = {"texts": _render(template, message)}
        except RaisedByTemplate as refusal:
            answer = {"refused": str(refusal)[:LINE]}
        except MemoryError:
            answer = {"failed": f"it needs more than {MEMORY_BYTES >> 20} MiB"}
        except Exception as error:  # a template's expressions may raise anything
            answer = {"failed": f"{type(error).__name__}: {str(error)[:LINE]}"}
        _send(answer)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _confine() -> None:
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, 3),  # the open ones
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _render(template: jinja2.Template, request: dict[str, Any]) -> list[str]:
    """Return the texts of a request's conversations."""
    texts, size = [], 0
    now = datetime.datetime.fromisoformat(request["now"])
    for messages in request["conversations"]:
        parts = []
        for part in template.generate({**request["variables"], "messages": messages, "strftime_now": now.strftime}):
            parts.append(part)
            size += len(part)
            if size > MAX_CHARACTERS:
                raise OutputTooLong(f"more than {MAX_CHARACTERS:,} characters")
        texts.append("".join(parts))
    return texts


def _environment() -> jinja2.Environment:
    """Create the environment that chat templates expect (source: transformers' documentation of chat templates)."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise RaisedByTemplate(message)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks answers for training; here its body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _receive() -> Any:
    """Return the next message, or None after the last one."""
    head = _read(4)
    return json.loads(_read(*struct.unpack(">I", head))) if head else None


def _read(size: int) -> bytes:
    """Read this many bytes, or fewer if the other side has closed."""
    received = bytearray()
    while len(received) < size and (part := os.read(0, size - len(received))):
        received += part
    return bytes(received)


def _send(answer: dict[str, Any]) -> None:
    body = json.dumps(answer, ensure_ascii=False).encode(errors="surrogatepass")
    left = memoryview(struct.pack(">I", len(body)) + body)
    while left:
        left = left[os.write(0, left) :]


if __name__ == "__main__":
    main()
