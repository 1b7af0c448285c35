"""Folders of Hugging Face models, both ways: weights in safetensors, configurations, tokenizers."""
