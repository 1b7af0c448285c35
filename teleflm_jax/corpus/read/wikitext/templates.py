"""Text of template calls, as far as the call itself has it: a word in another language, a quantity, a quotation; otherwise nothing.

A dump of articles lacks the templates, so the text is taken from the call's parameters, chosen by their form and by the position of the
call: a call right after a word or a full stop is a note, and a call on a line of its own is a box.
"""

import re
from collections.abc import Callable

from mwparserfromhell.nodes import Template
from mwparserfromhell.wikicode import Wikicode

from teleflm_jax.corpus.read.wikitext.keywords import LANGUAGE_PREFIXES
from teleflm_jax.corpus.read.wikitext.removals import REMOVED
from teleflm_jax.corpus.read.wikitext.styles import APOSTROPHE

CHARACTERS = {
    "!": "|",
    "=": "=",
    "'": APOSTROPHE,
    "'s": f"{APOSTROPHE}s",
    "-": "",
    "ndash": "–",
    "en dash": "–",
    "endash": "–",
    "snd": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "spaced en dash": " – ",
    "mdash": "—",
    "em dash": "—",
    "emdash": "—",
    "spaced mdash": " — ",
    "nbsp": "\u00a0",
    "space": " ",
    "spaces": " ",
    "esd": "\u00a0",
    "·": " · ",
    "•": " • ",
    "dot": " · ",
    "bold dot": " · ",
    "\\": " / ",
    "br": "\n",
    "clear": "\n",
    "break": "\n",
    "·w": " · ",
    "zwsp": "",
    "wbr": "",
    "shy": "",
}
"""Template -> character that it shows."""
NOTES = frozenset(
    """
    age r rp fn cn fact note notetag nt who when where which why dn dubious clarify coord coordinate isbn issn
    doi oclc pmid jstor arxiv anchor anker ancre якорь flagicon flagdeco flagathlete icon флаг флагче флагификация прапорець bandera
    bandeirinha drapeau flaggbild flagikon застава zastava gemellaggio webarchive wayback cbignore audio listen pronunciation
    prononciation écouter 来源请求 來源請求 可疑 需要解释 谁 何时 noteta 要出典 要検証 要検証範囲 誰 いつ
    いつ範囲 どこ 疑問点 脚注 enlink
    """.split()
) | {"time ago", "dead link", "link audio", "in lang", "flag icon"}
"""Templates that are never part of a sentence: notes, sources, flags, sounds."""
_NOTE_BEGINNINGS = ("cite", "efn", "harv", "ref", "sfn", "commons", "metadaten", "population", "statistiek", "#")
_ORDINAL = re.compile(r"(?:\d+|[ivxlc]+)(?:er|ère|re|e|ème|nde?|o|a|º|ª)(?: siècle)?", re.IGNORECASE)
"""Templates that show their own name."""
QUOTATIONS = frozenset(
    """
    quote quotation blockquote cquote bquote quotebox citation citat citaat cita zitat cytat citát citace citação citazione цитата цитат
    idézet navod 引用 引文
    """.split()
) | {'"', "block quote", "quote box", "citation bloc", "bloc citation", "cita destacada", "pull quote", "начало цитаты"}
"""Templates that are text although they are on a line of their own."""
_FRAMES = {
    ("en", "as of"): "As of {}",
    ("fr", "s"): "{}e siècle",
    ("fr", "s-"): "{}e siècle",
    ("fr", "siècle"): "{}e siècle",
    ("ca", "segle"): "segle {}",
    ("pt", "séc"): "século {}",
}
"""(Language, template) -> words around its parameter."""
_JOINED = {
    "chem": "",
    "chem2": "",
    "ce": "",
    "ipac-en": "",
    "ipac-fr": "",
    "ipac-pl": "",
    "ipac-cmn": "",
    "respell": "-",
    "sfrac": "/",
    "frac": "/",
    "fraction": "/",
}
"""Template that shows all of its parameters -> separator."""
_LAST_SHOWN = frozenset(("tsl", "translink"))
_FUNCTIONS = frozenset(
    """
    formatnum formatnombre formátujčíslo zahlenformat formatonúmero formatonumero oblikbroja formázottszám számformázás számform 数整形
    formatteernum numformatteren formatnr форматировать_число форматувати_число formateranum formateratal 格式化数字 lc uc lcfirst ucfirst
    """.split()
)
"""Parser functions whose value is their argument."""
_TEXT_PARAMETERS = ("text", "texte", "texto", "testo", "tekst", "текст", "label", "lt", "quote", "citat", "content")
_NUMBER = re.compile(r"[-+−]?\d[\d.,\u00a0 ]*")
_BETWEEN_NUMBERS = {
    "-": "–",
    "–": "–",
    "—": "–",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " × ",
    "×": " × ",
    "+/-": " ± ",
}
_UNIT = re.compile(r"[^\W\d_]{1,12}(?:[/·][^\W\d_]{1,4})?[23²³]?|[%°′″]|°[CFK]")
_DEGREES = {"C": "°C", "F": "°F"}
_NO_WORD = re.compile(r"\s*(?:(?:https?:)?//\S*|[^\n]{1,200}\.(?:ogg|oga|wav|mp3|svg|png|jpe?g|gif|webm))\s*", re.IGNORECASE)
_MAX_PARAMETERS = 30


