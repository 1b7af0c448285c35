"""Headings of an article, and the trailing sections that are cut off.

Source: report, section 2: "to remove reference and subsequent content". It names no headings; those below are our choice.
"""

import re
import unicodedata

TRAILING = {
    "bg": "източници|бележки|бележки под линия|цитирана литература|използвана литература|литература|библиография|външни препратки"
    "|външни връзки|вижте също|виж също|допълнителна литература|препратки|допълнително четене",
    "ca": "referències|notes|bibliografia|bibliografia complementària|enllaços externs|enllaços|vegeu també|fonts"
    "|notes a peu de pàgina|per a saber-ne més|per saber-ne més|lectures addicionals|anotacions",
    "cs": "reference|poznámky|literatura|externí odkazy|související články|odkazy|prameny|zdroje|další četba|citace|bibliografie",
    "da": "referencer|kilder|noter|litteratur|eksterne henvisninger|eksterne links|eksternt link|se også|henvisninger|fodnoter"
    "|bibliografi|kildehenvisninger|yderligere læsning|weblinks",
    "de": "einzelnachweise|literatur|sekundärliteratur|weblinks|weblink|siehe auch|anmerkungen|quellen|belege|fußnoten|endnoten"
    "|fuß-/endnoten|quellenangaben|nachweise|quellenverzeichnis|literaturverzeichnis|literaturhinweise|referenzen|externe links"
    "|bibliografie|bibliographie|weiterführende literatur",
    "en": "references|reference|notes|bibliography|general bibliography|external links|external link|see also|further reading"
    "|footnotes|citations|inline citations|sources|works cited|cited works|sources cited|cited sources|references cited"
    "|literature cited|endnotes|general references|general sources|specific references|explanatory notes|notes and citations"
    "|additional reading|external sources|related articles|web links|weblinks",
    "es": "referencias|notas|bibliografía|bibliografía adicional|bibliografía complementaria|enlaces externos|enlace externo"
    "|véase también|fuentes|notas al pie|citas|lecturas adicionales|lecturas recomendadas|para saber más|otras lecturas"
    "|obras citadas|ver también|vínculos externos|referencia",
    "fr": "références|référence|notes|note|bibliographie|bibliographie sommaire|liens externes|lien externe|voir aussi|annexes|annexe"
    "|sources|articles connexes|article connexe|pour approfondir|pour en savoir plus|compléments|notes de bas de page"
    "|lectures complémentaires|ouvrages cités|autres références",
    "hr": "izvori|bilješke|literatura|vanjske poveznice|vanjska poveznica|poveznice|vidi još|vidi i|vidi također|vrela|napomene"
    "|reference|bibliografija|dodatna literatura|povezani članci|srodni članci",
    "hu": "jegyzetek|források|irodalom|ajánlott irodalom|felhasznált irodalom|további irodalom|szakirodalom|bibliográfia"
    "|további információk|további információ|kapcsolódó szócikkek|kapcsolódó cikkek|lásd még|külső hivatkozások|külső linkek"
    "|hivatkozások|megjegyzések|lábjegyzetek|fordítás|fordítások",
    "it": "note|note esplicative|note bibliografiche|bibliografia|collegamenti esterni|altri progetti|voci correlate|vedi anche"
    "|riferimenti|fonti|annotazioni|approfondimenti|letture consigliate|riferimenti bibliografici",
    "ja": "脚注|脚註|脚注欄|注釈|註釈|注記|注|註|注解|出典|典拠|引用|引用元|引用文献|参考|参照|参考文献|参考資料|参考図書|参考書籍"
    "|参考サイト|参考リンク|文献|関連文献|関連資料|脚注関連文献|外部リンク|外部サイト|関連リンク|関連項目|関連記事|読書案内"
    "|文献案内|ソース",
    "nl": "bronnen|referenties|referentie|noten|voetnoten|voetnoot|bronvermelding|bronvermeldingen|literatuur|literatuurlijst"
    "|externe links|externe link|externe verwijzingen|externe verwijzing|zie ook|verwijzingen|bibliografie|noten en referenties"
    "|verder lezen|geraadpleegde literatuur|aantekeningen|weblinks",
    "pl": "przypisy|bibliografia|linki zewnętrzne|link zewnętrzny|zobacz też|uwagi|źródła|literatura|literatura przedmiotu"
    "|literatura dodatkowa|przypisy bibliograficzne|odnośniki|literatura uzupełniająca|zobacz także",
    "pt": "referências|referência|referências bibliográficas|notas|notas de rodapé|bibliografia|bibliografia adicional"
    "|ligações externas|ligação externa|links externos|link externo|ver também|veja também|fontes|leituras adicionais"
    "|leitura adicional|leitura recomendada|artigos relacionados|páginas externas",
    "ro": "note|referințe|referinţe|bibliografie|bibliografie suplimentară|legături externe|vezi și|vezi şi|surse|note de subsol"
    "|lectură suplimentară|lecturi suplimentare|citate bibliografice",
    "ru": "примечания|примечание|литература|ссылки|внешние ссылки|см. также|смотри также|смотрите также|источники|сноски|библиография"
    "|комментарии|использованная литература|список литературы|дополнительная литература|рекомендуемая литература"
    "|ссылки на источники|интернет-ссылки|научная литература",
    "sl": "sklici|sklic|viri|opombe|literatura|zunanje povezave|zunanja povezava|glej tudi|reference|nadaljnje branje|bibliografija"
    "|navedki|dodatno branje|glejte tudi",
    "sr": "референце|извори|напомене|литература|спољашње везе|спољне везе|види још|види такође|библиографија|белешке|даље читање"
    "|фусноте|додатна литература|повезани чланци|повезнице|везе|reference|izvori|napomene|literatura|spoljašnje veze"
    "|spoljne veze|vidi još|vidi takođe|bibliografija|beleške|dalje čitanje|fusnote|dodatna literatura|povezani članci",
    "sv": "referenser|noter|källor|källhänvisningar|källförteckning|fotnoter|litteratur|litteraturförteckning|externa länkar"
    "|extern länk|se även|vidare läsning|tryckta källor|webbkällor|bibliografi|anmärkningar|länkar|allmänna källor",
    "uk": "примітки|примітка|джерела|література|посилання|зовнішні посилання|див. також|дивіться також|дивись також|виноски"
    "|бібліографія|коментарі|використана література|додаткова література|список літератури|інтернет-ресурси"
    "|рекомендована література",
    "zh": "参考文献|參考文獻|参考资料|參考資料|参考来源|參考來源|参考|參考|参考书目|參考書目|参考链接|參考連結|参考网站|參考網站"
    "|资料来源|資料來源|来源|來源|出处|出處|文献|文獻|书目|書目|引用|引用来源|引用來源|脚注|腳註|脚註|注脚|註腳|注释|註釋|注解"
    "|註解|附注|附註|备注|備註|备註|注|註|外部链接|外部連結|外部連接|外部连接|外部鏈接|外部连结|外部链結|外部鏈結|相关链接"
    "|相關連結|相关条目|相關條目|关联条目|關聯條目|参见|參見|参看|參看|参阅|參閱|另见|另見|延伸阅读|延伸閱讀|扩展阅读|擴展閱讀"
    "|深入阅读|深入閱讀|相关文献|相關文獻|官方链接|官方連結",
}
"""Language -> headings of trailing sections, in lower case."""
_AND = {
    "bg": "и",
    "ca": "i",
    "cs": "a",
    "da": "og",
    "de": "und|u",
    "en": "and",
    "es": "y|e",
    "fr": "et",
    "hr": "i",
    "hu": "és",
    "it": "e|ed",
    "nl": "en|of|en/of",
    "pl": "i|oraz",
    "pt": "e",
    "ro": "și|şi",
    "ru": "и",
    "sl": "in",
    "sr": "и|i",
    "sv": "och",
    "uk": "та|і|й",
}
"""Language -> conjunctions in headings of two names."""
_HEADING = re.compile(r"^(=.*=)[ \t]*$", re.MULTILINE)
_MARKUP = re.compile(r"<ref\b[^\n]*|</?[A-Za-z][^<>\n]*>|\{\{[^{}\n]*\}\}|\[\[(?:[^\[\]|\n]*\|)?|\]\]|''+")
_SIGNS = "[,/&;·・、]"
_BETWEEN = {language: re.compile(rf"\s*{_SIGNS}\s*(?:(?:{words})\s+)?|\s+(?:{words})\s+") for language, words in _AND.items()}
_BETWEEN |= {language: re.compile(rf"\s*(?:{_SIGNS}|[与與及和或]|以及)\s*") for language in ("zh", "ja")}
_BETWEEN["ja"] = re.compile(rf"\s*(?:{_SIGNS}|と|および|及び|ならびに)\s*")


