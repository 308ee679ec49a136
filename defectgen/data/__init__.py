"""From what users have (files, arrays, tensors) to checked training tensors on the CPU."""
