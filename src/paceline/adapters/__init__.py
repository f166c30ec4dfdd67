"""LoRA adapters on one base model."""