def title(heading: str) -> str:
    """Return the text of a heading, without the equals signs that both sides have."""
    line = heading.rstrip(" \t")
    text = line.strip("=")
    level = _level(line)
    return line[level : len(line) - level].strip(" \t") if text else line


def before_references(wikitext: str, language: str) -> str:
    """Cut the text at the first heading of references, links, notes and similar sections.

    A subsection with such a name ends the article only if nothing but such sections follows: "Literature" below "Culture" is ordinary text.
    """
    if language not in TRAILING:
        return wikitext
    names = frozenset(TRAILING[language].split("|"))
    found = [(_level(mark[1]), mark.start(), _is_trailing(mark[1], names, language)) for mark in _HEADING.finditer(wikitext)]
    highest_later = 99
    cut = len(wikitext)
    for level, start, is_trailing in reversed(found):
        if not is_trailing:
            highest_later = min(highest_later, level)
        elif level <= 2 or highest_later > level:
            cut = start
    return wikitext[:cut]


def _level(line: str) -> int:
    return min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")))


def _is_trailing(line: str, names: frozenset[str], language: str) -> bool:
    if len(line) > 200:
        return False
    name = unicodedata.normalize("NFC", _MARKUP.sub("", title(line))).replace("\u00a0", " ").strip(" \t:：.'").lower()
    return name in names or (language in _BETWEEN and all(part in names for part in _BETWEEN[language].split(name)))
