// Errors, life cycle and the exact prefix of LlamaEngine.
