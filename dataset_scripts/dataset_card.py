"""Dataset card of exported splits, generated from their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from .protocol import SPLITS

if TYPE_CHECKING:
    from .builder import GZSData

_TASKS = {"typing": "entity typing", "relation": "relation extraction"}

_TEXT = """---
{front}
---

# {title}

Splits for generalized zero-shot multimodal {task}: each sample has a sentence, optionally an image,
the character offsets of a mention (typing) or of head and tail (relation), and a label. Seen labels
have training samples; unseen labels occur in validation or test only, where they must be
distinguished from all seen labels. Made by `hmgrl` from the source "{source}" according to the
protocol of HMGRL ([arXiv 2603.16259](https://arxiv.org/abs/2603.16259)).

```python
from datasets import load_dataset

splits = load_dataset("{example_path}", "{config}")
```

With the groups of labels, their texts and the report:

```python
from dataset_scripts.export import load_exported

data = load_exported("{example_path}", "{config}")
```

Columns: `id`, `text`, `image` (may be null), `spans` (`[[start, end], …]`, end exclusive), `label`
(a `ClassLabel` over all names, the same in every split), `seen`, `split`.

## Licence

{license_text}

{configs}
"""

_CONFIG = """## {name}

Seed {seed}, protocol version {protocol_version}, grouped by: {group_by}, label text: {label_text}.
{records_in} records read, {records_out} in the splits, {left_out} left out.

| label | group | label text | train | validation | test |
|---|---|---|---|---|---|
{rows}
| **all** | | | {totals} |

```text
{summary}
```
"""


def make_card(
    configs: Mapping[str, GZSData],
    title: str | None,
    license: str,
    sizes: Mapping[str, Mapping[str, int]],
) -> str:
    """Returns the text of README.md.

    `datasets.load_dataset` compares the number of rows of each split with that of the card.

    Args:
        configs: The splits by name of their configuration, at least one.
        title: Title, or None to derive it from the source.
        license: Licence identifier of the Hub.
        sizes: Size of each split of each configuration in memory, in bytes.
    """
    first_name, first = next(iter(configs.items()))
    task = _TASKS[first.task]
    title = title or f"{first.report.source}: generalized zero-shot {task}"
    data = DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["text-classification"],
        tags=["generalized-zero-shot", "multimodal", task.replace(" ", "-"), "hmgrl"],
    )
    infos = DatasetInfosDict(
        {
            name: DatasetInfo(
                features=gzs.splits["train"].features,
                splits=SplitDict(
                    {
                        split: SplitInfo(split, sizes[name][split], len(gzs.splits[split]))
                        for split in SPLITS
                    }
                ),
            )
            for name, gzs in configs.items()
        }
    )
    infos.to_dataset_card_data(data)
    MetadataConfigs(
        {
            name: {
                "data_files": [
                    {"split": split, "path": f"{name}/{split}-*.parquet"} for split in SPLITS
                ]
            }
            for name in configs
        }
    ).to_dataset_card_data(data)
    return _TEXT.format(
        front=data.to_yaml(),
        title=title,
        task=task,
        source=first.report.source,
        example_path="path/or/repository",
        config=first_name,
        license_text=_license_text(license),
        configs="\n".join(_section(name, gzs) for name, gzs in configs.items()),
    )


def _license_text(name: str) -> str:
    theirs = "The texts and images belong to the authors of the source"
    if name == "unknown":
        return f"{theirs}; the licence is unknown. Check it before sharing the data."
    return f"{theirs} and are licensed under: {name}."


def _section(name: str, gzs: GZSData) -> str:
    """Returns the section of one configuration."""
    report = gzs.report
    rows = [
        f"| {_cell(label)} | {group} | {_cell(gzs.label_texts[label])} | "
        + " | ".join(f"{report.splits[split][label]:,}" for split in SPLITS)
        + " |"
        for label, group in gzs.partition.group_of.items()
    ]
    keys = ("seed", "protocol_version", "group_by", "label_text")
    return _CONFIG.format(
        name=name,
        **{key: report.settings[key] for key in keys},
        records_in=f"{report.records_in:,}",
        records_out=f"{report.records_out:,}",
        left_out=f"{report.records_left_out:,}",
        rows="\n".join(rows),
        totals=" | ".join(f"{sum(report.splits[split].values()):,}" for split in SPLITS),
        summary=report.summary().replace("```", "'''"),
    )


def _cell(text: str) -> str:
    """Escapes a text for the cell of a Markdown table."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return plain.replace("<", "&lt;").replace("`", "\\`")
