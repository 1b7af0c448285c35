"""Language variants: markup such as `-{zh-hans:…; zh-hant:…}-` for languages with several scripts.

MediaWiki shows a page in the reader's script; a dump has the authors' text with this markup. The form of the page's main script is kept.
Facts: MediaWiki 1.39, `ConverterRule` and the converters of Chinese and Serbian.
"""

import re

_FORMS = {
    "zh": ("zh-hans zh-cn zh-sg zh-my zh", "zh-hant zh-tw zh-hk zh-mo"),
    "sr": ("sr-ec sr-cyrl sr", "sr-el sr-latn"),
}
"""Language -> its variants, in fallback order."""
_TELLING = {"zh": ("国这们来时为会个学对发说", "國這們來時為會個學對發說"), "sr": ("жчшћђљњ", "žčšćđ")}
"""Language -> frequent characters of only one of its scripts."""
_HIDDEN = frozenset("TH-N")
_FLAGS = frozenset("ATRDHNS+-W") | {"писмо", "pismo", "реч", "reč", "ријеч", "riječ"}
_MAX_DEPTH = 10
_MARK = re.compile(
    r"-\{(?!\{)|\}-|\{\{|\}\}|<(?P<tag>math|chem|ce|nowiki|pre|syntaxhighlight|source|score|timeline)\b[^<>]*(?<!/)>.{0,5000}?</(?P=tag)\s*>",
    re.DOTALL | re.IGNORECASE,
)
_RULES = {
    language: re.compile(
        rf"(?:^|;)\s{{0,20}}(?:[^;:=]{{0,100}}=>\s{{0,20}})?({'|'.join(sorted(' '.join(forms).split(), reverse=True))})\s{{0,20}}:",
        re.IGNORECASE,
    )
    for language, forms in _FORMS.items()
}


def choose(wikitext: str, language: str) -> str:
    """Replace each markup by the text in the page's main script."""
    if language not in _FORMS or "-{" not in wikitext:
        return wikitext
    order = _order(wikitext, language)
    parts: list[str] = []
    opened: list[tuple[str, int]] = []
    position = 0
    for mark in _MARK.finditer(wikitext):
        parts.append(wikitext[position : mark.start()])
        position = mark.end()
        top = opened[-1][0] if opened else ""
        if mark[0] == "}-" and top == "-{":
            begin = opened.pop()[1]
            parts[begin:] = [_shown("".join(parts[begin + 1 :]), order, language)]
            continue
        if mark[0] == "}}":
            if top == "{{":
                opened.pop()
            elif len(opened) > 1 and opened[-2][0] == "{{":
                del opened[-2:]
        elif mark[0] == "{{" or (mark[0] == "-{" and sum(kind == "-{" for kind, _ in opened[-2 * _MAX_DEPTH :]) < _MAX_DEPTH):
            opened.append((mark[0], len(parts)))
        parts.append(mark[0])
    return "".join(parts) + wikitext[position:]


def _order(wikitext: str, language: str) -> tuple[str, ...]:
    first, second = (sum(map(wikitext.count, characters)) for characters in _TELLING[language])
    forms = [form.split() for form in _FORMS[language]]
    return tuple(forms[0] + forms[1] if first >= second else forms[1] + forms[0])


def _shown(inside: str, order: tuple[str, ...], language: str) -> str:
    """Return the text of one markup: empty if it only sets a rule or the title, its content if it has no rules."""
    head, bar, rest = inside.partition("|")
    flags = [flag.strip() for flag in head.split(";")] if bar and len(head) < 100 else []
    if flags and all(not flag or flag in _FLAGS or flag.lower() in order for flag in flags):
        if not _HIDDEN.isdisjoint(flags):
            return ""
        if "R" in flags or any(flag.lower() in order for flag in flags):
            return rest
        inside = rest
    rules = list(_RULES[language].finditer(inside))
    if not rules or inside[: rules[0].start()].strip():
        return inside
    ends = [rule.start() for rule in rules[1:]] + [len(inside)]
    texts = {rule[1].lower(): inside[rule.end() : end].strip().rstrip(";").rstrip() for rule, end in zip(rules, ends, strict=True)}
    return next((texts[form] for form in order if texts.get(form)), "")
