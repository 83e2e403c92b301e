"""What ``vllm_worker`` adds to each of vLLM's own workers (``worker_extension_cls``)."""

from __future__ import annotations

from typing import Any


class Extension:
    """Mixed into vLLM's worker class; its methods are called by ``collective_rpc``."""

    model_runner: Any

    def refresh_output_layer(self) -> None:
        """Have the output layer read its weights again after ``reload_weights``.

        Where it is tied to the input embedding a checkpoint holds no weights for it, so vLLM leaves it as it was. On a
        CPU that is a packed copy of the old weights, and every logit would go on coming from the model before.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

        for layer in self.model_runner.get_model().modules():
            method: Any = getattr(layer, "quant_method", None)
            if isinstance(layer, ParallelLMHead) and type(method) is UnquantizedEmbeddingMethod:
                method.process_weights_after_loading(layer)
