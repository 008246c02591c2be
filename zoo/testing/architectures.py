"""Tiny models of many architectures, made from transformers' configurations: what the sweep over models tries.

Nothing is downloaded: the weights are random numbers, large enough for a wrong mask, position or factor to show.
"""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
WINDOW = 8
"""Tokens that a sliding layer sees: fewer than the texts of the sweep have."""
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {
    "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4, "head_dim": 8, **EXPERTS,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "sliding_window": WINDOW,
               "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
                    "query_pre_attn_scalar": 8},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"sliding_window": WINDOW},
    "gpt2": {"n_inner": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gptj": {"rotary_dim": 4, "n_inner": 48},
    "gpt_bigcode": {"n_inner": 48},
    "gpt_neox": {},
    "codegen": {"rotary_dim": 4, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "bloom": {},
    "falcon": {"head_dim": None, "alibi": False, "new_decoder_architecture": True},
    "mpt": {},
    "stablelm": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "starcoder2": {"sliding_window": WINDOW},
    "glm": {},
    "glm4": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "exaone4": {"sliding_window": WINDOW, "sliding_window_pattern": 2,
                "layer_types": ["sliding_attention", "full_attention"]},
    "helium": {},
    "nemotron": {},
    "ernie4_5": {},
    "seed_oss": {},
    "apertus": {},
    "arcee": {},
    "nanochat": {"final_logit_softcapping": 2.0},
    "hyperclovax": {"logits_scaling": 0.1},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW,
                "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16, **EXPERTS},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 8.0},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 0},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
                 "topk_group": 1, **EXPERTS},
    "llama4_text": {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
                    "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2},
    "jamba": {"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8,
              "mamba_dt_rank": 4},
    "bamba": {"attn_layer_indices": [1], **MAMBA},
    "granitemoehybrid": {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["mamba", "attention"],
                         "shared_intermediate_size": 16, "logits_scaling": 8.0, **MAMBA},
    "falcon_h1": {"lm_head_multiplier": 0.1, "mamba_d_ssm": 64, **MAMBA},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "recurrent_gemma": {"logits_soft_cap": 2.0, "lru_width": 32, "attention_window_size": WINDOW,
                        "block_types": ["recurrent", "attention"]},
    "xlstm": {"output_logit_soft_cap": 2.0, "num_heads": 4, "chunk_size": 8},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 8,
              "mamba_dt_rank": 4, "n_mamba_heads": 2, "use_mamba_kernels": False},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 8,
               "mamba_headdim": 8, "n_mamba_heads": 8, "chunk_size": 8, "num_mem_blocks": 1},
    "qwen3_next": {"num_experts": 4, "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2,
                   "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                   "layer_types": ["linear_attention", "full_attention"], **EXPERTS},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48, "block_multiple_of": 8},
    "rwkv": {"context_length": 128, "attention_hidden_size": 32},
}  # fmt: skip
"""Kind of model → options of its configuration besides `SIZES`; None takes one of those away."""


def make(kind: str, tied: bool = False) -> Any:
    """A tiny causal language model in float32 on the CPU, in eval mode; always the same weights. Raises what it may."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {**SIZES, "tie_word_embeddings": tied, **ARCHITECTURES[kind]}
    options = {name: value for name, value in options.items() if value is not None}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options), dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.normal_(0, 0.2)
            elif not parameter.any():
                # Biases start as zeros, where a forgotten one would not show.
                parameter.normal_(0, 0.1)
    return model
