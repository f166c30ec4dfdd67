"""Chat templates run as ``transformers`` runs them."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from paceline.errors import InvalidRequestError
from paceline.models.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Größe?"},
    {"role": "assistant", "content": "1,80 m  "},
    {"role": "user", "content": "And in feet?"},
]
TOOLS = [{"type": "function", "function": {"name": "convert", "parameters": {"unit": "ft", "ß": [1, 2.5, None]}}}]

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}\n"
        "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n"
    ),
    "blocks on their own lines": (
        "{{ bos_token }}\n"
        "  {% for m in messages %}\n"
        "  {% if m.role == 'system' %}\n"
        "[SYS] {{ m.content }}\n"
        "  {% else %}\n"
        "{{ m.content }}{{ eos_token }}\n"
        "  {% endif %}\n"
        "  {% endfor %}\n"
    ),
    "tools as json": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ messages | tojson(sort_keys=true) }}",
    "loop controls": "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
    "namespace and undefined": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
        "{{ ns.n }}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ nothing }}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_text_is_that_of_transformers(name: str, add_generation_prompt: bool) -> None:
    source = TEMPLATES[name]
    options: dict[str, Any] = {"enable_thinking": False}
    expected = render_jinja_template(
        [CHAT], tools=TOOLS, chat_template=source, add_generation_prompt=add_generation_prompt, **SPECIAL, **options
    )[0][0]
    template = ChatTemplate(source, SPECIAL)
    assert template.render(CHAT, tools=TOOLS, add_generation_prompt=add_generation_prompt, **options) == expected


def test_the_date_is_todays() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }}", {})
    assert template.render([]) == datetime.now().strftime("%Y")


def test_the_templates_own_refusal_reaches_the_client() -> None:
    template = ChatTemplate("{{ raise_exception('Roles must alternate!') }}", {})
    with pytest.raises(InvalidRequestError, match="Roles must alternate!") as error:
        template.render(CHAT)
    assert error.value.param == "messages"


@pytest.mark.parametrize("source", ["{{ messages[7].content }}", "{{ messages[0].content + 1 }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_is_a_bad_request(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="chat template refuses"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(InvalidRequestError):
        ChatTemplate(source, {}).render(list(CHAT))


def test_a_template_with_an_error_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="error in line 2"):
        ChatTemplate("\n{% if %}", {})


CHATML = TEMPLATES["chatml"]


PLAIN = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}[end]{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "content"),
    [
        (PLAIN, "The answer"),
        (PLAIN, "The answer is "),
        (PLAIN, [{"type": "text", "text": "The "}]),
        (CHATML, "The answer"),
        (CHATML, "  Well,\n\n"),
    ],
)
def test_the_final_message_is_continued_as_transformers_does(source: str, content: Any) -> None:
    chat: list[dict[str, Any]] = [*CHAT[:2], {"role": "assistant", "content": content}]
    expected = render_jinja_template([chat], chat_template=source, continue_final_message=True)[0][0]
    prompt = ChatTemplate(source, {}).render(chat, add_generation_prompt=False, continue_final_message=True)
    assert prompt == expected
    assert chat[-1]["content"] is content  # the caller's messages are untouched


@pytest.mark.parametrize(
    ("source", "chat", "options"),
    [
        (CHATML, [], {"add_generation_prompt": False}),
        (CHATML, [{"role": "assistant", "content": None}], {"add_generation_prompt": False}),
        ("fixed", [{"role": "assistant", "content": "x"}], {"add_generation_prompt": False}),
        (CHATML, [{"role": "assistant", "content": "x"}], {"add_generation_prompt": True}),
    ],
)
def test_what_cannot_be_continued_is_refused(source: str, chat: list[dict[str, Any]], options: dict[str, bool]) -> None:
    with pytest.raises(InvalidRequestError, match="continue"):
        ChatTemplate(source, {}).render(chat, continue_final_message=True, **options)


def test_tokenizers_templates_and_sources_import_no_array_library() -> None:
    modules = "paceline.models.tokenizer, paceline.models.tokenizer_gguf, paceline.models.tokenizer_folder"
    modules += ", paceline.models.sources, paceline.models.chat_template"
    code = f"import sys, {modules}; assert not {{'torch', 'transformers', 'gguf', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.model
def test_the_default_models_tokenizer_loads_in_less_than_0_4_s(default_model: object) -> None:
    """Processor time of a fresh process, imports included, so that a busy machine does not matter."""
    code = "import time; from paceline.models.tokenizer import load_tokenizer as load; "
    code += f"load({str(default_model)!r}); print(time.process_time())"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(2)]
    assert min(float(run.stdout) for run in runs) < 0.4
