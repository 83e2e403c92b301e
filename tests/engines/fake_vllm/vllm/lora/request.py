from __future__ import annotations


class LoRARequest:
    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str) -> None:
        self.lora_int_id = lora_int_id
        self.lora_path = lora_path
