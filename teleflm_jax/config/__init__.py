"""Gin files to frozen dataclasses, strictly, and back.

gin-config's own parser reads the files, so syntax, macros and includes are gin's. Everything after parsing is ours, because gin itself is
silent about an unused definition, a wrong type and a value bound twice, and keeps what it read in globals: here every mistake is one
`UserError` with its place, and two parses share nothing. What a flat set of sections cannot read (scopes, `@references`,
imports) is refused.

`read.py` turns files into bindings, `values.py` bindings into typed values; this file puts them together.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence

from teleflm_jax import foreign
from teleflm_jax.config.read import LARGEST, REQUIRED, Binding, Macro, Place, Reader, advice, field_names, find, leaves, nearest
from teleflm_jax.config.values import MismatchError, convert, describe, literal, short
from teleflm_jax.errors import UserError


def parse(
    files: Sequence[str],
    bindings: Sequence[str],
    sections: Mapping[str, type],
    optional: Collection[str] = (),
    *,
    withhold: Mapping[str, Collection[str]] = types.MappingProxyType({}),
    saved: str | None = None,
) -> dict[str, typing.Any]:
    """Read gin files, then single bindings, into one dataclass per section.

    Args:
        files: Paths of gin files, as given or in the package's configurations; a later file overrides an earlier one.
        bindings: `section.field = value` texts, which override all files.
        sections: Section name -> dataclass; a field without a default must be bound.
        optional: Sections that may be left out altogether; where a field of theirs is required they are then absent from the result.
        withhold: Name of a file, without its folder -> bindings that are not taken from files of that name, nor from what they include.
        saved: Which of the files is a run's own, as `dump` wrote it, and may be a stranger's: it may include nothing.

    Returns:
        Section name -> instance, in the order of `sections`.

    Raises:
        UserError: On any mistake in what was given, with its place and the nearest right name.
    """
    reader = Reader(sections, withhold)
    bound: dict[str, Binding] = {}
    for file in files:
        bound |= reader.read_file(find(file), alone=file == saved)
    bound |= reader.read_parameters(bindings)
    _check_macros(bound, reader.macro_uses, sections)
    touched = {_section(name) for name in bound}
    wanted = {name: cls for name, cls in sections.items() if name in touched or name not in optional or not _required(cls)}
    _check_complete(bound, wanted, files)
    return {name: _build(name, cls, bound) for name, cls in wanted.items()}


def dump(sections: Mapping[str, typing.Any]) -> str:
    """Write every field, defaults included, as gin text that `parse` reads back to equal values."""
    lines = ["# Every setting, defaults included."]
    for section in sorted(sections):
        fields = dataclasses.fields(sections[section])
        lines += ["", *(f"{section}.{field.name} = {literal(getattr(sections[section], field.name))}" for field in fields)]
    return "\n".join(lines) + "\n"


def _check_macros(bound: Mapping[str, Binding], uses: Iterable[tuple[str, Place]], sections: Mapping[str, type]):
    """Every macro in use is defined and no part of itself, and every macro that is defined is in use."""
    macros = {name: binding for name, binding in bound.items() if "." not in name}
    used = dict(reversed(list(uses)))
    for name, place in used.items():
        if name not in macros and name != REQUIRED:
            near = nearest(name, [*macros, REQUIRED])
            allowed = ", ".join(f"%{macro}" for macro in (*macros, REQUIRED))
            raise UserError(f"got the undefined macro %{name} ({place}); allowed: {allowed}; {advice(near and f'%{near}')}")
    fields = {field: f"{section}.{field}" for section, cls in reversed(list(sections.items())) for field in field_names(cls)}
    for name, binding in macros.items():
        if name not in used:
            change = advice(fields.get(name))
            raise UserError(
                f"got the macro {name} ({binding.place}), which nothing uses; allowed: section.field = value, or a macro in use; {change}"
            )
    _refuse_large(bound, macros)


def _refuse_large(bound: Mapping[str, Binding], macros: Mapping[str, Binding]):
    """Refuse what is too large once every macro is replaced, by arithmetic: nine macros of ten values each stand for a billion."""
    known: dict[str, tuple[int, int]] = {}

    def measure(value: object, binding: Binding, inside: tuple[str, ...], level: int) -> tuple[int, int]:
        """Items and characters of a value, and how many values and macros stand inside each other."""
        if level > foreign.DEEPEST:
            raise too_large(binding, f"more than {foreign.DEEPEST} values and macros inside each other")
        if isinstance(value, Macro) and value.name in macros:
            name, macro = value.name, macros[value.name]
            if name in inside:
                raise UserError(f"got the macro {name} ({macro.place}), which stands for itself; allowed: a value; change {name}")
            if name not in known:
                known[name] = measure(macro.value, macro, (*inside, name), level + 1)
            size, depth = known[name][0], 1 + known[name][1]
        elif isinstance(value, dict | tuple | list):
            items = (*value.keys(), *value.values()) if isinstance(value, dict) else value
            sizes = [measure(item, binding, inside, level + 1) for item in items]
            size, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        else:
            size, depth = 1 + (len(value) if isinstance(value, str) else 0), 0
        if size > LARGEST or level + depth > foreign.DEEPEST:
            raise too_large(binding, f"{size:,} items and characters, {level + depth} deep, with its macros replaced")
        return size, depth

    def too_large(binding: Binding, how: str) -> UserError:
        return UserError(
            f"got {binding.name} ({binding.place}) of {how}; allowed: {LARGEST:,}, {foreign.DEEPEST} deep; change {binding.name}"
        )

    total = 0
    for binding in bound.values():
        total += measure(binding.value, binding, (binding.name,) if binding.name in macros else (), 0)[0]
        if total > LARGEST:
            raise too_large(binding, f"{total:,} items and characters, together with the bindings before it and with macros replaced")


def _check_complete(bound: Mapping[str, Binding], wanted: Mapping[str, type], files: Sequence[str]):
    """Every required field has a value, also in place of `%gin.REQUIRED`."""
    missing = {}
    for section, cls in wanted.items():
        types_ = typing.get_type_hints(cls)
        for field in field_names(cls):
            name = f"{section}.{field}"
            left = name in bound and any(leaf == Macro(REQUIRED) for leaf in leaves(_substitute(bound[name].value, bound)))
            if left or (name not in bound and field in _required(cls)):
                missing[name] = describe(types_[field]) + (f", required at {bound[name].place}" if left else "")
    if missing:
        first = next(iter(missing))
        listed = ", ".join(f"{name} ({description})" for name, description in missing.items())
        where = f"in {files[-1]} or a file that it includes, or " if files else ""
        change = f"bind it {where}by --gin_param '{first} = ...'"
        raise UserError(f"got no value for {listed}; allowed: a value where there is no default; {change}")


def _build(section: str, cls: type, bound: Mapping[str, Binding]) -> object:
    """The dataclass of one section; its own complaints get the places of the bindings that they name."""
    types_ = typing.get_type_hints(cls)
    own = {name.split(".")[1]: binding for name, binding in bound.items() if _section(name) == section}
    values = {}
    for field, binding in own.items():
        try:
            values[field] = convert(_substitute(binding.value, bound), types_[field], binding.name)
        except MismatchError as error:
            raise UserError(
                f"got {error.name} = {short(error.value)} ({binding.place}); allowed: {error.wanted}; change {error.name}"
            ) from None
    try:
        return cls(**values)
    except UserError as error:
        named = [bound[name] for name in dict.fromkeys(re.findall(r"\b[a-z_]+\.[a-z_0-9]+\b", str(error))) if name in bound]
        places = ", ".join(dict.fromkeys(str(binding.place) for binding in named))
        raise UserError(f"{error} ({places})" if places else str(error)) from None


def _substitute(value: object, bound: Mapping[str, Binding]) -> object:
    """Return the value with every macro replaced by its value."""
    if isinstance(value, Macro) and value.name != REQUIRED:
        return _substitute(bound[value.name].value, bound)
    if isinstance(value, dict):
        return {_substitute(key, bound): _substitute(item, bound) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_substitute(item, bound) for item in value)
    return value


def _section(name: str) -> str | None:
    return name.split(".")[0] if "." in name else None


def _required(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