def name_of(template: Template) -> str:
    """Return the normalized name of a template, in lower case."""
    return str(template.name).strip().replace("_", " ").lower()


def quotation(template: Template, render: Callable[[Wikicode], str]) -> str:
    """Return the text of a quotation."""
    named = {str(one.name).strip().lower(): one.value for one in template.params[:_MAX_PARAMETERS]}
    return next((text for key in ("1", *_TEXT_PARAMETERS) if key in named and (text := render(named[key]).strip())), REMOVED)


def words(template: Template, name: str, language: str, render: Callable[[Wikicode], str]) -> str:
    """Return the text of a template within a line, or the placeholder of removed markup.

    Args:
        template: The call.
        name: Its name by `name_of`.
        language: Language of the page; a parameter of that name is text, too.
        render: Turns a parameter's value into text.
    """
    function, colon, argument = name.partition(":")
    if colon:
        shown = str(template.name).partition(":")[2].strip()
        return shown if function in _FUNCTIONS and argument and "{{" not in shown and not template.params else REMOVED
    if name in NOTES or name.startswith(_NOTE_BEGINNINGS):
        return REMOVED
    positional, named = [], {}
    for one in template.params[:_MAX_PARAMETERS]:
        key = str(one.name).strip().lower()
        if key.isdigit():
            positional.append(render(one.value).strip())
        else:
            named[key] = one.value
    shown = next((text for key in (*_TEXT_PARAMETERS, language) if key in named and (text := render(named[key]).strip())), "")
    if not template.params and _ORDINAL.fullmatch(name):
        return str(template.name).strip()
    if len(positional) > 1 and (positional[0].lower() in LANGUAGE_PREFIXES or name in ("lang", "script") or name.startswith("transl")):
        del positional[0]
    shown = shown or _of_positional([one for one in positional if one and one != REMOVED and not _NO_WORD.fullmatch(one)], name)
    framed = _FRAMES.get((language, name), "{}").format(shown) if shown else REMOVED
    return framed[0].lower() + framed[1:] if "lc" in named else framed


def _of_positional(values: list[str], name: str) -> str:
    if not values:
        return ""
    if name in _JOINED:
        return _JOINED[name].join(values).replace("_", " ")
    if name in _LAST_SHOWN:
        return values[-1]
    if _NUMBER.fullmatch(values[0]):
        return _quantity(values)
    return values[0]


def _quantity(values: list[str]) -> str:
    """Return numbers with their unit, or a date; empty if the numbers mean something else, such as coordinates."""
    shown, rest = values[0], values[1:]
    while len(rest) > 1 and rest[0] in _BETWEEN_NUMBERS and _NUMBER.fullmatch(rest[1]):
        shown, rest = shown + _BETWEEN_NUMBERS[rest[0]] + rest[1], rest[2:]
    if not rest:
        return shown
    if _UNIT.fullmatch(rest[0]):
        shown = f"{shown} {_DEGREES.get(rest[0], rest[0])}"
        return f"{shown} {rest[1]} {rest[2]}" if len(rest) > 2 and rest[0] in ("ft", "st", "lb") and _NUMBER.fullmatch(rest[1]) else shown
    date = [int(one) for one in values[:3] if one.isdecimal() and len(one) < 5]
    if len(date) == 3 and 31 < date[0] and 1 <= date[1] <= 12 and 1 <= date[2] <= 31:
        return f"{date[0]}-{date[1]:02}-{date[2]:02}"
    return "" if _NUMBER.fullmatch(rest[0]) else shown
