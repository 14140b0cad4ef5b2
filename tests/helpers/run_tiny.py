"""Trains the tiny world in a process of its own, to be stopped, resumed or run beside others."""

import argparse
import json
import os
import signal
from pathlib import Path

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records

from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.training import trainer as room


def kill_at(step: int, where: str) -> None:
    """Ends this process by SIGKILL: at a step, or in the middle of writing its checkpoint."""
    if where == "step":
        log = HMGRLTrainer._log_step

        def log_and_die(self, output, run, bar):
            log(self, output, run, bar)
            if run.state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        HMGRLTrainer._log_step = log_and_die
        return

    save = room.save_checkpoint

    def save_and_die(accelerator, output_dir, place, *rest):
        if place["step"] == step:
            state = accelerator.save_state

            def half(folder):
                state(folder)
                [weights] = Path(folder).glob("model*.safetensors")
                weights.write_bytes(weights.read_bytes()[:1000])
                os.kill(os.getpid(), signal.SIGKILL)

            accelerator.save_state = half
        save(accelerator, output_dir, place, *rest)

    room.save_checkpoint = save_and_die


def shard_on_cpu(bfloat16: bool) -> None:
    """Makes accelerate use FSDP2 on CPU, which it offers on GPUs alone."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["BertLayer"],
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
        mixed_precision_policy="bf16" if bfloat16 else None,
    )
    engine = HMGRLTrainer._engine

    def sharded(self, total):
        self.accelerator.state.fsdp_plugin = plugin
        for kind in (type(self.accelerator), type(self.accelerator.state)):
            kind.is_fsdp2 = property(lambda _: True)
        type(self.accelerator).distributed_type = property(lambda _: DistributedType.FSDP)
        return engine(self, total)

    HMGRLTrainer._engine = sharded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-step", type=int, default=0)
    parser.add_argument("--kill-where", default="step")
    parser.add_argument("--constant-noise", action="store_true")
    parser.add_argument("--fsdp", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--arguments", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "head_learning_rate": 3e-3}
    settings |= {"progress": False, "tracker": "none", "log_steps": 1, "patience": 0}
    settings |= {"feature_dir": str(options.folder.parent / "features")}
    torch.manual_seed(0)
    model = tiny_model()
    if options.constant_noise:
        # What one process draws for a whole batch, two draw for their halves.
        torch.randn_like = lambda x, **_: torch.full_like(x, 0.5)
        torch.randn = lambda *shape, **kinds: torch.zeros(*shape, **kinds) + 0.5
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if hasattr(part, "dropout_prob"):
                part.dropout_prob = 0.0
    model = model.to(getattr(torch, options.dtype))
    if options.fsdp:
        shard_on_cpu(options.bfloat16)
    if options.kill_step:
        kill_at(options.kill_step, options.kill_where)
    data = tiny_records(48)
    trainer = HMGRLTrainer(
        model,
        tiny_processor(),
        HMGRLTrainingArguments(str(options.folder), **(settings | options.arguments)),
        tiny_label_sets(),
        data["train"],
        data["validation"],
        data["test"],
    )
    trainer.train()


if __name__ == "__main__":
    main()
