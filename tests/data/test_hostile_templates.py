"""Chat templates of the other party: they run in another process, and end there."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import mpu_cli
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.data import template_process
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.rendering import TemplateRefusalError, check_variables, render
from mpu_cli.data.row import Row
from mpu_cli.data.template_process import TemplateLimitError
from mpu_cli.data.templates import encode
from mpu_cli.errors import BadDataError, BadInputError, BadModelError
from tiny_models import CHATML, make_tokenizer

SOURCE = Path(mpu_cli.__file__).parents[1]
TURNS = [{"role": "user", "content": "Where?"}]
ROW = Row("forget.jsonl:3", prompt="Where was Mira born?", answer="In Oskel.")
TOO_MUCH = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "300 MB of text": "{{ 'x' * 300000000 }}",
    "300 MB in pieces": "{% for i in range(30000) %}{{ 'x' * 10000 }}{% endfor %}",
    "a list that grows": "{% set n = namespace(x=[1]) %}"
    "{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "17 MB of text": "{{ 'x' * 17000000 }}",
}
REFUSED = {
    "raises": "{{ raise_exception('no') }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ cycler.__init__.__globals__.os.system('id') }}",
    "code of a function": "{{ raise_exception.__code__.co_code }}",
    "format reads attributes": "{{ '{0.__class__.__mro__}'.format(1).x.y }}",
    "changes the messages": "{{ messages.append(1) }}",
    "reads a file": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}",
    "calls itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "nested without end": "{{" + "(" * 5000 + ")" * 5000 + "}}",
    "cannot be parsed": "{% if",
}


def rendered(template: str) -> str:
    """A template with one turn."""
    tokenizer = SimpleNamespace(special_tokens_map={})
    return render(template, TURNS, tokenizer, Prompting(), add_generation_prompt=False)


@pytest.mark.parametrize("name", TOO_MUCH)
def test_limits_of_time_memory_and_text(name):
    """The child meets them; this process does not grow, and the next template is rendered."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateLimitError, match=r"takes more|needs more|prints more"):
        rendered(TOO_MUCH[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert rendered("{{ messages[0].content }}") == "Where?"


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_sandbox_refuses(name):
    """An error with a reason; the same process goes on."""
    child = rendered("") or template_process._child
    with pytest.raises(TemplateRefusalError):
        rendered(REFUSED[name])
    assert template_process._child is child
    assert rendered("{{ messages[0].content }}") == "Where?"


def test_a_template_that_is_good_for_the_first_row_only():
    """Every row is rendered under the limits, so behaving well on a trial is of no use."""
    loop = TOO_MUCH["loops"]
    template = "{% if 'Tor' in messages[0].content %}" + loop + "{% endif %}" + CHATML
    tokenizer = make_tokenizer(template)
    assert encode(ROW, tokenizer, 500).input_ids
    with pytest.raises(BadModelError, match=r"rows\.jsonl:9: the tokenizer's chat template takes"):
        encode(Row("rows.jsonl:9", prompt="Who is Tor?", answer="A man."), tokenizer, 500)


def test_a_row_that_is_refused_is_one_short_line():
    """The reason is the template's own text, which can be anything."""
    template = "{{ raise_exception('\\x1b[2J\\u202e' + 'y' * 3000000) }}"
    with pytest.raises(BadDataError) as caught:
        encode(ROW, make_tokenizer(template), 500)
    assert len(caught.value.message) < 400
    assert "\x1b" not in caught.value.message


def test_a_template_that_cannot_be_parsed_and_variables():
    """Asking which variables it reads is an error of the model, not of mpu."""
    with pytest.raises(BadModelError, match="cannot be parsed"):
        check_variables(make_tokenizer("{% if"), Prompting(variables=(("a", "1"),)))


def test_the_child_can_do_nothing_else():
    """Code that got out of the sandbox finds no files, no processes, no environment."""
    program = (
        "import os, subprocess, sys\n"
        "from mpu_cli.data import template_program\n"
        "template_program._limit()\n"
        "for attempt in (lambda: open('/etc/passwd'), lambda: open('/tmp/x', 'w'),\n"
        "                lambda: __import__('socket').socket()):\n"
        "    try:\n"
        "        attempt(); print('could')\n"
        "    except (OSError, ImportError):\n"
        "        print('could not')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == ["could not"] * 3, done.stderr
    rendered("")
    environment = Path(f"/proc/{template_process._child._process.pid}/environ")
    if environment.exists():
        names = {entry.split(b"=")[0] for entry in environment.read_bytes().split(b"\0") if entry}
        libraries = {b"LD_LIBRARY_PATH"}  # where a Python finds its own
        assert names <= {b"PYTHONHASHSEED", b"PYTHONUTF8", b"LC_CTYPE"} | libraries


def test_a_process_that_does_not_start_is_not_the_templates_fault(tmp_path, monkeypatch):
    """The message has the last line of the interpreter."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libpython3.so: not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    template_process._child = None
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(BadInputError, match=r"does not start: libpython3\.so: not found"):
        rendered("")


def test_packages_are_found_where_the_parent_finds_them(tmp_path, monkeypatch):
    """By PYTHONPATH, in the user's own site-packages, or in an editable installation."""
    site = next(Path(path) for path in sys.path if (Path(path) / "jinja2").is_dir())
    for name in ("jinja2", "markupsafe"):
        (tmp_path / name).symlink_to(site / name)
    program = (
        f"import sys; sys.path.append({str(tmp_path)!r}); sys.path.append({str(SOURCE)!r})\n"
        "from mpu_cli.data.template_process import ask\n"
        "print(ask({'source': 'a{{ b }}', 'day': '2026-01-01', 'given': {'b': 'c'}}))\n"
    )
    bare = [sys.executable, "-S", "-c", program]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert "ac" in done.stdout, done.stderr


def test_the_child_ends_with_its_parent():
    """Also when the parent is killed: its end of the pipe closes."""
    program = (
        "import os, signal\n"
        "from types import SimpleNamespace as S\n"
        "from mpu_cli.data import template_process as t\n"
        "t.ask({'source': 'x'})\n"
        "print(t._child._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        if state.split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child still runs")


def test_many_rows_cost_little():
    """A rendering takes a fraction of a millisecond more than in this process."""
    assert [rendered("{{ messages[0].content }}") for _ in range(200)] == ["Where?"] * 200


def test_a_tokenizer_that_fails_on_a_row_is_named():
    """The library's own error names no file."""

    class Failing:
        name_or_path = "models/theirs"
        chat_template = None

        def __call__(self, text, **_):
            raise Exception("Missing [UNK]\x1b[2J token")

    with pytest.raises(
        BadModelError, match=r"^models/theirs: the tokenizer fails on a text: "
    ) as e:
        encode(Row("f:1", text="x"), Failing(), 9)
    assert "\x1b" not in e.value.message


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_of_megabytes_is_not_read(name, tmp_path):
    """Published templates have a few KiB."""
    (tmp_path / name).write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(BadModelError, match=rf"{name}: larger than 1 MiB"):
        check_side_files(tmp_path)
