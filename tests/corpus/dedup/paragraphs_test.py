import collections
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import ParagraphConfig
from teleflm_jax.corpus.dedup import paragraphs
from teleflm_jax.documents.statistics import Amount, Statistics

LONG = "This line is long enough to be a paragraph that counts among others"
# joined from lists, since st.text draws from a union of alphabets as from one, where these would be rare
TEXTS = st.lists(st.lists(st.one_of(st.sampled_from("aAb 09\n\n中文é\u0301ß.,٣"), st.characters()), max_size=40).map("".join), max_size=6)


def plain(text, least):
    """(number, letters and digits) of a text's lines that count."""
    found = []
    for number, line in enumerate(text.lower().split("\n")):
        kept = [one for one in line if unicodedata.category(one)[0] in "LMN"]
        size = sum(3 if tokens.classes()[ord(one)] == tokens.SINGLE else 1 for one in kept)
        if kept and size >= least:
            found.append((number, "".join("0" if one in "0123456789" else one for one in kept)))
    return found


def lines_of(texts, least=0):
    """(text, line, hash)."""
    hashes, owners, lines = paragraphs.lines_of(texts, least)
    return list(zip(owners.tolist(), lines.tolist(), hashes.tolist(), strict=True))


def hash_of(line):
    [(_, _, found)] = lines_of([line])
    return found


def batches(*documents):
    """Of (number, text) or (number, text, domain, language)."""
    found = [(number, *(rest or ("web", "en")), text) for number, text, *rest in documents]
    return rows.batches(
        [(n, domain, "s", f"origin {n}", "", "", language, None, text) for n, domain, language, text in found], rows.DOCUMENT
    )


@given(TEXTS, st.integers(0, 12))
def test_lines_count_and_are_alike_as_in_plain_python(texts, least):
    wanted = [(i, number, kept) for i, text in enumerate(texts) for number, kept in plain(text, least)]
    found = lines_of(texts, least)
    assert [one[:2] for one in found] == [one[:2] for one in wanted]
    alike = {(one[2], other[2]) for one, other in zip(found, wanted, strict=True)}
    assert len(alike) == len({hashed for hashed, _ in alike}) == len({kept for _, kept in alike})


@given(TEXTS, st.integers(0, 12))
def test_neighbours_in_the_batch_do_not_matter(texts, least):
    alone = [(i, line, hashed) for i, text in enumerate(texts) for _, line, hashed in lines_of([text], least)]
    assert lines_of(texts, least) == alone


def test_case_digits_spaces_and_punctuation_do_not_count():
    assert hash_of("Page 12 of 345: Read on!") == hash_of("page 98 of 760 — READ ON") != hash_of("page 98 of 76 read on")
    assert hash_of("版权 所有，2020") == hash_of("版权所有2021。")


def test_both_chinese_scripts_are_one_paragraph_and_other_languages_keep_theirs():
    texts = ["我們去圖書館學習，今天天氣很好。", "我们去图书馆学习，今天天气很好。"]
    for language, config, alike in (("zh", {}, True), ("zh", {"simplify_chinese": False}, False), ("ja", {}, False)):
        read = batches(*((number, text, "web", language) for number, text in enumerate(texts)))
        [found] = paragraphs.hashes(read, config=ParagraphConfig(min_characters=10, **config))
        assert (found["hash"][0] == found["hash"][1]) == alike and found["id"].to_pylist() == [0, 1]


def test_short_lines_do_not_count_and_characters_of_unspaced_scripts_count_three_times():
    assert lines_of(["x" * 39, "中" * 13, "x" * 36 + "中", ". " * 80], 40) == []
    assert [one[:2] for one in lines_of(["x" * 40, "\n\n" + "中" * 14, "x" * 37 + "中"], 40)] == [(0, 0), (1, 2), (2, 0)]


def test_hashes_come_with_document_and_line_and_not_of_code_or_exempt_domains():
    documents = [(7, f"short\n{LONG}\n\n{LONG}"), (8, LONG, "github", "code"), (9, LONG, "papers", "en"), (10, LONG, "web", "de")]
    config = ParagraphConfig(exempt_domains=("papers",))
    [batch] = paragraphs.hashes(batches(*documents), config=config)
    assert batch.schema == paragraphs.HASHES
    assert [(row["language"], row["id"], row["line"]) for row in batch.to_pylist()] == [("en", 7, 1), ("en", 7, 3), ("de", 10, 0)]
    assert len(set(batch["hash"].to_pylist())) == 1
    assert list(paragraphs.hashes(batches(documents[1]), config=config)) == []
    [empty] = paragraphs.hashes(batches((1, "short")), config=config)
    assert empty.num_rows == 0 and empty.schema == paragraphs.HASHES


def without(documents, later, **settings):
    statistics = Statistics()
    found = statistics.leaving(
        paragraphs.without(statistics.entering(batches(*documents)), later, statistics, config=ParagraphConfig(**settings))
    )
    return {row["id"]: row["text"] for batch in found for row in batch.to_pylist()}, statistics


def test_named_lines_are_left_out_and_counted():
    text = f"first\n{LONG}\nthird\n{LONG}!\nlast"
    left, statistics = without([(1, text), (2, text), (3, LONG)], {1: [3, 1], 3: []}, min_left=0.1)
    assert left == {1: "first\nthird\nlast", 2: text, 3: LONG}
    assert statistics.changed == {"repeated paragraph": Amount(2, 2 * len(LONG) + 1)} and not statistics.dropped
    assert [sample["text"] for sample in statistics.samples["repeated paragraph"]] == [LONG, LONG + "!"]


def test_documents_with_too_little_left_are_dropped_and_counted():
    text = f"{LONG}\n{'x' * len(LONG)}"
    left, statistics = without([(1, text), (2, LONG), (3, LONG + "\n \n")], {1: [0], 2: [0], 3: [0]})
    assert left == {1: "x" * len(LONG)}
    assert statistics.dropped == {"mostly repeated paragraphs": Amount(2, 2 * len(LONG) + 3)}
    assert statistics.into.documents == 3 and statistics.out["web en"].documents == 1
    assert without([(1, text)], {1: [0]}, min_left=0.6)[0] == {} == without([(2, LONG)], {2: [0]}, min_left=0)[0]


@given(st.lists(st.lists(st.sampled_from(["one line", "Another, line", "another line", "", "三"]), min_size=1, max_size=6), max_size=5))
def test_without_what_stood_before_every_paragraph_stands_once(documents):
    texts = list(map("\n".join, documents))
    seen, later = set(), collections.defaultdict(list)
    for text, line, hashed in lines_of(texts):
        if hashed in seen:
            later[text].append(line)
        seen.add(hashed)
    left, _ = without(list(enumerate(texts)), later, min_left=0)
    again = [hashed for _, _, hashed in lines_of(list(left.values()))]
    assert len(again) == len(set(again)) and set(again) == seen
