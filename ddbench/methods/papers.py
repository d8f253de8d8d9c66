"""Facts of papers that several methods here come from, said once: ``facts = Facts(title=..., **papers.FRED)``."""

from __future__ import annotations

from typing import Any

FRED: dict[str, Any] = {
    "paper": "Frequency Domain-based Dataset Distillation",
    "authors": ("Donghyeok Shin", "Seungjae Shin", "Il-Chul Moon"),
    "venue": "NeurIPS",
    "year": 2023,
    "arxiv": "2311.08819",
    "code": "https://github.com/sdh0818/FreD",
}

DDIF: dict[str, Any] = {
    "paper": "Distilling Dataset into Neural Field",
    "authors": ("Donghyeok Shin", "HeeSun Bae", "Gyuwon Sim", "Wanmo Kang", "Il-Chul Moon"),
    "venue": "ICLR",
    "year": 2025,
    "arxiv": "2503.04835",
    "code": "https://github.com/aailab-kaist/DDiF",
}
