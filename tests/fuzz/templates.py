"""Any text as a chat template: its process writes conversations or fails, within its bounds, and answers the next request."""

from teleflm_jax.generate.template import Failed, Refused, Template

MESSAGES = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]


def template(content: bytes) -> None:
    """Compile and render it; not coverage of jinja2 guides the fuzzer but of what stands around it."""
    try:
        source = content.decode()
    except UnicodeDecodeError:
        return
    made = Template(source)
    for _ in range(2):
        try:
            texts = made.render([MESSAGES, MESSAGES[:1]], {"bos_token": "<s>", "add_generation_prompt": True})
        except (Failed, Refused):
            continue
        assert len(texts) == 2 and all(isinstance(text, str) for text in texts)


ENTRIES = {"template": template}
