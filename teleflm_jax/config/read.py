"""Gin files and `--gin_param` texts to bindings with their places: names, duplicates, includes and syntax are checked here."""

import ast
import dataclasses
import difflib
import itertools
import os
import pathlib
import re
import tokenize
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from gin import config_parser

from teleflm_jax import foreign
from teleflm_jax.config import files
from teleflm_jax.config.values import short
from teleflm_jax.errors import UserError

REQUIRED = "gin.REQUIRED"
"""The macro for a value that an including file or `--gin_param` must give."""

LARGEST = 1 << 19
"""Bytes of a file, and characters of all files that one file includes; the configuration of a thousand domains has a third of it."""
MOST_FILES = 256
"""Files that one configuration reads, each as often as it is included."""
DEEPEST_INCLUDES = 16
"""Files that include each other in a row."""
LONGEST_LINE = 1 << 14
"""Characters of a line, which Python 3.12 copies for each of its tokens; longer values go over several lines."""
LONGEST_NUMBER = 100
"""Characters of a number, which are as many digits as Python prints of any whole number without being asked."""
LONGEST_NAME = 200
"""Characters of a name; similarity of long names takes long to find."""
MOST_NAMES = 20_000
"""Among which a name that was probably meant is looked for, as the time for it grows with them; benchmark tasks are some 15,000."""


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%name` in place of a value, not yet replaced."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Reference:
    name: str


class _Delegate(config_parser.ParserDelegate):
    """Keeps macros and references unresolved: a macro may be defined after its use, and a reference is refused with its place."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return _Reference(scoped_configurable_name)

    def macro(self, macro_name):
        return Macro(macro_name)


class _Parser(config_parser.ConfigParser):
    """Gin's parser with limits and further checks.

    Gin itself keeps the last of two equal dict keys (a macro as a key could hide such a pair), nests values as deep as the stack allows,
    and parses n adjacent strings n times.
    """

    _current_token: tokenize.TokenInfo
    _keys: set | None = None
    _level = 0

    def _maybe_parse_container(self):
        outer, self._keys = self._keys, set()
        self._level += 1
        if self._level > foreign.DEEPEST + 1:
            self._raise_syntax_error(f"more than {foreign.DEEPEST} values inside each other")
        try:
            return super()._maybe_parse_container()
        finally:
            self._keys = outer
            self._level -= 1

    def _maybe_parse_basic_type(self):
        if self._current_token.type != tokenize.STRING:
            return super()._maybe_parse_basic_type()
        location, parts = self._current_location(), []
        while self._current_token.type == tokenize.STRING:
            parts.append(self._current_token.string)
            self._advance()
        try:
            return True, ast.literal_eval(f"({' '.join(parts)})")
        except (SyntaxError, ValueError) as error:
            self._raise_syntax_error(str(error.args[0]), location)

    def _advance_one_token(self):
        super()._advance_one_token()
        token = self._current_token
        if token.type == tokenize.NUMBER and len(token.string) > LONGEST_NUMBER:
            self._raise_syntax_error(f"a number of more than {LONGEST_NUMBER} characters")
        if token.type == tokenize.NAME and len(token.string) > LONGEST_NAME:
            self._raise_syntax_error(f"a name of more than {LONGEST_NAME} characters")

    def _parse_dict_item(self):
        key, value = super()._parse_dict_item()
        if isinstance(key, Macro):
            self._raise_syntax_error(f"the macro %{key.name} is a key")
        assert self._keys is not None  # its dict is being read
        if key in self._keys:
            self._raise_syntax_error(f"the key {key!r} occurs twice")
        self._keys.add(key)
        return key, value


@dataclasses.dataclass(frozen=True)
class Place:
    """File and line of a statement."""

    source: object
    """Identifies the file independently of how its path is written."""
    line: int
    text: str = dataclasses.field(compare=False)

    def __str__(self):
        return self.text


@dataclasses.dataclass(frozen=True)
class Binding:
    """One name and its value, as a file or `--gin_param` gives it."""

    name: str
    """`section.field`, or the bare name of a macro."""
    value: object
    place: Place
    overrides: frozenset[Place] = frozenset()
    """The bindings, in files that this one's file includes, that it takes the place of."""


class Reader:
    """Reads files with their includes, and remembers the macros that any statement uses, also one that is overridden later."""

    def __init__(self, sections: Mapping[str, type], withhold: Mapping[str, Collection[str]]):
        self.sections, self.withhold = sections, withhold
        self.macro_uses: list[tuple[str, Place]] = []
        self._characters = self._files = 0

    def read_file(self, path: pathlib.Path, chain: tuple[pathlib.Path, ...] = (), *, alone: bool = False) -> dict[str, Binding]:
        """Everything that a file and its includes bind.

        Args:
            path: of the file.
            chain: the files that include this one. For a mistake in an included file, an error shows the place and never the
                text: a file may include what its author cannot read.
            alone: whether the file may include nothing.
        """
        text, source = _read_text(path), path.resolve()
        self._count(text, path, chain)
        own: dict[str, Binding] = {}
        for statement, place in _statements(text, source, lambda line: f"{path}:{line}", quote=not chain):
            if isinstance(statement, config_parser.IncludeStatement):
                if alone:
                    raise UserError(
                        f"got include {statement.filename!r} ({place}); allowed: no includes in a run's folder, which holds every setting; "
                        f"remove it, or read the file by --gin_file {path}"
                    )
                included = _find_include(statement.filename, path, (*chain, source), place)
                _include(own, self.read_file(included, (*chain, source)), place)
            else:
                _add(own, self._binding(statement, place))
        withheld = {name for file in (path, source) for name in self.withhold.get(file.name, ())}
        return {name: binding for name, binding in own.items() if name not in withheld}

    def read_parameters(self, texts: Iterable[str]) -> dict[str, Binding]:
        """Return the bindings of `--gin_param`; a name may occur once."""
        own: dict[str, Binding] = {}
        for text in texts:
            place_text = f"--gin_param {short(text)}"
            if not text.strip():
                raise UserError(f"got an empty {place_text}; allowed: section.field = value; change or remove it")
            for statement, place in _statements(text, "--gin_param", lambda line, place_text=place_text: place_text):
                if isinstance(statement, config_parser.IncludeStatement):
                    raise UserError(
                        f"got an include in {place}; allowed: section.field = value; change it to --gin_file {statement.filename}"
                    )
                _add(own, self._binding(statement, place))
        return own

    def _count(self, text: str, path: pathlib.Path, chain: Sequence[pathlib.Path]):
        """Refuse a file whose includes have become too many."""
        self._characters, self._files = self._characters + len(text), self._files + 1
        if self._characters > LARGEST or self._files > MOST_FILES or len(chain) > DEEPEST_INCLUDES:
            raise UserError(
                f"got {path} as file {self._files} of a configuration of {self._characters:,} characters so far, {len(chain)} includes "
                f"deep; allowed: {MOST_FILES} files of together {LARGEST:,} characters, {DEEPEST_INCLUDES} deep; include fewer files"
            )

    def _binding(self, statement, place: Place) -> Binding:
        """A binding whose section and field exist, or a macro's definition."""
        if isinstance(statement, config_parser.ImportStatement):
            raise UserError(
                f"got {statement.format()!r} ({place}); allowed: bindings, macros and includes, as nothing reads imports; remove it"
            )
        section = statement.selector[:1].lower() + statement.selector[1:]  # gin names classes, and people write Train.steps as there
        name = f"{section}.{statement.arg_name}" if statement.arg_name else statement.selector
        if statement.scope:
            raise UserError(
                f"got the scope of {statement.scope}/{name} ({place}); allowed: no scopes, as nothing reads them; change it to {name}"
            )
        if statement.arg_name:
            self._check_name(section, statement.arg_name, place)
        for leaf in leaves(statement.value):
            if isinstance(leaf, _Reference):
                raise UserError(f"got the reference @{leaf.name} ({place}); allowed: plain values and %macros; change {name}")
            if isinstance(leaf, Macro):
                self.macro_uses.append((leaf.name, place))
        return Binding(name, statement.value, place)

    def _check_name(self, section: str, field: str, place: Place):
        elsewhere = next((f"{other}.{field}" for other, cls in self.sections.items() if field in field_names(cls)), None)
        if section not in self.sections:
            near = nearest(section, self.sections)
            change = advice(f"{near}.{field}" if near else elsewhere)
            raise UserError(
                f"got the unknown section {section!r} in {section}.{field} ({place}); allowed: {', '.join(self.sections)}; {change}"
            )
        fields = field_names(self.sections[section])
        if field not in fields:
            near = nearest(field, fields)
            change = advice(f"{section}.{near}" if near else elsewhere)
            raise UserError(f"got the unknown field {section}.{field} ({place}); allowed in {section}: {', '.join(fields)}; {change}")


def _add(own: dict[str, Binding], new: Binding):
    """Bind a name over an include's binding, but never over one of the same file."""
    old = own.get(new.name)
    if old and old.place.source == new.place.source:
        raise UserError(f"got {new.name} twice ({old.place} and {new.place}); allowed: one binding; remove one of them")
    own[new.name] = dataclasses.replace(new, overrides=old.overrides | {old.place}) if old else new


def _include(own: dict[str, Binding], included: Mapping[str, Binding], place: Place):
    """Add the bindings of an include, which must be new: a file overrides after its includes, not before, and never its sibling."""
    for name, new in included.items():
        old = own.get(name)
        if old and old.place not in {new.place, *new.overrides}:
            change = "move the include above it" if old.place.source == place.source else "bind it in one of the two files, or after both"
            twice = f"{old.place}, and {new.place} through the include at {place}"
            raise UserError(f"got {name} twice ({twice}); allowed: to override after the include; {change}")
        own[name] = new


def _find_include(name: str, including: pathlib.Path, chain: tuple[pathlib.Path, ...], place: Place) -> pathlib.Path:
    """Find the file that an include names: from the including file's folder, the current one, or the package's configurations."""
    candidates = files.candidates(os.path.expanduser(name), (including.parent, pathlib.Path()))
    path = files.first(candidates)
    if path is None:
        raise _not_there(f"include {name!r} ({place})", candidates)
    if path.resolve() in chain:
        raise UserError(f"got include {name!r} ({place}), a file that includes this one; allowed: no cycle of includes; remove one of them")
    return path


def find(name: str) -> pathlib.Path:
    """Find the file that `--gin_file` names: the path as given, else the one in the package's configurations.

    Raises:
        UserError: Neither exists.
    """
    candidates = files.candidates(name)
    path = files.first(candidates)
    if path is None:
        raise _not_there(f"--gin_file {name}", candidates)
    return path


def _not_there(asked: str, candidates: Sequence[pathlib.Path]) -> UserError:
    near = next((path.parent / n for path in candidates if (n := nearest(path.name, _gin_files(path.parent)))), None)
    looked = ", ".join(dict.fromkeys(str(path.absolute()) for path in candidates))
    change = f"change the path{f' to {near}' if near else ''}"
    return UserError(f"got {asked}, which does not exist; allowed: an existing gin file (looked for: {looked}); {change}")


def _gin_files(folder: pathlib.Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".gin")]
    except (OSError, ValueError):
        return []


def _read_text(path: pathlib.Path) -> str:
    try:
        return foreign.read(path, LARGEST).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise _not_there(f"--gin_file {path}", [path]) from None
    except OSError as error:
        raise UserError(
            f"got the gin file {path}, which cannot be read ({error.strerror}); allowed: a readable gin file; change the path"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"got the gin file {path}, which is not UTF-8 at byte {error.start}; allowed: gin text in UTF-8; change the file"
        ) from None


def _statements(text: str, source: object, locate: Callable[[int], str], *, quote: bool = True) -> Iterator[tuple[typing.Any, Place]]:
    """Bindings, includes and imports of a text with their places.

    Whatever gin's parser raises becomes one line, which may quote the text if `quote` says so.
    """
    try:
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > LONGEST_LINE:
                raise SyntaxError(f"a line of more than {LONGEST_LINE:,} characters", (None, number, None, None))
        for statement in _Parser(text, _Delegate()):
            if not isinstance(statement, config_parser.BlockDeclaration):
                line = statement.location.line_num
                yield statement, Place(source, line, locate(line))
    # 3.12.1's own tokenizer raises SystemError
    except (SyntaxError, tokenize.TokenError, ValueError, TypeError, RecursionError, SystemError) as error:
        raise _syntax_error(error, text, locate, quote) from None


def _syntax_error(error: Exception, text: str, locate: Callable[[int], str], quote: bool) -> UserError:
    lines = text.split("\n")
    line = error.args[1][0] if isinstance(error, tokenize.TokenError) else getattr(error, "lineno", None) or 1
    line = min(line, len(lines))
    unquoted = re.search(r"Failed to parse token '(.*)'", str(error))
    reason = f"{unquoted[1]} is neither a number nor in quotes" if unquoted else str(error.args[0]).split("\n")[0].rstrip(". ")
    allowed = "section.field = value with numbers, 'text', True, False, None, (tuples), [lists], {dicts}, %macros"
    if not quote:
        return UserError(f"got a line that is not gin ({locate(line)}, an included file); allowed: {allowed}; change that line")
    return UserError(f"got {short(lines[line - 1].strip())} ({locate(line)}), not gin: {reason}; allowed: {allowed}; change that line")


def leaves(value: object) -> Iterator[object]:
    """Yield everything in a value that is not a container."""
    if isinstance(value, dict):
        value = (*value.keys(), *value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def nearest(wrong: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant, among the first MOST_NAMES."""
    return next(iter(difflib.get_close_matches(wrong, list(itertools.islice(names, MOST_NAMES)), n=1)), None)


def advice(right: str | None) -> str:
    """Return the change to advise, given the name that was probably meant."""
    return f"change it to {right}" if right else "change or remove it"


def field_names(cls: type) -> list[str]:
    """Return the names of a dataclass's fields in order."""
    return [field.name for field in dataclasses.fields(cls)]
