"""Items of C3, CHID and CSL as CLUE and FewCLUE publish them, brought to the columns that the task files beside this one name.

It is read by lm-evaluation-harness, with `datasets`. Source of the formats: the READMEs of github.com/nlpdata/c3 and of
github.com/CLUEbenchmark/FewCLUE.
"""

import json

import datasets

BLANK = "#idiom#"


def c3(rows: datasets.Dataset) -> datasets.Dataset:
    """`[[paragraph, …], [{question, choice, answer}, …], id]` to one item a question, of two to four choices."""
    items = []
    for row in rows:
        paragraphs, questions, *_ = json.loads(row["json"])
        for question in questions:
            items.append(
                {
                    "text": "\n".join(paragraphs),
                    "question": question["question"],
                    "choices": question["choice"],
                    "answer": question["choice"].index(question["answer"]),
                }
            )
    return datasets.Dataset.from_list(items)


def chid(rows: datasets.Dataset) -> datasets.Dataset:
    """`{content, candidates, answer}` to the text before the blank, and how it may go on."""
    items = []
    for row in rows:
        before, _, after = row["content"].partition(BLANK)
        items.append({"before": before, "endings": [idiom + after for idiom in row["candidates"]], "answer": int(row["answer"])})
    return datasets.Dataset.from_list(items)


def csl(rows: datasets.Dataset) -> datasets.Dataset:
    """`{abst, keyword, label}` to an abstract with and without its keywords."""
    items = [{"abstract": row["abst"], "keywords": "，".join(row["keyword"]), "answer": int(row["label"])} for row in rows]
    return datasets.Dataset.from_list(items)
