"""Gin files and `--gin_param` texts to bindings with their places: names, duplicates, includes and syntax are checked here."""

import dataclasses
import difflib
import pathlib
import re
import tokenize
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from gin import config_parser

from teleflm_jax.config.values import short
from teleflm_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
"""Includes are also looked up from here, so that a run file in a user's own folder can include `configs/models/tiny.gin`."""

REQUIRED = "gin.REQUIRED"
"""The macro that stands for a value which an including file or `--gin_param` has to give."""


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%name` where a value stands, not yet replaced."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Reference:
    name: str


class _Delegate(config_parser.ParserDelegate):
    """Keeps macros and references as they stand: a macro may be defined after its use, a reference is refused with its place."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return _Reference(scoped_configurable_name)

    def macro(self, macro_name):
        return Macro(macro_name)


class _Parser(config_parser.ConfigParser):
    """Gin's parser, which by itself lets the last of two equal dict keys win; a macro as a key could hide such a pair."""

    _keys: set | None = None

    def _maybe_parse_container(self):
        outer, self._keys = self._keys, set()
        try:
            return super()._maybe_parse_container()
        finally:
            self._keys = outer

    def _parse_dict_item(self):
        key, value = super()._parse_dict_item()
        if isinstance(key, Macro):
            self._raise_syntax_error(f"the macro %{key.name} stands as a key")
        if key in self._keys:
            self._raise_syntax_error(f"the key {key!r} stands twice")
        self._keys.add(key)
        return key, value


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a statement stands."""

    source: object
    """Tells files apart, however their paths are spelled."""
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

    def read_file(self, path: pathlib.Path, chain: tuple[pathlib.Path, ...] = ()) -> dict[str, Binding]:
        """Everything that a file and its includes bind; `chain` holds the files that include this one."""
        text, source = _read_text(path), path.resolve()
        own: dict[str, Binding] = {}
        for statement, place in _statements(text, source, lambda line: f"{path}:{line}"):
            if isinstance(statement, config_parser.IncludeStatement):
                included = _find_include(statement.filename, path, (*chain, source), place)
                _include(own, self.read_file(included, (*chain, source)), place)
            else:
                _add(own, self._binding(statement, place))
        withheld = {name for file in (path, source) for name in self.withhold.get(file.name, ())}
        return {name: binding for name, binding in own.items() if name not in withheld}

    def read_parameters(self, texts: Iterable[str]) -> dict[str, Binding]:
        """What `--gin_param` binds, each name once."""
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
    """Take in what an include binds, which must be new: a file overrides after its includes, not before, and never its sibling."""
    for name, new in included.items():
        old = own.get(name)
        if old and old.place not in {new.place, *new.overrides}:
            change = "move the include above it" if old.place.source == place.source else "bind it in one of the two files, or after both"
            twice = f"{old.place}, and {new.place} through the include at {place}"
            raise UserError(f"got {name} twice ({twice}); allowed: to override after the include; {change}")
        own[name] = new


def _find_include(name: str, including: pathlib.Path, chain: tuple[pathlib.Path, ...], place: Place) -> pathlib.Path:
    """The file that an include means: from the including file's folder, the current one, or the repository."""
    candidates = [including.parent / name, pathlib.Path(name), REPOSITORY / name]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        raise _not_there(f"include {name!r} ({place})", candidates)
    if path.resolve() in chain:
        raise UserError(f"got include {name!r} ({place}), a file that includes this one; allowed: no cycle of includes; remove one of them")
    return path


def _not_there(asked: str, candidates: Sequence[pathlib.Path]) -> UserError:
    near = next((path.parent / n for path in candidates if (n := nearest(path.name, [p.name for p in path.parent.glob("*.gin")]))), None)
    looked = ", ".join(dict.fromkeys(str(path.absolute()) for path in candidates))
    change = f"change the path{f' to {near}' if near else ''}"
    return UserError(f"got {asked}, which is not there; allowed: an existing gin file (looked for: {looked}); {change}")


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
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


def _statements(text: str, source: object, locate: Callable[[int], str]) -> Iterator[tuple[typing.Any, Place]]:
    """Bindings, includes and imports of a text with their places; whatever gin's parser raises becomes one line."""
    try:
        for statement in _Parser(text, _Delegate()):
            if not isinstance(statement, config_parser.BlockDeclaration):
                line = statement.location.line_num
                yield statement, Place(source, line, locate(line))
    except (SyntaxError, tokenize.TokenError, ValueError, TypeError, RecursionError) as error:
        raise _syntax_error(error, text, locate) from None


def _syntax_error(error: Exception, text: str, locate: Callable[[int], str]) -> UserError:
    lines = text.split("\n")
    line = error.args[1][0] if isinstance(error, tokenize.TokenError) else getattr(error, "lineno", None) or 1
    line = min(line, len(lines))
    unquoted = re.search(r"Failed to parse token '(.*)'", str(error))
    reason = f"{unquoted[1]} is neither a number nor in quotes" if unquoted else str(error.args[0]).split("\n")[0].rstrip(". ")
    allowed = "section.field = value with numbers, 'text', True, False, None, (tuples), [lists], {dicts}, %macros"
    return UserError(f"got {short(lines[line - 1].strip())} ({locate(line)}), not gin: {reason}; allowed: {allowed}; change that line")


def leaves(value: object) -> Iterator[object]:
    """Everything in a value that is no container."""
    if isinstance(value, dict):
        value = (*value.keys(), *value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def nearest(wrong: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    return next(iter(difflib.get_close_matches(wrong, list(names), n=1)), None)


def advice(right: str | None) -> str:
    """What to change, given the name that was probably meant."""
    return f"change it to {right}" if right else "change or remove it"


def field_names(cls: type) -> list[str]:
    """Names of a dataclass's fields, in their order."""
    return [field.name for field in dataclasses.fields(cls)]
