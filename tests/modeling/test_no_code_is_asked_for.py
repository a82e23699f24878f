"""With the `kernels` package installed, no configuration makes transformers load code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION

ATTENTION = (
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_internal",
    "attention_implementation",
)
EXPERTS = ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
CONFIGS = [
    *(
        {key: value}
        for key in (*ATTENTION, *EXPERTS)
        for value in ("org/kernel", "org/kernel@main:forward", {"": "org/kernel"})
    ),
    {"attn_implementation": "flash_attention_2"},
    {"attn_implementation": "kernels-community/flash-attn3"},
    {"kernel_config": {"RMSNorm": "org/kernel:RMSNorm"}},
    {"use_kernels": True},
    {"fusion_config": {"org/kernel": True}},
    {"quantization_config": {"quant_method": "mxfp4"}},
    {"auto_map": {"AutoConfig": "org/code--x.Y"}},
    {"tokenizer_class": "AutoModel"},
    {"transformers_weights": "org/other.safetensors"},
    {"configuration_files": ["config.5.0.0.json"]},
    {"text_config": {"model_type": "llama", "_attn_implementation": "org/kernel"}},
]
TOKENIZERS = [
    {"auto_map": {"AutoTokenizer": ["org/code--x.Y", None]}},
    {"tokenizer_class": "AutoModelForCausalLM"},
    {"tokenizer_class": "AutoTokenizer"},
    {"tokenizer_class": ["x"]},
    {"tokenizer_file": "/etc/passwd"},
    {"init_inputs": ["/etc/passwd"]},
    {"fast_tokenizer_files": ["tokenizer.5.0.0.json"]},
]
STUB = '''
"""Stands for the real package: notes what it is asked for."""
import os

def get_kernel(*args, **kwargs):
    with open(os.environ["ASKED"], "a") as file:
        file.write(repr(args) + "\\n")
    raise FileNotFoundError("there is no such kernel")

def _decorator(*args, **kwargs):
    return lambda thing: thing

use_kernel_forward_from_hub = use_kernelized_func = replace_kernel_forward_from_hub = _decorator

class _Anything:
    def __init__(self, *args, **kwargs): pass
    def __getattr__(self, name): return self

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Anything,), {})
'''
SCRIPT = """
import json, os, socket, sys
from pathlib import Path

def refused(*args, **kwargs):
    with open(os.environ["ASKED"], "a") as file:
        file.write("network\\n")
    raise OSError("no network here")

socket.getaddrinfo = socket.socket.connect = refused
from mpu_cli.errors import MpuError
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer

opened = 0
for directory in sorted(Path(sys.argv[1]).iterdir()):
    for opener in (load_tokenizer, load_model):
        try:
            opener(directory)
            opened += 1
        except MpuError:
            pass
before = Path(os.environ["ASKED"]).read_text() if Path(os.environ["ASKED"]).exists() else ""
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[2], local_files_only=True)
except Exception:
    pass
control = Path(os.environ["ASKED"]).read_text()
print(json.dumps({"opened": opened, "asked": before, "control": control}))
"""


@pytest.fixture(scope="module")
def answered(tiny_pair, tmp_path_factory) -> dict:
    """What the stub was asked for over all configurations, and then by transformers alone."""
    root = tmp_path_factory.mktemp("kernels")
    models, packages = root / "models", root / "packages"
    (packages / "kernels").mkdir(parents=True)
    (packages / "kernels" / "__init__.py").write_text(STUB)
    info = packages / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    )
    plain = tiny_pair("llama").model
    cases = [("config.json", case) for case in CONFIGS] + [
        ("tokenizer_config.json", case) for case in TOKENIZERS
    ]
    for number, (name, changes) in enumerate(cases):
        model = Path(shutil.copytree(plain, models / f"{number:02}"))
        (model / name).write_text(json.dumps({**json.loads((model / name).read_text()), **changes}))
    control = models / "00"
    assert "_attn_implementation" in (control / "config.json").read_text()
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "ASKED": str(root / "asked"),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(models), str(control)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_asked(answered):
    """No key of config.json or tokenizer_config.json reaches the kernels package or the network."""
    assert answered["asked"] == ""
    assert answered["opened"] > len(CONFIGS) + len(TOKENIZERS)  # most are opened, not refused


def test_the_stub_would_have_been_asked(answered):
    """Transformers alone loads the kernel that config.json names, so the stub can be called."""
    assert "org/kernel" in answered["control"]
