"""quire-eval: does reuse keep a model's answers? Prompts, measurements, reports, verdicts."""
