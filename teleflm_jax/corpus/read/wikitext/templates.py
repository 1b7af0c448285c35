"""What a template shows, as far as its call tells: a word in another language, a quantity, a quotation; else nothing.

A dump of articles has no templates to expand. So the call's own parameters are the text, chosen by their form and by where the call stands:
one that follows a word or a full stop without a blank is a note, one that has a line for itself is a box.
"""

import re
from collections.abc import Callable

from mwparserfromhell.nodes import Template
from mwparserfromhell.wikicode import Wikicode

from teleflm_jax.corpus.read.wikitext.holes import HOLE
from teleflm_jax.corpus.read.wikitext.names import LANGUAGES
from teleflm_jax.corpus.read.wikitext.styles import APOSTROPHE

MARKS = {
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
"""Templates that are a character."""
NOTES = frozenset(
    """
    age r rp fn cn fact note notetag nt who when where which why dn dubious clarify coord coordinate isbn issn
    doi oclc pmid jstor arxiv anchor anker ancre якорь flagicon flagdeco flagathlete icon флаг флагче флагификация прапорець bandera
    bandeirinha drapeau flaggbild flagikon застава zastava gemellaggio webarchive wayback cbignore audio listen pronunciation
    prononciation écouter 来源请求 來源請求 可疑 需要解释 谁 何时 noteta 要出典 要検証 要検証範囲 誰 いつ
    いつ範囲 どこ 疑問点 脚注 enlink
    """.split()
) | {"time ago", "dead link", "link audio", "in lang", "flag icon"}
"""Templates that are never a sentence's text: notes, sources, flags, sounds."""
_NOTE_BEGINNINGS = ("cite", "efn", "harv", "ref", "sfn", "commons", "metadaten", "population", "statistiek", "#")
_ORDINAL = re.compile(r"(?:\d+|[ivxlc]+)(?:er|ère|re|e|ème|nde?|o|a|º|ª)(?: siècle)?", re.IGNORECASE)
"""Templates that are what their name says."""
QUOTATIONS = frozenset(
    """
    quote quotation blockquote cquote bquote quotebox citation citat citaat cita zitat cytat citát citace citação citazione цитата цитат
    idézet navod 引用 引文
    """.split()
) | {'"', "block quote", "quote box", "citation bloc", "bloc citation", "cita destacada", "pull quote", "начало цитаты"}
"""Templates that are text although they have a line for themselves."""
_FRAMES = {
    ("en", "as of"): "As of {}",
    ("fr", "s"): "{}e siècle",
    ("fr", "s-"): "{}e siècle",
    ("fr", "siècle"): "{}e siècle",
    ("ca", "segle"): "segle {}",
    ("pt", "séc"): "século {}",
}
"""Templates that add words to what they are given."""
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
"""Templates that show all of their parameters, and what stands between those."""
_LAST_SHOWN = frozenset(("tsl", "translink"))
_FUNCTIONS = frozenset(
    """
    formatnum formatnombre formátujčíslo zahlenformat formatonúmero formatonumero oblikbroja formázottszám számformázás számform 数整形
    formatteernum numformatteren formatnr форматировать_число форматувати_число formateranum formateratal 格式化数字 lc uc lcfirst ucfirst
    """.split()
)
"""The software's functions whose value is their argument."""
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
    """Return a template's name, in lower case and without what the software ignores."""
    return str(template.name).strip().replace("_", " ").lower()


def quotation(template: Template, render: Callable[[Wikicode], str]) -> str:
    """Return what a quotation quotes."""
    named = {str(one.name).strip().lower(): one.value for one in template.params[:_MAX_PARAMETERS]}
    return next((text for key in ("1", *_TEXT_PARAMETERS) if key in named and (text := render(named[key]).strip())), HOLE)


def words(template: Template, name: str, language: str, render: Callable[[Wikicode], str]) -> str:
    """Return what a template within a line shows, or a hole.

    Args:
        template: the call.
        name: of it, by `name_of`.
        language: of the page; a parameter of that name is text, too.
        render: turns a parameter's value into text.
    """
    function, colon, argument = name.partition(":")
    if colon:
        shown = str(template.name).partition(":")[2].strip()
        return shown if function in _FUNCTIONS and argument and "{{" not in shown and not template.params else HOLE
    if name in NOTES or name.startswith(_NOTE_BEGINNINGS):
        return HOLE
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
    if len(positional) > 1 and (positional[0].lower() in LANGUAGES or name in ("lang", "script") or name.startswith("transl")):
        del positional[0]
    shown = shown or _of_positional([one for one in positional if one and one != HOLE and not _NO_WORD.fullmatch(one)], name)
    framed = _FRAMES.get((language, name), "{}").format(shown) if shown else HOLE
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
    """Numbers with their unit; a date; nothing where numbers mean something else, such as coordinates."""
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
