"""Mean loss per answer token on the forget and the retain rows.

`measure.py FORGET RETAIN MODEL…`.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from unlearn import loss, read

print(f"{'':<12}{'forget':>8}{'retain':>8}")
for path in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    sets = [read(rows, AutoTokenizer.from_pretrained(path)) for rows in sys.argv[1:3]]
    with torch.no_grad():
        values = [sum(loss(model, [row]).item() for row in rows) / len(rows) for rows in sets]
    print(f"{path.rpartition('/')[2]:<12}{values[0]:>8.3f}{values[1]:>8.3f}")
