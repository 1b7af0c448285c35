import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from teleflm_jax.corpus import languages

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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join), max_size=6))
def test_a_batch_is_named_as_the_library_names_each_text(library, texts):
    for text, language in zip(texts, languages.languages(texts), strict=True):
        scores = dict(library.rank(text))
        assert scores[language] == pytest.approx(max(scores.values()), rel=1e-5)  # sums of float32 in another order


def test_only_the_beginning_counts(library):
    english, german = (text for text, language in TEXTS.items() if language in ("en", "de"))
    assert languages.languages([english * 8 + german * 100]) == ["en"]
