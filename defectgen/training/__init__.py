"""The training engine: one loop over phases, for backbones and for defects."""
