"""Conversion of the items of C3, CHID and CSL, as CLUE and FewCLUE publish them, to the columns that the task files in this folder name.

lm-evaluation-harness runs this file, with `datasets`. Source of the formats: the READMEs of github.com/nlpdata/c3 and of
github.com/CLUEbenchmark/FewCLUE.
"""

import json

import datasets

BLANK = "#idiom#"


def c3(rows: datasets.Dataset) -> datasets.Dataset:
    """Convert `[[paragraph, …], [{question, choice, answer}, …], id]` to one item per question, with two to four choices."""
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
    """Convert `{content, candidates, answer}` to the text before the blank and its possible continuations."""
    items = []
    for row in rows:
        before, _, after = row["content"].partition(BLANK)
        items.append({"before": before, "endings": [idiom + after for idiom in row["candidates"]], "answer": int(row["answer"])})
    return datasets.Dataset.from_list(items)


def csl(rows: datasets.Dataset) -> datasets.Dataset:
    """Convert `{abst, keyword, label}` to an abstract with and without its keywords."""
    items = [{"abstract": row["abst"], "keywords": "，".join(row["keyword"]), "answer": int(row["label"])} for row in rows]
    return datasets.Dataset.from_list(items)
