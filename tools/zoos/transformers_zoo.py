# ruff: noqa: E501 - a row of the table is one line
"""Architectures of transformers with tiny random weights: a class, the settings of its config, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tools.zoos.example import Example, LeftOutError, declare_vision

WORDS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**WORDS, **BODY, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2}
LONE = {**TEXT, "num_key_value_heads": 4}
GPT = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
PAIR = {
    **WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
}
T5 = {**WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
IMAGE = {**BODY, "image_size": 32, "patch_size": 8}
SPEECH = {
    **BODY,
    "vocab_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
EXPERTS = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
SERIES = {"prediction_length": 4, "context_length": 12, "d_model": 16, "num_time_features": 1}

Row = tuple[str, Mapping[str, Any], str]

MODELS: Mapping[str, Row] = {
    # text encoders
    "albert": ("AlbertForMaskedLM", {**TEXT, "embedding_size": 16}, "text"),
    "bert": ("BertForMaskedLM", TEXT, "masked"),
    "big_bird": ("BigBirdForMaskedLM", {**TEXT, "attention_type": "original_full"}, "text"),
    "bigbird_pegasus": ("BigBirdPegasusForConditionalGeneration", {**PAIR, "attention_type": "original_full"}, "pair"),
    "canine": ("CanineForSequenceClassification", {**BODY, "downsampling_rate": 4}, "long"),
    "convbert": ("ConvBertForMaskedLM", {**TEXT, "embedding_size": 32}, "text"),
    "deberta": ("DebertaForMaskedLM", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "text"),
    "deberta_v2": ("DebertaV2ForMaskedLM", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "text"),
    "distilbert": ("DistilBertForMaskedLM", {**WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, "text"),
    "electra": ("ElectraForMaskedLM", {**TEXT, "embedding_size": 16}, "text"),
    "ernie": ("ErnieForMaskedLM", TEXT, "text"),
    "esm": ("EsmForMaskedLM", {**TEXT, "position_embedding_type": "rotary"}, "text"),
    "fnet": ("FNetForMaskedLM", TEXT, "text"),
    "funnel": ("FunnelForMaskedLM", {**WORDS, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1]}, "text"),
    "ibert": ("IBertForMaskedLM", TEXT, "text"),
    "layoutlm": ("LayoutLMForMaskedLM", TEXT, "text"),
    "longformer": ("LongformerForMaskedLM", {**TEXT, "attention_window": 4}, "text"),
    "megatron_bert": ("MegatronBertForMaskedLM", TEXT, "text"),
    "mobilebert": ("MobileBertForMaskedLM", {**TEXT, "embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16, "num_hidden_layers": 2}, "text"),
    "modernbert": ("ModernBertForMaskedLM", {**TEXT, "cls_token_id": 1, "sep_token_id": 2}, "text"),
    "mpnet": ("MPNetForMaskedLM", TEXT, "text"),
    "mra": ("MraForMaskedLM", TEXT, "text"),
    "nystromformer": ("NystromformerForMaskedLM", {**TEXT, "num_landmarks": 4, "segment_means_seq_len": 12}, "text"),
    "rembert": ("RemBertForMaskedLM", {**TEXT, "input_embedding_size": 16, "output_embedding_size": 24}, "text"),
    "roberta": ("RobertaForMaskedLM", TEXT, "masked"),
    "roformer": ("RoFormerForMaskedLM", TEXT, "text"),
    "splinter": ("SplinterModel", TEXT, "text"),
    "squeezebert": ("SqueezeBertForMaskedLM", {**TEXT, "embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2, "post_attention_groups": 1, "intermediate_groups": 2, "output_groups": 2}, "text"),
    "xlm": ("XLMWithLMHeadModel", {**WORDS, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 99}, "text"),
    "xlnet": ("XLNetLMHeadModel", {**WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, "text"),
    "xmod": ("XmodForMaskedLM", {**TEXT, "languages": ["en"], "default_language": "en"}, "text"),
    "yoso": ("YosoForMaskedLM", {**TEXT, "use_expectation": True}, "text"),
    # decoders
    "bloom": ("BloomForCausalLM", {**WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "causal"),
    "codegen": ("CodeGenForCausalLM", {**GPT, "rotary_dim": 4}, "causal"),
    "cohere": ("CohereForCausalLM", LONE, "causal"),
    "ctrl": ("CTRLLMHeadModel", {**GPT, "dff": 64}, "causal"),
    "falcon": ("FalconForCausalLM", {**TEXT, "new_decoder_architecture": False, "multi_query": False}, "causal"),
    "falcon_multi_query": ("FalconForCausalLM", {**TEXT, "new_decoder_architecture": False}, "causal"),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 8}, "causal"),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8}, "causal"),
    "gemma3": ("Gemma3ForCausalLM", {**GROUPED, "head_dim": 8}, "causal"),
    "glm": ("GlmForCausalLM", {**GROUPED, "head_dim": 8}, "causal"),
    "gpt2": ("GPT2LMHeadModel", GPT, "causal"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT, "causal"),
    "gpt_neo": ("GPTNeoForCausalLM", {**WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64}, "causal"),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT, "causal"),
    "gpt_oss": ("GptOssForCausalLM", {**EXPERTS, "head_dim": 8}, "causal"),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4}, "causal"),
    "granite": ("GraniteForCausalLM", GROUPED, "causal"),
    "jetmoe": ("JetMoeForCausalLM", {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8, "intermediate_size": 64, "num_local_experts": 4}, "causal"),
    "llama": ("LlamaForCausalLM", LONE, "causal"),
    "llama_grouped": ("LlamaForCausalLM", GROUPED, "causal"),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 8}, "causal"),
    "mixtral": ("MixtralForCausalLM", EXPERTS, "causal"),
    "mpt": ("MptForCausalLM", {**WORDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2}, "causal"),
    "nemotron": ("NemotronForCausalLM", GROUPED, "causal"),
    "olmo": ("OlmoForCausalLM", LONE, "causal"),
    "olmo2": ("Olmo2ForCausalLM", LONE, "causal"),
    "opt": ("OPTForCausalLM", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}, "causal"),
    "persimmon": ("PersimmonForCausalLM", TEXT, "causal"),
    "phi": ("PhiForCausalLM", TEXT, "causal"),
    "phi3": ("Phi3ForCausalLM", GROUPED, "causal"),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, "causal"),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}, "causal"),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}, "causal"),
    "smollm3": ("SmolLM3ForCausalLM", GROUPED, "causal"),
    "stablelm": ("StableLmForCausalLM", LONE, "causal"),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED, "causal"),
    "xglm": ("XGLMForCausalLM", {**WORDS, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64}, "causal"),
    # state space, recurrent
    "falcon_mamba": ("FalconMambaForCausalLM", {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "causal"),
    "mamba": ("MambaForCausalLM", {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "causal"),
    "mamba2": ("Mamba2ForCausalLM", {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 4}, "causal"),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", {**GROUPED, "lru_width": 32, "attention_window_size": 8}, "causal"),
    "rwkv": ("RwkvForCausalLM", {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64}, "causal"),
    # encoder and decoder
    "bart": ("BartForConditionalGeneration", PAIR, "pair"),
    "blenderbot": ("BlenderbotForConditionalGeneration", PAIR, "pair"),
    "led": ("LEDForConditionalGeneration", {**PAIR, "attention_window": 4, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}, "pair"),
    "longt5": ("LongT5ForConditionalGeneration", {**T5, "local_radius": 4}, "pair"),
    "m2m_100": ("M2M100ForConditionalGeneration", PAIR, "pair"),
    "marian": ("MarianMTModel", PAIR, "pair"),
    "mbart": ("MBartForConditionalGeneration", PAIR, "pair"),
    "mvp": ("MvpForConditionalGeneration", PAIR, "pair"),
    "pegasus": ("PegasusForConditionalGeneration", PAIR, "pair"),
    "pegasus_x": ("PegasusXForConditionalGeneration", {**PAIR, "num_global_tokens": 4, "block_size": 4}, "pair"),
    "plbart": ("PLBartForConditionalGeneration", PAIR, "pair"),
    "prophetnet": ("ProphetNetForConditionalGeneration", {**WORDS, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}, "pair"),
    "switch_transformers": ("SwitchTransformersForConditionalGeneration", {**T5, "num_experts": 4}, "pair"),
    "t5": ("T5ForConditionalGeneration", T5, "pair"),
    "t5_gated": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "pair"),
    "umt5": ("UMT5ForConditionalGeneration", T5, "pair"),
    # vision
    "beit": ("BeitForImageClassification", {**IMAGE, "use_relative_position_bias": True}, "image"),
    "bit": ("BitForImageClassification", {**STAGES, "embedding_size": 16, "num_groups": 4}, "image"),
    "convnext": ("ConvNextForImageClassification", STAGES, "image"),
    "convnextv2": ("ConvNextV2ForImageClassification", STAGES, "image"),
    "cvt": ("CvtForImageClassification", {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 4]}, "image"),
    "data2vec_vision": ("Data2VecVisionForImageClassification", IMAGE, "image"),
    "deit": ("DeiTForImageClassification", IMAGE, "image"),
    "dinov2": ("Dinov2ForImageClassification", IMAGE, "image"),
    "dpt": ("DPTForDepthEstimation", {**IMAGE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}, "image"),
    "efficientnet": ("EfficientNetForImageClassification", {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}, "image 64"),
    "focalnet": ("FocalNetForImageClassification", {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "hidden_sizes": [16, 32]}, "image"),
    "glpn": ("GLPNForDepthEstimation", {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 16}, "image 64"),
    "hiera": ("HieraForImageClassification", {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}, "image 64"),
    "ijepa": ("IJepaForImageClassification", IMAGE, "image"),
    "levit": ("LevitForImageClassification", {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}, "image 64"),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25, "min_depth": 4}, "image"),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25, "min_depth": 4}, "image 64"),
    "mobilevit": ("MobileViTForImageClassification", {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}, "image 64"),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.25}, "image 64"),
    "poolformer": ("PoolFormerForImageClassification", STAGES, "image"),
    "pvt": ("PvtForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}, "image 64"),
    "pvt_v2": ("PvtV2ForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}, "image 64"),
    "regnet": ("RegNetForImageClassification", {**STAGES, "embedding_size": 16, "groups_width": 8}, "image"),
    "resnet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 16}, "image"),
    "segformer": ("SegformerForSemanticSegmentation", {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 32}, "image 64"),
    "swiftformer": ("SwiftFormerForImageClassification", {"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}, "image 64"),
    "swin": ("SwinForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, "image"),
    "swinv2": ("Swinv2ForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, "image"),
    "timesformer": ("TimesformerForVideoClassification", {**IMAGE, "num_frames": 2}, "video"),
    "videomae": ("VideoMAEForVideoClassification", {**IMAGE, "num_frames": 2, "tubelet_size": 2}, "video"),
    "vit": ("ViTForImageClassification", IMAGE, "image"),
    "vit_msn": ("ViTMSNForImageClassification", IMAGE, "image"),
    "vivit": ("VivitForVideoClassification", {**IMAGE, "num_frames": 2, "tubelet_size": [2, 8, 8]}, "video"),
    "yolos": ("YolosForObjectDetection", {**IMAGE, "image_size": [32, 32], "num_detection_tokens": 5}, "image"),
    # audio
    "audio_spectrogram_transformer": ("ASTForAudioClassification", {**BODY, "max_length": 24, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}, "spectrogram"),
    "data2vec_audio": ("Data2VecAudioForCTC", {**SPEECH, "conv_pos_kernel_size": 5}, "wave"),
    "hubert": ("HubertForCTC", {**SPEECH, "feat_extract_norm": "group", "do_stable_layer_norm": False}, "wave"),
    "sew": ("SEWForCTC", {**SPEECH, "squeeze_factor": 2}, "wave"),
    "speech_to_text": ("Speech2TextForConditionalGeneration", {**PAIR, "max_source_positions": 64, "max_target_positions": 64, "conv_channels": 16, "input_feat_per_channel": 16}, "spectrogram pair"),
    "unispeech": ("UniSpeechForCTC", SPEECH, "wave"),
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH, "wave"),
    "wav2vec2_bert": ("Wav2Vec2BertForCTC", {**BODY, "vocab_size": 32, "feature_projection_input_dim": 16, "output_hidden_size": 32}, "features"),
    "wav2vec2_conformer": ("Wav2Vec2ConformerForCTC", SPEECH, "wave"),
    "wavlm": ("WavLMForCTC", SPEECH, "wave"),
    "whisper": ("WhisperForConditionalGeneration", {**PAIR, "max_source_positions": 12, "max_target_positions": 16, "num_mel_bins": 16}, "whisper"),
    # several kinds of input
    "clip": ("CLIPModel", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}, "clip"),
    "clipseg": ("CLIPSegForImageSegmentation", {"text_config": TEXT, "vision_config": {**IMAGE, "num_hidden_layers": 4}, "projection_dim": 16, "extract_layers": [0, 1], "reduce_dim": 16}, "clip"),
    "siglip": ("SiglipModel", {"text_config": TEXT, "vision_config": IMAGE}, "clip"),
    "vilt": ("ViltForQuestionAnswering", {**TEXT, **IMAGE}, "clip"),
    "lxmert": ("LxmertModel", {**WORDS, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16}, "regions"),
    "visual_bert": ("VisualBertModel", {**TEXT, "visual_embedding_dim": 16}, "visual"),
    "git": ("GitForCausalLM", {**TEXT, "vision_config": IMAGE}, "clip"),
    "blip": ("BlipForImageTextRetrieval", {"text_config": {**TEXT, "encoder_hidden_size": 32}, "vision_config": IMAGE, "image_text_hidden_size": 16}, "clip"),
    # series, sets, robots
    "autoformer": ("AutoformerModel", SERIES, "series"),
    "decision_transformer": ("DecisionTransformerModel", {**GPT, "hidden_size": 32, "state_dim": 5, "act_dim": 3, "max_ep_len": 32}, "robot"),
    "patchtsmixer": ("PatchTSMixerForPrediction", {"context_length": 16, "patch_length": 4, "patch_stride": 4, "num_input_channels": 3, "d_model": 16, "num_layers": 2, "prediction_length": 4}, "past"),
    "patchtst": ("PatchTSTForPrediction", {"context_length": 16, "patch_length": 4, "patch_stride": 4, "num_input_channels": 3, "d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 32, "prediction_length": 4}, "past"),
    "perceiver": ("PerceiverForMaskedLM", {**WORDS, "d_model": 16, "d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 1, "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "qk_channels": 16, "v_channels": 32, "max_position_embeddings": 16}, "text"),
}  # fmt: skip

LEFT_OUT: Mapping[str, str] = {}


def names() -> list[str]:
    """Every architecture of the table."""
    return list(MODELS)


def build(name: str) -> Example:
    """A model of an architecture, and its inputs."""
    declare_vision()
    import transformers

    if name in LEFT_OUT:
        raise LeftOutError(LEFT_OUT[name])
    title, settings, inputs = MODELS[name]
    kind: Any = getattr(transformers, title)
    config = kind.config_class(**settings)
    for part in (config, getattr(config, "text_config", None)):
        if part is not None and getattr(part, "use_cache", False):
            part.use_cache = False
    config._experts_implementation = (
        "batched_mm"  # the others choose experts by what they compute, or in an op of their own
    )
    return Example(kind(config), (), drawn(inputs))


def drawn(kind: str) -> dict[str, torch.Tensor]:
    """Inputs of a kind: two of each."""
    kind, _, size = kind.partition(" ")
    side = int(size) if size.isdigit() else 32
    ids = torch.randint(3, 90, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 9:] = 0
    past = torch.randn(2, 19)
    found: dict[str, dict[str, Any]] = {
        "text": {"input_ids": ids},
        "long": {"input_ids": torch.randint(3, 90, (2, 32))},
        "masked": {"input_ids": ids, "attention_mask": mask},
        "causal": {"input_ids": ids},
        "pair": {"input_ids": ids, "decoder_input_ids": ids[:, :7].flip(1).contiguous()},
        "image": {"pixel_values": torch.randn(2, 3, side, side)},
        "video": {"pixel_values": torch.randn(2, 2, 3, 32, 32)},
        "wave": {"input_values": torch.randn(2, 800)},
        "whisper": {"input_features": torch.randn(2, 16, 24), "decoder_input_ids": ids[:, :7].contiguous()},
        "clip": {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)},
        "regions": {"input_ids": ids, "visual_feats": torch.randn(2, 5, 16), "visual_pos": torch.rand(2, 5, 4)},
        "visual": {"input_ids": ids, "visual_embeds": torch.randn(2, 5, 16)},
        "features": {"input_features": torch.randn(2, 24, 16)},
        "past": {"past_values": torch.randn(2, 16, 3)},
        "series": {
            "past_values": past,
            "past_time_features": torch.randn(2, 19, 1),
            "past_observed_mask": torch.ones(2, 19),
            "future_values": torch.randn(2, 4),
            "future_time_features": torch.randn(2, 4, 1),
        },
        "robot": {
            "states": torch.randn(2, 6, 5),
            "actions": torch.randn(2, 6, 3),
            "rewards": torch.randn(2, 6, 1),
            "returns_to_go": torch.randn(2, 6, 1),
            "timesteps": torch.arange(6).expand(2, 6).contiguous(),
            "attention_mask": torch.ones(2, 6),
        },
        "spectrogram": {
            "": {"input_values": torch.randn(2, 24, 16)},
            "pair": {"input_features": torch.randn(2, 24, 16), "decoder_input_ids": ids[:, :7].contiguous()},
        }.get(size, {}),
    }
    return found[kind]
