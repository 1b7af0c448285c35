import pytest

from teleflm_jax.corpus.read.wikitext import plain


@pytest.mark.parametrize(
    ("language", "source", "shown"),
    [
        ("en", "the French {{lang|fr|mot}} (''{{lang|fr|mot juste}}'')", "the French mot (mot juste)"),
        (
            "en",
            "'''Berlin''' ({{lang-de|Berlin}}; {{IPAc-en|b|ɜːr|ˈ|l|ɪ|n}}; born {{birth date|1950|1|2}}) is",
            "Berlin (Berlin; bɜːrˈlɪn; born 1950-01-02) is",
        ),
        ("en", "{{nihongo|'''Aikido'''|合気道|Aikidō|lead=yes}} is", "Aikido is"),
        (
            "en",
            "{{convert|1,300|mi|km}} long, {{convert|6|ft|4|in|cm}} tall, {{cvt|22|-|25|C|F}} warm",
            "1,300 mi long, 6 ft 4 in tall, 22–25 °C warm",
        ),
        ("en", "at ({{coord|52|31|N|13|24|E}}) and {{coord|52.5|13.4}}, here", "at and, here"),
        ("en", "{{As of|2014}} or {{as of|2014|lc=y}}", "As of 2014 or as of 2014"),
        ("en", "a{{ndash}}b {{snd}} c{{nbsp}}d, Moe{{'}}s ''x''", "a–b – c\xa0d, Moe's x"),
        ("en", "It has {{formatnum:58800}} people, {{formatnum:{{#expr:1}}}} or {{#if:x|y}} more", "It has 58800 people, or more"),
        ("en", "listen to {{audio|a.ogg|this}} {{x|a.ogg|that}}", "listen to that"),
        ("en", "See {{ill|A book|de|Ein Buch|lt=the book}} and {{Interlanguage link|Dog|de|Hund}}", "See the book and Dog"),
        (
            "en",
            "text.{{sfn|Smith|2001|p=5}} More{{efn|a note}} text {{citation needed|date=May 2017}} ends.{{rp|5}}",
            "text. More text ends.",
        ),
        ("en", "{{Infobox|a=b}}\n{{Main|Port}}\n{{clear}}Words", "Words"),
        (
            "en",
            "He wrote:\n{{quote|Many words.|An author}}\n{{blockquote|text=More words.}}\nEnd",
            "He wrote:\nMany words.\nMore words.\nEnd",
        ),
        ("en", "a [{{cite web|url=http://a.b|title=c}}] b {{cite book|d}} e", "a b e"),
        (
            "fr",
            "le {{date-|19 janvier}}, {{unité|3797|m}} ; au {{s-|XXI}}, Otton {{Ier}} : ''{{langue|de|Wort}}''",
            "le 19 janvier, 3797 m ; au XXIe siècle, Otton Ier : Wort",
        ),
        ("fr", "la {{Lien|langue=en|trad=A|fr=B|texte=C}} et {{lien|fr=B}} dit {{citation|D}}", "la C et B dit D"),
        ("de", 'ein Brief: {{"|Es liegt am Tage.}}<ref>x</ref> Punkt', "ein Brief: Es liegt am Tage. Punkt"),
        ("it", "con {{formatnum:3769495}} abitanti e {{TA|70 km}}", "con 3769495 abitanti e 70 km"),
        ("hu", "létszámát {{formatnum:14265}} főre", "létszámát 14265 főre"),
        ("pt", "no {{séc|XIII}}, os {{fmtn|90000}}", "no século XIII, os 90000"),
        ("ca", "del {{segle|XIII|s}}", "del segle XIII"),
        (
            "ru",
            "(нем. {{lang-de|Berlin}} {{IPA|[bɛɐ̯ˈliːn]}}, {{audio|De-Berlin.ogg|звук}}) — {{нп5|Имя|Имя|de|N}}",
            "(нем. Berlin [bɛɐ̯ˈliːn]) — Имя",
        ),
        ("uk", "'''Берлін''' ({{lang-de|Berlin}}) — {{формат|5}}", "Берлін (Berlin) — 5"),
        (
            "ja",
            "ボンに置かれる{{仮リンク|ベルリン・ボン法|en|Berlin-Bonn Act}}により{{sfn|A|2001}}。",
            "ボンに置かれるベルリン・ボン法により。",
        ),
        ("ja", "'''市'''（{{lang|de|Stadt}}、{{要出典|date=2020年}}）は{{convert|3|C|F}}で", "市（Stadt）は3 °Cで"),
        (
            "zh",
            "'''柏林'''（{{lang-de|Berlin}}{{IPA-de|x||a.ogg}}）的{{link-de|总督|Markgraf}}、{{tsl|en|Port|港}}{{来源请求|甲}}",
            "柏林（Berlin）的总督、港",
        ),
        ("ru", "{{s|5 км}} {{год|1950}} {{nobr|в 5}} часов {{ref-en}}\n{{x|y}} {{z|w}}", "5 км 1950 в 5 часов"),
        ("ja", "は{{読み仮名|漢字|かな}}である{{Refnest|group=注|x}}。", "は漢字である。"),
        ("zh", "漢字{{lang|zh|{{linktext|港}}}}", "漢字港"),
    ],
)
def test_templates_show_what_their_call_says(language, source, shown):
    assert plain(source, language) == shown
