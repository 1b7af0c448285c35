import itertools

from teleflm_jax.generate.request import LARGEST_CHOICE, LARGEST_SEED, SMALLEST_SEED, Request, derive_seed, number_choices


def ask(prompt, seed=0, choice=0, **more):
    return Request(prompt=prompt, max_tokens=4, seed=seed, choice=choice, **more)


def test_keys_differ_wherever_seed_number_or_prompt_does():
    prompts = [(), (0,), (1,), (0, 0), (1, 0), (0, 1), (1, 2, 3), (3, 2, 1), (70_000,), tuple(range(4_000))]
    seeds = (0, 1, 2**32 - 1, 2**63, LARGEST_SEED, -1, -2, SMALLEST_SEED)
    keys = {tuple(ask(*each).key) for each in itertools.product(prompts, seeds, (0, 1, 2, LARGEST_CHOICE))}
    assert len(keys) == 320


def test_a_key_is_always_the_same_and_settings_do_not_change_it():
    assert ask((1, 5, 6), seed=3, choice=2).key.tolist() == [1620070223, 2364348582]
    told = {"stop": ("x",), "logprobs": 2, "prompt_logprobs": True}
    assert ask((1, 5, 6), seed=3, choice=2, **told).key.tolist() == [1620070223, 2364348582]


def test_equal_prompts_are_numbered_and_others_among_them_change_nothing():
    requests = [ask((1, 2)), ask((1, 3)), ask((1, 2)), ask((1, 2), seed=1), ask((1, 2))]
    assert [request.choice for request in number_choices(requests)] == [0, 0, 1, 0, 2]
    assert number_choices(requests)[0] == requests[0]


def test_the_seed_of_an_item_follows_from_every_name():
    seeds = [
        derive_seed(0, "gsm8k", 1),
        derive_seed(1, "gsm8k", 1),
        derive_seed(0, "gsm8k", 2),
        derive_seed(0, "mmlu", 1),
        derive_seed(0, "gsm8k"),
    ]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**32 for seed in seeds) and seeds[0] == derive_seed(0, "gsm8k", 1)
