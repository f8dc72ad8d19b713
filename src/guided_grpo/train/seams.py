"""The seams of TRL: methods of its `GRPOTrainer` that trainer.py overrides, by the stage that stands in each.

    plan        `_generate_and_score_completions`   who gets how much (controller, allocation, slicing, placement)
    rollout     `_generate_single_turn`             guidance behind the prompt while sampling, in the completion after
    rescue      `_generate`                         groups that failed are sampled again; rows keep their own prompts;
                                                    or rollouts of a group come in turn
    weights     `_generate`                         its `tool_mask` carries w_g
    verdict     `_calculate_rewards`                rewards see guidance + generated
    advantage   `_generate_and_score_completions`   per-arm baseline, credit of guidance
    feedback    `_generate_and_score_completions`   counts and controllers, of training batches alone
    arrange     `_prepare_inputs`                   micro-batches keep groups together
    forward     `_get_per_token_logps_and_entropies`  shared prefixes are read once
    loss        `_compute_loss`                     TRL's; told which tokens can move it
    log         `training_step`, `log`              metrics.jsonl, warnings, budgets
    checkpoint  `_save_checkpoint`, `_load_optimizer_and_scheduler`
    shards      `create_accelerator_and_postprocess`  FSDP2 on a CPU too

tests/train/test_seams.py fails with a plain message when TRL moves one of them.
"""

from __future__ import annotations

# Method of GRPOTrainer → the parameters that we pass through or read.
SEAMS: dict[str, tuple[str, ...]] = {
    "_generate_and_score_completions": ("inputs",),
    "_generate": ("prompts",),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_train_sampler": ("dataset",),
    "_set_signature_columns_if_needed": (),
    "_prepare_inputs": ("generation_batch",),
    "_get_per_token_logps_and_entropies": (
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ),
    "_compute_loss": ("model", "inputs"),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "log": ("logs", "start_time"),
    "create_accelerator_and_postprocess": (),
    "create_model_card": ("model_name", "dataset_name", "tags"),
}
