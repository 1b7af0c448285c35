import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from teleflm_jax.corpus.filters import languages

TEXTS = {
    "The harbour was quiet that morning, and the boats that had come in with the tide were being unloaded by the men of the village.": "en",
    "今天早上港口很安静，随着潮水进来的船只正在由村里的人们卸货，孩子们在岸边看着他们工作。": "zh",
    "Der Hafen war an diesem Morgen still, und die Boote, die mit der Flut gekommen waren, wurden von den Männern entladen.": "de",
    "Утром в гавани было тихо, и жители деревни разгружали лодки, которые пришли вместе с приливом. Дети смотрели на это с берега.": "ru",
    "その朝の港は静かで、潮とともに入ってきた船から村の人々が荷物を降ろしていました。": "ja",
}


@pytest.fixture(scope="module")
def library():
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def test_languages_are_named():
    assert languages.languages(list(TEXTS)) == list(TEXTS.values())
    assert languages.languages([]) == []


PIECES = [word for text in TEXTS for word in text.split()] + list("今天早上港口很安静 \n\0'1é") + ["THE", "ßSS", "e\u0301", "\ud800"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join), max_size=6))
def test_a_batch_is_named_as_the_library_names_each_text(library, texts):
    for text, language in zip(texts, languages.languages(texts), strict=True):
        scores = dict(library.rank(text))
        best = max(score for name, score in scores.items() if languages.MACROLANGUAGES.get(name, name) == language)
        assert best == pytest.approx(max(scores.values()), rel=1e-5)  # sums of float32 in another order


@pytest.mark.parametrize(
    ("text", "named", "language"),
    [
        ("佢哋嗰日喺香港去咗邊度食嘢呀？我都唔知，不過聽講係旺角嗰間茶餐廳，啲嘢幾好食㗎。", "yue", "zh"),
        ("阿拉上海人搭侬讲，今朝天气邪气好，伊拉侪到外滩去白相了。", "wuu", "zh"),
        ("Dei fleste nordmenn skriv bokmål, men nynorsk vert nytta i mange kommunar på Vestlandet og i fjellbygdene.", "nn", "no"),
    ],
)
def test_a_kind_of_a_language_is_that_language(library, text, named, language):
    assert library.classify(text)[0] == named
    assert languages.languages([text]) == [language]


def test_only_the_beginning_counts(library):
    english, german = (text for text, language in TEXTS.items() if language in ("en", "de"))
    assert languages.languages([english * 8 + german * 100]) == ["en"]
